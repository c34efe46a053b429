"""Hidden states of rows of tokens, with what rows share encoded once: for any network that `states` runs.

`SharedPrompts` chooses a layout (see `models.layout`), builds its tensors (see `models.packing`), runs the passes and
picks the states that were asked for. Reward models read the last position of a row, language models each position that
predicts a token of the completion.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import DynamicCache

from rewardsmith.models.layout import LAYOUTS, Costs, Group, Layout, Pass, plan, shared_prefixes
from rewardsmith.models.packing import Packed, SharedPrefixes, Sizes, padded

Rows = Sequence[Sequence[int]]
Spans = Sequence[tuple[int, int]]

# Config attributes that bound how far attention sees, by position in the sequence. Longer rows go `separate`.
WINDOWS = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "attention_window",
    "original_max_position_embeddings",
)

# What the layouts are tried on: two groups of rows, which share 9 and 4 tokens.
SELF_TEST_ROWS = (
    (5, 12, 19, 26, 33, 0, 7, 14, 21, 11),
    (5, 12, 19, 26, 33, 0, 7, 14, 21, 13, 5, 3, 2),
    (8, 15, 22, 29, 3, 2, 4),
    (8, 15, 22, 29, 5),
    (8, 15, 22, 29, 6, 7, 8, 9, 10, 11),
)


class SharedPrompts(ABC):
    """The passes of a network over rows of tokens.

    Whoever inherits says what `states` are, and sets:

    Attributes:
        model: a Hugging Face model.
        tokenizer: its tokenizer.
        layout: `auto` (by estimated cost), or one of `separate`, `block_mask`, `prefix_cache`. A model that cannot take
            one falls back to `separate`, and says so.
        batch_tokens: tokens in one batch, padding included. None: 4,096 on a CPU, 16,384 on a GPU.
        name: of the model, for messages.
        reads_last_token: False where the model pools a row into one vector; it then shares nothing.
    """

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase
    layout: str
    batch_tokens: int | None
    name: str
    reads_last_token: bool
    _sizes: Sizes
    _refusals: dict[str, str] | None

    @abstractmethod
    def states(self, **inputs: Any) -> torch.Tensor:
        """What is read of one forward pass of the whole model: (B, T, H), or (B, H) where it pools."""

    def share(
        self,
        model: transformers.PreTrainedModel,
        tokenizer: transformers.PreTrainedTokenizerBase,
        layout: str,
        batch_tokens: int | None,
        name: str | None,
        counted: Any = None,
    ) -> None:
        """Set the attributes above; `counted` is the part of the model that `states` runs, where that is not all."""
        if layout not in ("auto", *LAYOUTS):
            raise ValueError(f"layout must be 'auto' or one of {', '.join(LAYOUTS)}, not {layout!r}")
        self.model, self.tokenizer = model, tokenizer
        self.name = name or model.config.name_or_path or type(model).__name__
        self.layout, self.batch_tokens = layout, batch_tokens
        self._sizes = Sizes.of(counted or model)
        self._refusals = None

    def read(self, rows: Rows, spans: Spans | None = None, keys: Sequence[Hashable] | None = None) -> torch.Tensor:
        """States of positions start:stop of each row, row after row: (sum of stop - start, H).

        Equal rows are encoded once. Rows of equal keys share the longest common prefix of their token ids.

        Args:
            rows: N lists of token ids, N > 0.
            spans: N pairs (start, stop), none empty. None: the last position of each row, (N, H).
            keys: N keys; None: nothing is shared but equal rows.
        """
        spans = [(len(row) - 1, len(row)) for row in rows] if spans is None else spans
        first: dict[tuple[tuple[int, ...], tuple[int, int]], int] = {}
        of_row = [first.setdefault((tuple(row), span), len(first)) for row, span in zip(rows, spans)]
        unique, parts = [row for row, _ in first], [span for _, span in first]
        layouts = self._layouts()
        shared: dict[int, Hashable] = {}
        if keys is not None and layouts != ("separate",):
            for row, index, key in zip(rows, of_row, keys):
                if len(row) <= self._window:
                    shared.setdefault(index, (key,))
        families = shared_prefixes(unique, [shared.get(index, index) for index in range(len(unique))])
        lengths = [len(row) for row in unique]
        passes = plan(lengths, families, self._costs(), layouts, one_pass=is_sharded(self.model))
        hidden = torch.cat([self._encode_pass(each, unique, parts) for each in passes])
        begins, at = np.zeros(len(unique), dtype=int), 0
        for place in (row for each in passes for row in each.rows):
            begins[place] = at
            at += parts[place][1] - parts[place][0] if self.reads_last_token else 1
        sizes = [parts[index][1] - parts[index][0] if self.reads_last_token else 1 for index in of_row]
        order = np.concatenate([np.arange(begins[i], begins[i] + size) for i, size in zip(of_row, sizes)])
        return hidden[torch.from_numpy(order).to(hidden.device)]

    @property
    def _end(self) -> int:
        """A token to end a text with: encoder-decoders are read at their EOS."""
        end = self.model.config.get_text_config().eos_token_id
        end = end[0] if isinstance(end, list) else end
        return end if end is not None else self.tokenizer.sep_token_id or 1

    @property
    def _window(self) -> float:
        """The longest row in which every token sees all before it, as masks and caches of shared prompts take it."""
        config = self.model.config.get_text_config()
        return min(
            (w for w in (getattr(config, name, None) for name in WINDOWS) if isinstance(w, int)), default=math.inf
        )

    def _layouts(self) -> tuple[Layout, ...]:
        """The layouts that rows may take: what the caller asked for, where it is possible."""
        if not self.reads_last_token:
            return ("separate",)
        refused = self.refused_layouts()
        possible = [layout for layout in LAYOUTS if layout not in refused]
        if self.model.training and any(getattr(m, "gradient_checkpointing", False) for m in self.model.modules()):
            possible = [layout for layout in possible if layout != "prefix_cache"]  # checkpointed layers take no cache
        if self.layout != "auto":
            possible = [layout for layout in possible if layout == self.layout] or ["separate"]
        return tuple(possible)

    def _costs(self) -> Costs:
        return self._sizes.costs(self.model.device.type, self.batch_tokens)

    def _encode_pass(self, batch: Pass, rows: Rows, spans: Spans) -> torch.Tensor:
        """States of a pass's rows, in the order of `batch.rows`."""
        if batch.layout == "separate":
            return self._separate([rows[row] for row in batch.rows], [spans[row] for row in batch.rows])
        if batch.layout == "block_mask":
            return self._block_mask(batch.groups, rows, spans)
        return self._prefix_cache(batch, rows, spans)

    def _separate(self, rows: Rows, spans: Spans | None = None) -> torch.Tensor:
        """Right-padded rows, one per sequence; in a model that padding disturbs, rows of one length at a time."""
        spans = [(len(row) - 1, len(row)) for row in rows] if spans is None else spans
        refused = self.refused_layouts()
        if "padding" not in refused:
            return self._right_padded(rows, spans, masked=not self.reads_last_token or "causal" in refused)
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(index)
        hidden: dict[int, torch.Tensor] = {}
        for alike in by_length.values():
            states = self._right_padded([rows[i] for i in alike], [spans[i] for i in alike], masked=True)
            sizes = [spans[i][1] - spans[i][0] if self.reads_last_token else 1 for i in alike]
            hidden.update(zip(alike, states.split(sizes)))
        return torch.cat([hidden[index] for index in range(len(rows))])

    def _right_padded(self, rows: Rows, spans: Spans, masked: bool) -> torch.Tensor:
        """In a causal model no token sees the padding behind it: attention is quicker where that is not masked."""
        ids, mask = self._pad(rows)
        seen = mask if masked else torch.ones_like(mask)
        if not self.reads_last_token:
            return self.states(input_ids=ids, attention_mask=seen)
        states = self.states(input_ids=ids, attention_mask=seen, use_cache=False)
        return _take(states, [(row, np.arange(*span)) for row, span in enumerate(spans)])

    def _block_mask(self, groups: Sequence[Group], rows: Rows, spans: Spans | None = None) -> torch.Tensor:
        """One sequence per group: its prefix, then each row's own tokens, which see the prefix and themselves."""
        packed = Packed()
        for group in groups:
            packed.add(
                rows[group.rows[0]][: group.prefix], group.prefix, [rows[row][group.prefix :] for row in group.rows]
            )
        ids, _ = self._pad(packed.ids)
        positions, sees = packed.tensors(ids)
        states = self.states(
            input_ids=ids, attention_mask=self._additive(sees), position_ids=positions, use_cache=False
        )
        wanted = []
        members = [(row, group.prefix) for group in groups for row in group.rows]
        for (row, prefix), (sequence, start) in zip(members, packed.starts):
            at = _span(rows, spans, row)
            wanted.append((sequence, np.where(at < prefix, at, at - prefix + start)))
        return _take(states, wanted)

    def _prefix_cache(self, batch: Pass, rows: Rows, spans: Spans | None = None) -> torch.Tensor:
        """The prefixes of all groups, right-padded; then sequences of the rows' own tokens on their keys and values."""
        ids, mask = self._pad([rows[group.rows[0]][: group.prefix] for group in batch.groups])
        cache = DynamicCache()
        of_prompts = self.states(
            input_ids=ids, attention_mask=torch.ones_like(mask), past_key_values=cache, use_cache=True
        )
        known = mask.bool()
        hidden, order = [], []  # and where in the answer each piece of it goes
        in_prompts, from_prompts, answered = [], [], 0
        for part in batch.parts:
            packed = Packed()
            for index, own in part:
                prefix = batch.groups[index].prefix
                packed.add([], prefix, [rows[row][prefix:] for row in own])
            ids, _ = self._pad(packed.ids)
            positions, sees = packed.tensors(ids)
            group = torch.tensor([index for index, _ in part], device=ids.device)
            prefix_seen = known[group][:, None, :].expand(-1, ids.shape[1], -1)
            states = self.states(
                input_ids=ids,
                attention_mask=self._additive(torch.cat([prefix_seen, sees], dim=2)),
                position_ids=positions,
                past_key_values=SharedPrefixes(cache, group),
                use_cache=True,
            )
            wanted = []
            for (index, row), (sequence, start) in zip(
                [(index, row) for index, own in part for row in own], packed.starts
            ):
                prefix, at = batch.groups[index].prefix, _span(rows, spans, row)
                place = np.arange(answered, answered + len(at))
                answered += len(at)
                behind = at >= prefix
                wanted.append((sequence, at[behind] - prefix + start))
                order.append(place[behind])
                if not behind.all():
                    in_prompts.append((index, at[~behind]))
                    from_prompts.append(place[~behind])
            hidden.append(_take(states, wanted))
        if in_prompts:
            hidden.append(_take(of_prompts, in_prompts))
        back = np.argsort(np.concatenate(order + from_prompts))
        return torch.cat(hidden)[torch.from_numpy(back).to(of_prompts.device)]

    def _pad(self, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded ids and their mask, (B, T) each."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = padded(rows, int(lengths.max()), self.tokenizer.pad_token_id or 0)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return ids.to(self.model.device), mask.to(self.model.device)

    def _additive(self, sees: torch.Tensor) -> torch.Tensor:
        """(B, query, key) bool to the mask (B, 1, query, key) that is added to attention scores."""
        mask = torch.zeros(sees.shape, dtype=self.model.dtype, device=sees.device)
        return mask.masked_fill_(~sees, torch.finfo(mask.dtype).min)[:, None]

    def refused_layouts(self) -> dict[str, str]:
        """What this model cannot take, each with the reason: found once, by comparing with rows alone.

        Returns:
            Any of `block_mask`, `prefix_cache`, `causal` (padding left unmasked) and `padding` (padding at all).
        """
        if self._refusals is not None:
            return self._refusals
        special, end = set(self.tokenizer.all_special_ids), self._end
        plain = [i for i in range(len(self.tokenizer)) if i not in special][:40]
        rows = [[plain[i % len(plain)] for i in row] + [end] for row in SELF_TEST_ROWS]
        last = [(len(row) - 1, len(row)) for row in rows]
        groups, parts = (Group((0, 1), 9), Group((2, 3, 4), 4)), (((0, (1,)), (1, (4,))), ((1, (2, 3)), (0, (0,))))
        trials: dict[str, Callable[[], torch.Tensor]] = {"padding": lambda: self._right_padded(rows, last, masked=True)}
        refusals: dict[str, str] = {}
        if self.reads_last_token:
            trials["causal"] = lambda: self._right_padded(rows, last, masked=False)
            attention = self.model.config._attn_implementation
            if attention in ("sdpa", "eager"):
                trials["block_mask"] = lambda: self._block_mask(groups, rows)
                trials["prefix_cache"] = lambda: self._prefix_cache(Pass("prefix_cache", groups, parts), rows)
            else:
                refusals = dict.fromkeys(("block_mask", "prefix_cache"), f"{attention} attention takes no such mask")
        elif self.layout in ("block_mask", "prefix_cache"):
            refusals[self.layout] = "the model reads a whole row at once, so no prompt can be encoded before it"
        order = {"prefix_cache": [1, 4, 2, 3, 0]}  # in which a trial's rows come out
        tolerance = 1e-4 if self.model.dtype in (torch.float32, torch.float64) else 5e-2
        with torch.no_grad(), evaluating(self.model), torch.autocast(self.model.device.type, enabled=False):
            alone = torch.cat([self._right_padded([row], [span], masked=True) for row, span in zip(rows, last)])
            for name, trial in trials.items():
                try:
                    wanted = alone[order.get(name, [0, 1, 2, 3, 4])]
                    error = ((trial() - wanted).abs().max() / wanted.abs().max()).item()
                    if not error <= tolerance:
                        refusals[name] = f"hidden states differ by {error:.1e} from rows encoded alone"
                except Exception as error:  # whatever a model raises, it means that it cannot take this
                    refusals[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        self._refusals = refusals
        asked = {"padding", *(LAYOUTS if self.layout == "auto" else [self.layout])}
        missed = [f"{name}: {why}" for name, why in refusals.items() if name in asked]
        if missed:
            warnings.warn(
                f"{self.name} cannot encode rows in every way, others are used ({'; '.join(missed)})", stacklevel=3
            )
        return refusals


def _span(rows: Rows, spans: Spans | None, row: int) -> np.ndarray:
    return np.arange(len(rows[row]) - 1, len(rows[row])) if spans is None else np.arange(*spans[row])


def _take(states: torch.Tensor, wanted: Sequence[tuple[int, np.ndarray]]) -> torch.Tensor:
    """States (B, T, H) at the positions of each (sequence, positions), one after the other: (N, H)."""
    sequences = np.repeat([sequence for sequence, _ in wanted], [len(at) for _, at in wanted])
    tokens = np.concatenate([at for _, at in wanted])
    return states[torch.from_numpy(sequences).to(states.device), torch.from_numpy(tokens).to(states.device)]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, then every module as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward pass makes collective calls (FSDP, DeepSpeed ZeRO-3), which all processes must make alike."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    return any(isinstance(m, FullyShardedDataParallel) for m in model.modules()) or any(
        isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters()
    )
