"""Preference pairs as the trainer reads them: checked, encoded once, and put into steps of similar length."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset, Sampler

from rewardsmith.data.records import RecordError, Text, as_columns, as_text, text_key
from rewardsmith.models.backbones import Encoded
from rewardsmith.models.heads import Head

BUCKET = 32  # steps whose pairs are sorted by length together; a short window keeps the order random


@dataclass
class Pairs(Dataset):
    """P encoded pairs.

    Attributes:
        chosen: P encodings, as `rejected`.
        lengths: (P,) tokens of both completions with their prompts.
        groups: P keys of prompts.
        columns: further columns, each of length P.
        prompts: group -> encoding of the prompt alone, where the head reads it.
        skipped: pairs left out, by kind of failure.
        truncated: completions whose prompt was cut.
    """

    chosen: list[Any]
    rejected: list[Any]
    lengths: np.ndarray
    groups: list[str]
    columns: dict[str, list[Any]]
    prompts: dict[str, Any]
    skipped: dict[str, int]
    truncated: int

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, row: int) -> int:
        return row

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """The rows as keyword arguments of `PairModule.forward`."""
        groups = [self.groups[i] for i in rows]
        return {
            "items": [side[i] for i in rows for side in (self.chosen, self.rejected)],
            "groups": groups,
            "prompts": [self.prompts[key] for key in dict.fromkeys(groups)] if self.prompts else None,
            "columns": {name: [column[i] for i in rows] for name, column in self.columns.items()},
            "lengths": [int(self.lengths[i]) for i in rows],
        }


class Encoder(Protocol):
    """What turns texts into encodings: a `Backbone`, or anything else with this method."""

    def encode(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Encoded:
        """One encoding per row."""


def encode_pairs(
    records: Any, encoder: Encoder, head: Head | None = None, *, use_margin: bool = False, what: str = "records"
) -> Pairs:
    """Check and encode preference records: `prompt`, `chosen`, `rejected`, and the columns that head and loss read.

    `target_prob` is read wherever it is there.

    Raises:
        RecordError: for a row without a usable prompt, chosen or rejected, margin or target_prob.
        ValueError: where there are no rows, a column is missing, or no pair can be encoded.
    """
    columns = as_columns(records)
    for name in ("chosen", "rejected", *(["margin"] if use_margin else []), *(head.columns if head else ())):
        if name not in columns:
            raise ValueError(f"{what}: no column {name!r}; there are {sorted(columns)}")
    chosen, rejected = columns["chosen"], columns["rejected"]
    prompts = columns.get("prompt") or [""] * len(chosen)
    if not chosen:
        raise ValueError(f"{what}: no rows")
    for name, column in (("prompt", prompts), ("chosen", chosen), ("rejected", rejected)):
        for row, text in enumerate(column):
            if not isinstance(text, str | list | tuple):
                raise RecordError(
                    f"must be text or a list of messages, not {type(text).__name__}", row=row, column=name
                )
    kept_columns = {name: columns[name] for name in (head.columns if head else ())}
    if use_margin:
        kept_columns["margin"] = _numbers(columns["margin"], "margin")
    if any(value is not None for value in columns.get("target_prob", [])):
        filled = [1.0 if value is None else value for value in columns["target_prob"]]
        kept_columns["target_prob"] = _numbers(filled, "target_prob", 0.0, 1.0)

    if head and head.reads_length:
        kept_columns["length"] = [(len(as_text(c)), len(as_text(r))) for c, r in zip(chosen, rejected)]

    # Interleaved: texts of one prompt follow each other.
    encoded = encoder.encode([p for p in prompts for _ in "cr"], [t for pair in zip(chosen, rejected) for t in pair])
    failed = {row // 2: failure for row, failure in sorted(encoded.failures.items(), reverse=True)}
    groups = [text_key(prompt) for prompt in prompts]
    encodings: dict[str, Any] = {}
    if head and head.reads_prompt:
        first = {key: row for row, key in reversed(list(enumerate(groups)))}
        alone = encoder.encode([""] * len(first), [prompts[row] for row in first.values()])
        encodings = dict(zip(first, alone.items))
        for row, key in enumerate(groups):
            if encodings[key] is None:
                failed.setdefault(row, alone.failures[list(first).index(key)])
    rows = [row for row in range(len(chosen)) if row not in failed]
    skipped = dict(Counter(failure.kind for failure in failed.values()))
    if not rows:
        row = min(failed)
        raise ValueError(f"{what}: none of {len(chosen)} pairs can be used; row {row}: {failed[row].reason}")
    if failed:
        row = min(failed)
        warnings.warn(
            f"{what}: {len(failed)} of {len(chosen)} pairs left out ({skipped}); row {row}: {failed[row].reason}",
            stacklevel=3,
        )
    return Pairs(
        chosen=[encoded.items[2 * row] for row in rows],
        rejected=[encoded.items[2 * row + 1] for row in rows],
        lengths=np.array([encoded.lengths[2 * row] + encoded.lengths[2 * row + 1] for row in rows]),
        groups=[groups[row] for row in rows],
        columns={name: [column[row] for row in rows] for name, column in kept_columns.items()},
        prompts=encodings,
        skipped=skipped,
        truncated=len(encoded.truncated),
    )


def _numbers(column: Sequence[Any], name: str, low: float = -math.inf, high: float = math.inf) -> list[float]:
    for row, value in enumerate(column):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RecordError(f"must be a finite number, not {value!r}", row=row, column=name)
        if not low <= value <= high:
            raise RecordError(f"must lie in [{low:g}, {high:g}], got {value}", row=row, column=name)
    return [float(value) for value in column]


class StepSampler(Sampler[list[int]]):
    """Batches of pairs for one process: every epoch a new random order, in which a step's pairs have similar lengths.

    The pairs of one prompt stay together. Steps differ by at most one pair, and so do the parts that a step is split
    into for processes and accumulation: the steps are the same however many processes share them.
    """

    def __init__(
        self, pairs: Pairs, batch_size: int, *, accumulation: int = 1, world: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        self.pairs, self.parts, self.world, self.rank, self.seed = pairs, accumulation * world, world, rank, seed
        self.steps = math.ceil(len(pairs) / (batch_size * self.parts))
        if len(pairs) // self.steps < self.parts:
            raise ValueError(
                f"{len(pairs)} pairs are too few for {self.parts} parts a step (processes x accumulation steps)"
            )
        self.accumulation = accumulation
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def order(self) -> list[np.ndarray]:
        """Row numbers of each step of the current epoch."""
        generator = np.random.default_rng([self.seed, self.epoch])
        groups: dict[str, list[int]] = {}
        for row in generator.permutation(len(self.pairs)):
            groups.setdefault(self.pairs.groups[row], []).append(int(row))
        rows = np.array([row for members in groups.values() for row in members])
        window = math.ceil(len(rows) / math.ceil(self.steps / BUCKET))
        first = {key: self.pairs.lengths[members].max() for key, members in groups.items()}
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            keys = [self.pairs.groups[row] for row in part]
            rank_of = {key: at for at, key in enumerate(dict.fromkeys(keys))}
            part = part[np.lexsort(([rank_of[key] for key in keys], [first[key] for key in keys]))]
            rows[start : start + window] = part
        steps = np.array_split(rows, self.steps)
        return [steps[i] for i in generator.permutation(len(steps))]

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.order():
            parts = np.array_split(step, self.parts)
            for at in range(self.accumulation):
                yield parts[at * self.world + self.rank].tolist()
