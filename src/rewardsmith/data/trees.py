"""Trees of responses and what to compare in them (Qiu et al. 2024, "Reward Generalization in RLHF: A Topological
Perspective", arXiv 2402.10184; paper 01).

The responses to a prompt are drawn as a tree: they share beginnings and part where the tree branches. Comparisons are
drawn between its leaves, as many of each depth of their lowest common ancestor as of any other. The baseline compares
two responses that were drawn independently, once each: a chain.

Rows to be labeled have `prompt`, `candidates` (two), `lca_depth` (branchings that the two have passed together) and
`shared_prefix` (characters that they have in common by them); `label_pairs` makes preferences of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import expit

from rewardsmith.data.records import Row, Text, as_text, is_conversational

ROOT = -1  # the prompt, as a parent


@dataclass(frozen=True)
class Node:
    """A segment of responses.

    Attributes:
        parent: number of the node that it follows in `Tree.nodes`; -1 behind the prompt.
        text: of the segment alone.
        ids: its tokens, where the generator says so.
        ended: by the generator; False for an inner node, and a leaf that was cut at the longest length.
    """

    parent: int
    text: str
    ids: tuple[int, ...] = ()
    ended: bool = False


@dataclass(frozen=True)
class Tree:
    """Responses to one prompt that share beginnings.

    Attributes:
        prompt: what they answer.
        nodes: N segments, each behind its parent.
        failed: continuations that the generator could not give; their branches are missing.

    Raises:
        ValueError: for a node that does not come behind its parent.
    """

    prompt: Text
    nodes: tuple[Node, ...]
    failed: int = 0

    def __post_init__(self) -> None:
        for number, node in enumerate(self.nodes):
            if not ROOT <= node.parent < number:
                raise ValueError(f"node {number} has parent {node.parent}: it must be -1 or a node before it")

    @property
    def leaves(self) -> list[int]:
        """Numbers of the nodes that nothing follows: the complete responses."""
        inner = {node.parent for node in self.nodes}
        return [number for number in range(len(self.nodes)) if number not in inner]

    def path(self, node: int) -> list[int]:
        """Nodes from the prompt to this one, itself the last."""
        found = []
        while node != ROOT:
            found.append(node)
            node = self.nodes[node].parent
        return found[::-1]

    def text(self, node: int) -> str:
        """The response up to and with this node."""
        return "".join(self.nodes[number].text for number in self.path(node))

    def completion(self, node: int) -> Text:
        """`text` as a completion of the prompt: a message where the prompt is messages."""
        text = self.text(node)
        return [{"role": "assistant", "content": text}] if is_conversational(self.prompt) else text

    def children(self, node: int) -> list[int]:
        """Nodes that follow this one; -1 for those behind the prompt."""
        return [number for number, other in enumerate(self.nodes) if other.parent == node]

    def compact(self) -> Tree:
        """The same responses, each once, as a tree in which every inner node branches.

        Siblings of equal text become one; of leaves with equal responses the first stays; a node with one child is
        joined with it. So a node whose children are identical is no branching.
        """
        names: dict[tuple[int, str, bool], int] = {}  # (merged parent, text, leaf) -> merged node
        merged: list[Node] = []
        new = {ROOT: ROOT}
        leaves = set(self.leaves)
        for number, node in enumerate(self.nodes):
            key = (new[node.parent], node.text, number in leaves)
            if key not in names:
                names[key] = len(merged)
                merged.append(Node(key[0], node.text, node.ids, node.ended))
            new[number] = names[key]
        first = Tree(self.prompt, tuple(merged))
        kept: dict[str, int] = {}
        for leaf in first.leaves:
            kept.setdefault(first.text(leaf), leaf)
        used = set(itertools.chain.from_iterable(first.path(leaf) for leaf in kept.values()))
        count: dict[int, int] = {}
        for number in used:
            count[merged[number].parent] = count.get(merged[number].parent, 0) + 1
        out: list[Node] = []
        place = {ROOT: ROOT}
        pending: dict[int, Node] = {}  # segments of nodes with one child, which it begins with
        for number in sorted(used):
            node = merged[number]
            before = pending.get(node.parent, Node(ROOT, ""))
            joined = Node(place[node.parent], before.text + node.text, before.ids + node.ids, node.ended)
            if count.get(number, 0) == 1:
                pending[number], place[number] = joined, joined.parent
            else:
                place[number] = len(out)
                out.append(joined)
        return Tree(self.prompt, tuple(out), self.failed)

    def to_row(self) -> Row:
        """As JSON; `from_row` reads it."""
        nodes = [
            {"parent": node.parent, "text": node.text, "ids": list(node.ids), "ended": node.ended}
            for node in self.nodes
        ]
        return {"prompt": self.prompt, "nodes": nodes, "failed": self.failed}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """What `to_row` gave."""
        nodes = (Node(n["parent"], n["text"], tuple(n.get("ids") or ()), bool(n.get("ended"))) for n in row["nodes"])
        return cls(row["prompt"], tuple(nodes), int(row.get("failed") or 0))


def lca_depths(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """How much the L leaves share, two (L, L) integer arrays: nodes, and characters.

    Row and column go by `tree.leaves`. Of a compact tree the number of nodes is that of branchings passed together
    before the two part, the one at the prompt left out: 0 where they part at once.
    """
    paths = [tree.path(leaf) for leaf in tree.leaves]
    width = max(map(len, paths), default=0)
    nodes = np.array([path + [-2 - row] * (width - len(path)) for row, path in enumerate(paths)], dtype=np.int64)
    sizes = np.array([[len(tree.nodes[n].text) if n >= 0 else 0 for n in row] for row in nodes.tolist()])
    if not paths:
        return np.zeros((0, 0), dtype=np.int64), np.zeros((0, 0), dtype=np.int64)
    same = np.logical_and.accumulate(nodes[:, None] == nodes[None], axis=2)
    return same.sum(2), (same * sizes[:, None]).sum(2)


def pairs_of_tree(tree: Tree, n: int, *, seed: int = 0) -> list[Row]:
    """n different pairs of leaves, drawn so that every depth of the lowest common ancestor has its equal share.

    Where a depth has no pairs left, the others give more. The tree is made compact first, so no response meets itself;
    a response without text is not compared.

    Args:
        tree: the responses.
        n: pairs wanted; fewer come where there are no more.
        seed: of the draw.

    Returns:
        rows as in the module, and `leaves`, the two numbers of nodes in `tree.compact()`. Which of the two candidates
        comes first is drawn.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    rng = np.random.default_rng(seed)
    tree = tree.compact()
    leaves, (depths, shared) = tree.leaves, lca_depths(tree)
    first, second = np.triu_indices(len(leaves), 1)
    written = np.array([bool(tree.text(leaf).strip()) for leaf in leaves], dtype=bool)
    first, second = (side[written[first] & written[second]] for side in (first, second))
    pools: dict[int, list[int]] = {}
    for pair in rng.permutation(len(first)):
        pools.setdefault(int(depths[first[pair], second[pair]]), []).append(int(pair))
    order = [sorted(pools)[i] for i in rng.permutation(len(pools))]
    turns = itertools.zip_longest(*(pools[depth] for depth in order))
    chosen = [pair for turn in turns for pair in turn if pair is not None][:n]
    rows = []
    for pair, swap in zip(chosen, rng.random(len(chosen)) < 0.5):
        a, b = (int(second[pair]), int(first[pair])) if swap else (int(first[pair]), int(second[pair]))
        rows.append(
            {
                "prompt": tree.prompt,
                "candidates": [tree.completion(leaves[a]), tree.completion(leaves[b])],
                "leaves": [leaves[a], leaves[b]],
                "lca_depth": int(depths[a, b]),
                "shared_prefix": int(shared[a, b]),
            }
        )
    return rows


