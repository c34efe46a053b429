"""How rows that share a prompt are laid out for the model, and which layout is cheapest.

Three layouts give the same hidden states:

- `separate`: every row for itself, right-padded, in batches of similar length. Costs K (P + C) tokens for K completions
  of C tokens behind a prompt of P.
- `block_mask`: prompt and completions in one sequence, [P | C_1 | ... | C_K], where a completion sees the prompt and
  itself. Costs P + K C tokens, and attention over all (P + K C)^2 pairs.
- `prefix_cache`: the prompt first; then the completions, one or several in a sequence, on the prompt's keys and values.
  Costs P + K C tokens in two passes, with less attention in vain.

What is shared is the longest common prefix of token ids, so no text is split into tokens in another way than alone.
Everything here is arithmetic on lengths: no tensors, no text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Layout = Literal["separate", "block_mask", "prefix_cache"]
LAYOUTS: tuple[Layout, ...] = ("separate", "block_mask", "prefix_cache")
MAX_MASK = 8192  # tokens in one `block_mask` sequence; its dense mask then takes 256 MiB in float32


@dataclass(frozen=True)
class Group:
    """Rows that share their first `prefix` tokens.

    Attributes:
        rows: indices of the rows.
        prefix: P, smaller than every row's length; 0 where nothing is shared.
    """

    rows: tuple[int, ...]
    prefix: int = 0


@dataclass(frozen=True)
class Pass:
    """One batch: one forward pass, or for `prefix_cache` one over the prompts and one for each of `parts`.

    Attributes:
        layout: how its groups are laid out.
        groups: what it holds. In a `separate` pass each group has one row.
        parts: for `prefix_cache`, batches of sequences behind the prompts; a sequence is (index in `groups`, its rows).
    """

    layout: Layout
    groups: tuple[Group, ...]
    parts: tuple[tuple[tuple[int, tuple[int, ...]], ...], ...] = ()

    @property
    def rows(self) -> list[int]:
        """Its rows, in the order in which its hidden states come out."""
        if self.parts:
            return [row for part in self.parts for _, rows in part for row in rows]
        return [row for group in self.groups for row in group.rows]


@dataclass(frozen=True)
class Costs:
    """What work costs, in units of one token through the model's linear layers.

    Attributes:
        pair: one query-key pair in all attention layers.
        copy: one cached key and value, copied for one more row.
        call: one forward pass, however small.
        budget: tokens in one batch, padding included.
    """

    pair: float
    copy: float
    call: float
    budget: int

    def separate(self, count: Any, length: Any) -> Any:
        """Causal attention skips the pairs above the diagonal."""
        return count * length * (1 + self.pair * length / 2) + self.call

    def block_mask(self, count: Any, length: Any) -> Any:
        """A dense mask skips nothing."""
        return count * length * (1 + self.pair * length) + self.call

    def tails(self, count: Any, length: Any, prefix: Any) -> Any:
        """Sequences of completions behind cached prompts."""
        seen = prefix + length
        return count * (length * (1 + self.pair * seen) + self.copy * seen) + self.call


def common_prefix(sequences: Sequence[Any]) -> int:
    """Length of the longest common prefix of strings, or of lists of token ids."""
    low, high = min(sequences), max(sequences)  # what the extremes share, all share
    for index, (a, b) in enumerate(zip(low, high)):
        if a != b:
            return index
    return min(len(low), len(high))


def shared_prefixes(rows: Sequence[Sequence[int]], keys: Sequence[Hashable]) -> list[Group]:
    """Groups of rows with equal keys, with the length of what they share (a token fewer than the shortest at most).

    Args:
        rows: N lists of token ids, no two equal.
        keys: N keys.
    """
    members: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        members.setdefault(key, []).append(index)
    groups = []
    for rows_of in members.values():
        texts = [rows[i] for i in rows_of]
        prefix = min(common_prefix(texts), min(map(len, texts)) - 1) if len(texts) > 1 else 0
        groups.extend([Group(tuple(rows_of), prefix)] if prefix else [Group((i,)) for i in rows_of])
    return groups


def default_budget(device: str) -> int:
    """Tokens of one forward pass that keep a device (`cpu`, `cuda`) busy while masks are still small."""
    return 16_384 if device == "cuda" else 4_096


def token_batches(lengths: Sequence[int], groups: Sequence[Hashable], budget: int) -> Iterator[list[int]]:
    """Row indices in batches bounded by tokens: rows of one group stay together, groups go by length.

    Rows of length 0 (failures) are left out. A group that exceeds the bound is split; a longer single row goes alone.
    """
    members: dict[Hashable, list[int]] = {}
    for row, (length, group) in enumerate(zip(lengths, groups)):
        if length:
            members.setdefault(group, []).append(row)
    batch: list[int] = []
    used = 0
    for rows in sorted(members.values(), key=lambda rows: max(lengths[row] for row in rows)):
        whole = sum(lengths[row] for row in rows)
        if batch and used + whole > budget:
            yield batch
            batch, used = [], 0
        for row in rows:
            if batch and used + lengths[row] > budget:
                yield batch
                batch, used = [], 0
            batch.append(row)
            used += lengths[row]
    if batch:
        yield batch


def partition(sizes: np.ndarray, cost: Callable[[np.ndarray, int], np.ndarray], budget: float) -> list[slice]:
    """Cut a sorted sequence into consecutive batches of least total cost, by dynamic programming.

    Args:
        sizes: (N,) padded size of an item in tokens, descending: a batch takes its count times its first size.
        cost: cost(starts, stop) -> the cost of the batches starts[j]:stop, of the shape of starts.
        budget: largest size of a batch; one item may exceed it.
    """
    n = len(sizes)
    best = np.zeros(n + 1)
    cut = np.zeros(n + 1, dtype=int)
    low = 0
    for stop in range(1, n + 1):
        while low < stop - 1 and (stop - low) * sizes[low] > budget:
            low += 1
        starts = np.arange(low, stop)
        total = best[low:stop] + cost(starts, stop)
        choice = int(np.argmin(total))
        best[stop], cut[stop] = total[choice], low + choice
    slices = []
    stop = n
    while stop:
        slices.append(slice(int(cut[stop]), stop))
        stop = int(cut[stop])
    return slices[::-1]


def plan(
    lengths: Sequence[int],
    groups: Sequence[Group],
    costs: Costs,
    layouts: Collection[Layout] = LAYOUTS,
    *,
    one_pass: bool = False,
) -> list[Pass]:
    """The cheapest passes that encode every row once.

    Args:
        lengths: N row lengths in tokens.
        groups: groups that cover the N rows.
        costs: what work costs.
        layouts: the layouts to choose from. Rows that share nothing go `separate` in any case.
        one_pass: a single forward pass, whatever the budget: under sharded training every process must make equally
            many.
    """
    if one_pass:
        return [_one_pass(lengths, groups, costs, layouts)]
    shared: list[Layout] = [layout for layout in ("block_mask", "prefix_cache") if layout in layouts]
    alone = [{layout: _cost_alone(layout, lengths, group, costs) for layout in LAYOUTS} for group in groups]
    plans = []
    for use in [[layout] for layout in shared] + ([shared] if len(shared) > 1 else []):
        choice: list[Layout] = []
        for price in alone:
            options = [layout for layout in use if np.isfinite(price[layout])]
            if "separate" in layouts or not options:
                options.append("separate")
            choice.append(min(options, key=price.__getitem__))
        plans.append(_passes(lengths, groups, costs, choice))
    if "separate" in layouts or not plans:
        plans.append(_passes(lengths, groups, costs, ["separate"] * len(groups)))
    return min(plans, key=lambda priced: priced[0])[1]


def _one_pass(lengths: Sequence[int], groups: Sequence[Group], costs: Costs, layouts: Collection[Layout]) -> Pass:
    singles = tuple(Group((row,)) for group in groups for row in group.rows)
    totals = [_total(lengths, group) for group in groups]
    dense = costs.block_mask(len(groups), max(totals))
    apart = costs.separate(len(singles), max(lengths)) if "separate" in layouts else np.inf
    if "block_mask" in layouts and max(totals) <= MAX_MASK and dense < apart:
        return Pass("block_mask", tuple(groups))
    return Pass("separate", singles)


def _total(lengths: Sequence[int], group: Group) -> int:
    """Tokens of a group with its prefix once."""
    return group.prefix + sum(lengths[row] - group.prefix for row in group.rows)


def _cost_alone(layout: Layout, lengths: Sequence[int], group: Group, costs: Costs) -> float:
    """Cost of a group in a batch of its like: without padding, and without the cost of the call."""
    free = replace(costs, call=0.0)
    if layout == "separate":
        return sum(free.separate(1, lengths[row]) for row in group.rows)
    if not group.prefix:
        return np.inf
    if layout == "block_mask":
        total = _total(lengths, group)
        return free.block_mask(1, total) if total <= MAX_MASK else np.inf
    return free.separate(1, group.prefix) + _sequences(lengths, group, costs)[0]


def _sequences(lengths: Sequence[int], group: Group, costs: Costs) -> tuple[float, list[tuple[int, ...]]]:
    """A group's completions in sequences behind its cached prompt: long ones see more in vain, many copy it more often.

    Returns:
        Their cost without that of the call, and the rows of each.
    """
    rows = sorted(group.rows, key=lambda row: -lengths[row])
    best: tuple[float, list[tuple[int, ...]]] = (np.inf, [])
    count = len(rows)
    while True:
        sequences = [tuple(rows[start::count]) for start in range(count)]  # of about equal length
        sizes = np.array([sum(lengths[row] - group.prefix for row in sequence) for sequence in sequences])
        best = min(best, (float(replace(costs, call=0.0).tails(1, sizes, group.prefix).sum()), sequences))
        if count == 1:
            return best
        count = (count + 1) // 2


def _passes(
    lengths: Sequence[int], groups: Sequence[Group], costs: Costs, choice: Sequence[Layout]
) -> tuple[float, list[Pass]]:
    """Cost and batches of groups whose layouts are chosen."""
    by_layout: dict[Layout, list[Group]] = {layout: [] for layout in LAYOUTS}
    for group, layout in zip(groups, choice):
        by_layout[layout].extend([group] if layout != "separate" else [Group((row,)) for row in group.rows])
    total, passes = 0.0, []
    for layout, price in (("separate", costs.separate), ("block_mask", costs.block_mask)):
        chosen = sorted(by_layout[layout], key=lambda group: -_total(lengths, group))
        sizes = np.array([_total(lengths, group) for group in chosen])

        def batch_price(starts: np.ndarray, stop: int, sizes: np.ndarray = sizes, price: Any = price) -> np.ndarray:
            return price(stop - starts, sizes[starts])

        for part in partition(sizes, batch_price, costs.budget):
            total += price(part.stop - part.start, sizes[part.start])
            passes.append(Pass(layout, tuple(chosen[part])))
    extra, cached = _cached_passes(lengths, by_layout["prefix_cache"], costs)
    return total + extra, passes + cached


def _cached_passes(lengths: Sequence[int], groups: list[Group], costs: Costs) -> tuple[float, list[Pass]]:
    """Batches of prompts, and of the completions behind each batch of prompts."""
    groups = sorted(groups, key=lambda group: -group.prefix)
    prefixes = np.array([group.prefix for group in groups])
    rows = np.cumsum([0] + [len(group.rows) for group in groups])
    tails = np.cumsum([0] + [sum(lengths[row] - group.prefix for row in group.rows) for group in groups])

    def price(starts: np.ndarray, stop: int) -> np.ndarray:
        """Prompts, and what their padding costs the completions behind them."""
        prefix = prefixes[starts]
        behind = prefix * (costs.pair * (tails[stop] - tails[starts]) + costs.copy * (rows[stop] - rows[starts]))
        return costs.separate(stop - starts, prefix) + behind + costs.call

    total, passes = 0.0, []
    for part in partition(prefixes, price, costs.budget):
        batch, longest = groups[part], int(prefixes[part.start])
        total += costs.separate(len(batch), longest)
        members = [(index, own) for index, group in enumerate(batch) for own in _sequences(lengths, group, costs)[1]]
        sizes = np.array([sum(lengths[row] - batch[index].prefix for row in own) for index, own in members])
        order = np.argsort(-sizes, kind="stable")
        members, sizes = [members[i] for i in order], sizes[order]

        def tails_price(starts: np.ndarray, stop: int, sizes: np.ndarray = sizes, prefix: int = longest) -> np.ndarray:
            return costs.tails(stop - starts, sizes[starts], prefix)

        cuts = partition(sizes + longest / 4, tails_price, costs.budget)  # a sequence's copy takes memory too
        total += sum(costs.tails(cut.stop - cut.start, sizes[cut.start], longest) for cut in cuts)
        passes.append(Pass("prefix_cache", tuple(batch), tuple(tuple(members[cut]) for cut in cuts)))
    return total, passes
