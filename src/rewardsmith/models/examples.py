"""Training rows as the trainer reads them: checked, encoded once, and put into steps of similar length.

What a row says is its evidence: `preference` (chosen over rejected), `rating` (a completion and a number, or one for
each of several attributes) or `similarity` (of three, which is the odd one out).
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch.utils.data import Dataset, Sampler

from rewardsmith.data.records import RecordError, Text, as_columns, as_text, text_key
from rewardsmith.models.backbones import Encoded
from rewardsmith.models.heads import Head

BUCKET = 32  # steps whose rows are sorted by length together; a short window keeps the order random
EVIDENCE = {"preference": 2, "rating": 1, "similarity": 3}  # items per row
READ = ("prompt", "chosen", "rejected", "completion", "candidates", "odd", "rating", "attributes", "margin",
        "target_prob", "weight", "user", "history")  # fmt: skip


@dataclass
class Examples(Dataset):
    """P encoded rows of W items: W = 2 (chosen, rejected), 1 (completion) or 3 (the similar two, then the odd one).

    Attributes:
        items: P tuples of W encodings.
        lengths: (P,) tokens of a row's completions with their prompts.
        groups: P keys of prompts.
        columns: further columns, each of length P.
        prompts: group -> encoding of the prompt alone, where the head reads it.
        skipped: rows left out, by kind of failure.
        truncated: completions whose prompt was cut.
    """

    items: list[tuple[Any, ...]]
    lengths: np.ndarray
    groups: list[str]
    columns: dict[str, list[Any]]
    prompts: dict[str, Any]
    skipped: dict[str, int]
    truncated: int

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> int:
        return row

    @property
    def evidence(self) -> str:
        """What the rows say, a key of `EVIDENCE`."""
        return next(name for name, width in EVIDENCE.items() if width == len(self.items[0]))

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """The rows as keyword arguments of `ExampleModule.forward`."""
        groups = [self.groups[i] for i in rows]
        return {
            "items": [item for i in rows for item in self.items[i]],
            "groups": groups,
            "prompts": [self.prompts[key] for key in dict.fromkeys(groups)] if self.prompts else None,
            "columns": {name: [column[i] for i in rows] for name, column in self.columns.items()},
            "lengths": [int(self.lengths[i]) for i in rows],
        }


class HistoryPair(NamedTuple):
    """One choice of a user's history: two encodings, the key of their prompt, the tokens of each."""

    chosen: Any
    rejected: Any
    group: str
    lengths: tuple[int, int]