def pairs_of_chain(prompt: Text, completions: Sequence[Text]) -> list[Row]:
    """Responses drawn independently, compared two by two, each once: the first with the second, and so on.

    Two equal responses cannot be compared: where they meet, the second waits for the next that differs. A response
    without text is not compared.
    """
    rows: list[Row] = []
    waiting: list[Text] = []
    for completion in completions:
        if not as_text(completion).strip():
            continue
        match = next((at for at, other in enumerate(waiting) if as_text(other) != as_text(completion)), None)
        if match is None:
            waiting.append(completion)
            continue
        pair = [waiting.pop(match), completion]
        rows.append({"prompt": prompt, "candidates": pair, "lca_depth": 0, "shared_prefix": 0})
    return rows


@dataclass(frozen=True)
class Labeled:
    """Preferences that came of comparisons.

    Attributes:
        rows: with `chosen`, `rejected` and `margin`, and what the comparisons had further.
        ties: comparisons without a winner, left out.
        failed: comparisons without a verdict, left out.
    """

    rows: list[Row]
    ties: int
    failed: int


def label_pairs(rows: Iterable[Mapping[str, Any]], logits: Sequence[float] | np.ndarray) -> Labeled:
    """Preference records from pairs and the logits that the first candidate beats the second; NaN for no verdict.

    Raises:
        ValueError: where there are not as many logits as rows.
    """
    pairs, values = [dict(row) for row in rows], np.asarray(logits, dtype=np.float64)
    if values.shape != (len(pairs),):
        raise ValueError(f"{len(pairs)} pairs need as many logits, got shape {values.shape}")
    out = []
    for row, logit in zip(pairs, values.tolist()):
        first, second = row.pop("candidates")
        row.pop("leaves", None)
        if logit > 0:
            out.append({**row, "chosen": first, "rejected": second, "margin": logit})
        elif logit < 0:
            out.append({**row, "chosen": second, "rejected": first, "margin": -logit})
    return Labeled(out, int((values == 0).sum()), int(np.isnan(values).sum()))


def incomplete_pairs(tree: Tree, rows: Iterable[Mapping[str, Any]], logits: Sequence[float] | np.ndarray) -> list[Row]:
    """Preferences between beginnings of responses, from the verdicts on what they lead to.

    Of two inner nodes with one parent, the one whose leaves win more of the comparisons between the two is preferred,
    with the mean probability as `target_prob`; without such comparisons, or at one half, there is no row.

    Args:
        tree: the responses.
        rows: what `pairs_of_tree` gave for it.
        logits: see `label_pairs`.
    """
    tree = tree.compact()
    inner = sorted({node.parent for node in tree.nodes} - {ROOT})
    above = {leaf: tree.path(leaf) for leaf in tree.leaves}
    wins: dict[tuple[int, int], list[float]] = {}
    for row, logit in zip(rows, np.asarray(logits, dtype=np.float64).tolist(), strict=True):
        if np.isnan(logit):
            continue
        one, two = (above[leaf] for leaf in row["leaves"])
        depth = int(row["lca_depth"])
        a, b = one[depth], two[depth]
        if a in inner and b in inner and tree.text(a).strip() and tree.text(b).strip():
            p = float(expit(logit))
            wins.setdefault((min(a, b), max(a, b)), []).append(p if a < b else 1 - p)
    out = []
    for (a, b), found in sorted(wins.items()):
        p = float(np.mean(found))
        if p != 0.5:
            won, lost = (a, b) if p > 0.5 else (b, a)
            before = tree.path(a)[:-1]
            out.append(
                {
                    "prompt": tree.prompt,
                    "chosen": tree.completion(won),
                    "rejected": tree.completion(lost),
                    "target_prob": max(p, 1 - p),
                    "lca_depth": len(before),
                    "shared_prefix": sum(len(tree.nodes[n].text) for n in before),
                }
            )
    return out


def without_prompts(rows: Iterable[Mapping[str, Any]], evaluation: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows whose prompt is not in an evaluation set, but for case and white space: no response to one of its prompts
    gets into what is collected from the rest."""
    held = {_plain(row["prompt"]) for row in evaluation}
    return [dict(row) for row in rows if _plain(row["prompt"]) not in held]


def _plain(prompt: Text) -> str:
    return " ".join(as_text(prompt).lower().split())