class Encoder(Protocol):
    """What turns texts into encodings: a `Backbone`, or anything else with this method."""

    def encode(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Encoded:
        """One encoding per row."""


def encode_examples(
    records: Any, encoder: Encoder, head: Head | None = None, *, use_margin: bool = False, what: str = "records"
) -> Examples:
    """Check and encode training rows, and the columns that head and loss read.

    Rows are preferences (`chosen`, `rejected`), ratings (`completion` with `rating` or `attributes`) or similarities
    (three `candidates`, and `odd`, the index of the one that is least like the others). `target_prob` and `weight` are
    read wherever they are there.

    Raises:
        RecordError: for a row without a usable prompt, text, number or history.
        ValueError: where there are no rows, a column is missing, or no row can be encoded.
    """
    columns = as_columns(records)
    evidence, texts = _texts(columns, what)
    for name in ([] if not use_margin else ["margin"]) + list(head.columns if head else ()):
        if name not in columns:
            raise ValueError(f"{what}: no column {name!r}; there are {sorted(columns)}")
    count, width = len(texts), EVIDENCE[evidence]
    if not count:
        raise ValueError(f"{what}: no rows")
    prompts = columns.get("prompt") or [""] * count
    _check_texts("prompt", prompts)
    kept = _kept_columns(columns, evidence, head, use_margin, texts)

    # Interleaved: texts of one prompt follow each other.
    encoded = encoder.encode([p for p in prompts for _ in range(width)], [text for row in texts for text in row])
    failed = {row // width: failure for row, failure in sorted(encoded.failures.items(), reverse=True)}
    groups = [text_key(prompt) for prompt in prompts]
    encodings: dict[str, Any] = {}
    if head and head.reads_prompt:
        first = {key: row for row, key in reversed(list(enumerate(groups)))}
        alone = encoder.encode([""] * len(first), [prompts[row] for row in first.values()])
        encodings = dict(zip(first, alone.items))
        for row, key in enumerate(groups):
            if encodings[key] is None:
                failed.setdefault(row, alone.failures[list(first).index(key)])
    if head and head.reads_history:
        kept["history"], unread = _encode_history(columns, count, encoder)
        for row, failure in unread.items():
            failed.setdefault(row, failure)
    rows = [row for row in range(count) if row not in failed]
    skipped = dict(Counter(failure.kind for failure in failed.values()))
    if not rows:
        row = min(failed)
        raise ValueError(f"{what}: none of {count} rows can be used; row {row}: {failed[row].reason}")
    if failed:
        row = min(failed)
        warnings.warn(
            f"{what}: {len(failed)} of {count} rows left out ({skipped}); row {row}: {failed[row].reason}",
            stacklevel=3,
        )
    lengths = np.array(encoded.lengths).reshape(count, width).sum(1)
    return Examples(
        items=[tuple(encoded.items[width * row : width * (row + 1)]) for row in rows],
        lengths=lengths[rows],
        groups=[groups[row] for row in rows],
        columns={name: [column[row] for row in rows] for name, column in kept.items()},
        prompts=encodings,
        skipped=skipped,
        truncated=len(encoded.truncated),
    )


def _texts(columns: Mapping[str, list[Any]], what: str) -> tuple[str, list[tuple[Text, ...]]]:
    """What the rows say, and the texts of each in the order that the loss reads them."""
    if "chosen" in columns or "rejected" in columns:
        for name in ("chosen", "rejected"):
            if name not in columns:
                raise ValueError(f"{what}: no column {name!r}; there are {sorted(columns)}")
            _check_texts(name, columns[name])
        return "preference", list(zip(columns["chosen"], columns["rejected"]))
    if "odd" in columns:
        texts = []
        for row, (group, odd) in enumerate(zip(columns.get("candidates", []), columns["odd"])):
            if not isinstance(group, list | tuple) or len(group) != 3:
                raise RecordError("must be a list of three", row=row, column="candidates")
            if isinstance(odd, bool) or odd not in (0, 1, 2):
                raise RecordError(f"must be 0, 1 or 2, not {odd!r}", row=row, column="odd")
            texts.append((*(group[i] for i in range(3) if i != odd), group[odd]))
        if len(texts) != len(columns["odd"]):
            raise ValueError(f"{what}: no column 'candidates'; there are {sorted(columns)}")
        for at in range(3):
            _check_texts("candidates", [row[at] for row in texts])
        return "similarity", texts
    if "completion" in columns and ("rating" in columns or "attributes" in columns):
        _check_texts("completion", columns["completion"])
        return "rating", [(text,) for text in columns["completion"]]
    raise ValueError(
        f"{what}: no column 'chosen'; rows are preferences (chosen, rejected), ratings (completion with rating or "
        f"attributes) or similarities (candidates, odd); there are {sorted(columns)}"
    )


def _check_texts(name: str, column: Sequence[Any]) -> None:
    for row, text in enumerate(column):
        if not isinstance(text, str | list | tuple | np.ndarray):
            raise RecordError(f"must be text or a list of messages, not {type(text).__name__}", row=row, column=name)


def _kept_columns(
    columns: Mapping[str, list[Any]],
    evidence: str,
    head: Head | None,
    use_margin: bool,
    texts: Sequence[tuple[Text, ...]],
) -> dict[str, list[Any]]:
    """The columns that head and loss read, checked."""
    kept: dict[str, list[Any]] = {name: columns[name] for name in (head.columns if head else ())}
    if use_margin:
        kept["margin"] = _numbers(columns["margin"], "margin")
    for name, high in (("target_prob", 1.0), ("weight", math.inf)):
        if any(value is not None for value in columns.get(name, [])):
            kept[name] = _numbers([1.0 if value is None else value for value in columns[name]], name, 0.0, high)
    if evidence != "preference" and (given := [name for name in ("margin", "target_prob") if name in kept]):
        raise ValueError(f"the column {given[0]!r} is about preferences; these rows are {evidence}s")
    if evidence == "rating":
        kept["rating"] = _ratings(columns, getattr(head, "attributes", ()))
    if head and head.reads_length:
        kept["length"] = [tuple(len(as_text(text)) for text in row) for row in texts]
    if head and head.reads_rows:
        kept["rows"] = list(range(len(texts)))
    return kept


def _ratings(columns: Mapping[str, list[Any]], attributes: Sequence[str]) -> list[list[float]]:
    """A numbers per row, NaN where one is missing: by attribute where the head knows them, else the one rating."""
    if not attributes:
        if "rating" not in columns:
            raise ValueError("this head learns from one number per row: a column 'rating'")
        return [[value] for value in _numbers(columns["rating"], "rating")]
    if "attributes" not in columns:
        raise ValueError(f"this head learns the attributes {', '.join(attributes)}: a column 'attributes'")
    rows = []
    for row, found in enumerate(columns["attributes"]):
        if not isinstance(found, Mapping):
            raise RecordError("must be a mapping of attributes to numbers", row=row, column="attributes")
        known = {name: found.get(name) for name in attributes}
        if all(value is None for value in known.values()):
            raise RecordError(f"has none of {', '.join(attributes)}", row=row, column="attributes")
        rows.append([math.nan if v is None else _number(v, row, f"attributes.{name}") for name, v in known.items()])
    return rows


def check_history(history: Any, row: int | None = None) -> list[tuple[Any, Any, Any]]:
    """The choices of one user as (prompt, chosen, rejected), from a list of rows with these columns.

    Raises:
        RecordError: for anything else.
    """
    if not isinstance(history, list | tuple):
        raise RecordError("must be a list of choices, {prompt, chosen, rejected}", row=row, column="history")
    found = []
    for at, pair in enumerate(history):
        if not isinstance(pair, Mapping) or not {"chosen", "rejected"} <= set(pair):
            raise RecordError(f"choice {at} must have prompt, chosen and rejected", row=row, column="history")
        found.append((pair.get("prompt", ""), pair["chosen"], pair["rejected"]))
    return found


def _encode_history(
    columns: Mapping[str, list[Any]], count: int, encoder: Encoder
) -> tuple[list[list[HistoryPair]], dict[int, Any]]:
    """Each row's history, in which equal choices are one object; and rows of which a choice cannot be encoded."""
    if "history" not in columns:
        raise ValueError("this head reads the column 'history': other choices of the same user; see with_histories")
    read = [check_history([] if h is None else h, row) for row, h in enumerate(columns["history"])]
    keys = [[tuple(map(text_key, pair)) for pair in row] for row in read]
    distinct = {key: pair for row, pairs in zip(keys, read) for key, pair in zip(row, pairs)}
    encoded = encoder.encode(
        [pair[0] for pair in distinct.values() for _ in "cr"], [text for pair in distinct.values() for text in pair[1:]]
    )
    made, unread = {}, {}
    for at, key in enumerate(distinct):
        a, b = 2 * at, 2 * at + 1
        failure = encoded.failures.get(a) or encoded.failures.get(b)
        if failure is not None:
            unread[key] = failure
        made[key] = HistoryPair(encoded.items[a], encoded.items[b], key[0], (encoded.lengths[a], encoded.lengths[b]))
    failed = {row: unread[key] for row in range(count) for key in keys[row] if key in unread}
    return [[made[key] for key in row] for row in keys], failed


def _number(value: Any, row: int, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise RecordError(f"must be a finite number, not {value!r}", row=row, column=name)
    if not low <= value <= high:
        raise RecordError(f"must lie in [{low:g}, {high:g}], got {value}", row=row, column=name)
    return float(value)


def _numbers(column: Sequence[Any], name: str, low: float = -math.inf, high: float = math.inf) -> list[float]:
    return [_number(value, row, name, low, high) for row, value in enumerate(column)]


class StepSampler(Sampler[list[int]]):
    """Batches of rows for one process: every epoch a new random order, in which a step's rows have similar lengths.

    The rows of one prompt stay together. Steps differ by at most one row, and so do the parts that a step is split
    into for processes and accumulation: the steps are the same however many processes share them.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        *,
        accumulation: int = 1,
        world: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        self.examples, self.parts, self.world, self.rank, self.seed = examples, accumulation * world, world, rank, seed
        self.steps = math.ceil(len(examples) / (batch_size * self.parts))
        if len(examples) // self.steps < self.parts:
            raise ValueError(
                f"{len(examples)} rows are too few for {self.parts} parts a step (processes x accumulation steps)"
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
        for row in generator.permutation(len(self.examples)):
            groups.setdefault(self.examples.groups[row], []).append(int(row))
        rows = np.array([row for members in groups.values() for row in members])
        window = math.ceil(len(rows) / math.ceil(self.steps / BUCKET))
        first = {key: self.examples.lengths[members].max() for key, members in groups.items()}
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            keys = [self.examples.groups[row] for row in part]
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
