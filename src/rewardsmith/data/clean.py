"""Denoising of preferences by their strength: flip, drop, soften, smooth, margins.

Paper 05 (Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II: Reward Modeling", section 2).

Rows carry `strength`, by how much several models prefer chosen (negative: they would have it the other way round), as
`models.strength.preference_strength` finds it. An operation says which rows it changes and how; `clean` runs several
and reports every change. What the operations write (`target_prob`, `margin`) the trainer reads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rewardsmith.data.records import RecordError, Row, as_columns

LOWEST = 0.2  # share of pairs that are mostly wrong; the next as many are ambiguous
AMBIGUOUS, STRONGEST = (0.2, 0.4), (0.9, 1.0)
EVERY = (0.0, 1.0)

Bands = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Change:
    """What one operation did to one row.

    Attributes:
        row: number in the data that `clean` was given.
        operation: its name.
        why: in words.
        strength: of the row as it came.
        strength_std: of the row, or None.
        before: the columns that changed (None where there was none), without the texts.
        after: the same columns afterwards; empty for a dropped row.
    """

    row: int
    operation: str
    why: str
    strength: float
    strength_std: float | None
    before: dict[str, Any]
    after: dict[str, Any]


@dataclass
class CleanReport:
    """What `clean` did.

    Attributes:
        rows: rows that came.
        kept: rows that are left.
        counts: rows changed, by operation, in the order in which they ran.
        unjudged: rows without a strength; they are kept as they came.
        negative: share of the rows with a strength in which it is below 0.
        quantiles: of strength, at 0, 10, ..., 100 percent.
        changes: every change, by row.
    """

    rows: int
    kept: int
    counts: dict[str, int]
    unjudged: list[int]
    negative: float
    quantiles: list[float]
    changes: list[Change] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Everything but the changes (JSON)."""
        plain = {name: value for name, value in vars(self).items() if name not in ("changes", "unjudged")}
        return {**plain, "unjudged": len(self.unjudged)}

    def to_dict(self) -> dict[str, Any]:
        """Everything (JSON)."""
        return asdict(self)


class Cleaned(NamedTuple):
    """Rows after `clean`, and what it changed."""

    records: list[Row]
    report: CleanReport


@dataclass(frozen=True)
class Operation:
    """One change of the rows within bands of strength.

    Attributes:
        name: for the report.
        bands: shares of the rows, from the weakest strength (0) to the strongest (1): `((0.0, 0.2),)` is the lowest
            fifth.
        below: of them, only rows whose strength is below this.
        edit: the changed row, or None to drop it. It sees the strength as earlier operations left it.
    """

    name: str
    bands: Bands
    below: float
    edit: Callable[[Row], Row | None]

    def __post_init__(self) -> None:
        for low, high in self.bands:
            if not 0 <= low < high <= 1:
                raise ValueError(f"{self.name}: a band is two shares, 0 <= low < high <= 1, not {(low, high)}")

    def select(self, strength: np.ndarray) -> np.ndarray:
        """(N,) bool: which rows to change, from their strengths (N,); never one whose strength is NaN."""
        judged = np.flatnonzero(np.isfinite(strength))
        order = judged[np.argsort(strength[judged], kind="stable")]
        chosen = np.zeros(len(strength), dtype=bool)
        for low, high in self.bands:
            chosen[order[round(low * len(order)) : round(high * len(order))]] = True
        return chosen & (np.nan_to_num(strength) < self.below)

    def why(self) -> str:
        """Which rows it changes, in words."""
        parts = []
        if self.bands != (EVERY,):
            parts.append("strength in " + " or ".join(f"{low:.0%} to {high:.0%} of all" for low, high in self.bands))
        if math.isfinite(self.below):
            parts.append(f"strength below {self.below:g}")
        return " and ".join(parts) or "every pair"


def flip(lowest: float = LOWEST, *, below: float = 0.0) -> Operation:
    """Exchange chosen and rejected in the lowest share of pairs, where the strength speaks against the label.

    With `lowest=1` the sign alone decides. What describes a text (`generator_chosen`, scores) goes with it; what the
    annotator said of the pair (`margin`, `target_prob`) stays.
    """
    return Operation("flip", ((0.0, lowest),), below, _exchange)


def drop(lowest: float = LOWEST, *, below: float = math.inf) -> Operation:
    """Leave out the lowest share of pairs; with `lowest=1, below=0`, those with a negative strength."""
    return Operation("drop", ((0.0, lowest),), below, lambda row: None)


def soften(*bands: tuple[float, float], scale: float = 1.0) -> Operation:
    """Soft labels: `target_prob` = sigmoid(scale * strength). Default: the ambiguous and the strongest pairs.

    Args:
        bands: shares of the rows by strength.
        scale: of strength, in units of the reward that will be trained. Models that voted after a brief training
            differ by less than they would after a long one.
    """
    _check_scale(scale)
    return Operation(
        "soften",
        bands or (AMBIGUOUS, STRONGEST),
        math.inf,
        lambda row: {**row, "target_prob": _sigmoid(scale * row["strength"])},
    )


def smooth(amount: float = 0.1, *bands: tuple[float, float]) -> Operation:
    """Label smoothing: a `target_prob` of p (1 where there is none) becomes (1 - amount) p + amount (1 - p).

    Args:
        amount: in [0, 0.5].
        bands: shares of the rows by strength. Default: all.
    """
    if not 0 <= amount <= 0.5:
        raise ValueError(f"amount must lie in [0, 0.5], got {amount}")

    def edit(row: Row) -> Row:
        target = 1.0 if row.get("target_prob") is None else row["target_prob"]
        return {**row, "target_prob": (1 - amount) * target + amount * (1 - target)}

    return Operation("smooth", bands or (EVERY,), math.inf, edit)


def adaptive_margin(*bands: tuple[float, float], scale: float = 1.0) -> Operation:
    """`margin` = scale * strength, which `train(use_margin=True)` subtracts; below 0 it asks for less.

    Args:
        bands: shares of the rows by strength. Default: all.
        scale: as for `soften`.
    """
    _check_scale(scale)
    return Operation(
        "margin", bands or (EVERY,), math.inf, lambda row: {**row, "margin": float(scale * row["strength"])}
    )


def recommended(lowest: float = LOWEST, *, scale: float = 1.0) -> tuple[Operation, ...]:
    """The mix that the paper recommends: flip the lowest, soft labels for the next fifth and the strongest tenth, and
    an adaptive margin for all.
    """
    return flip(lowest), soften((lowest, lowest + 0.2), STRONGEST, scale=scale), adaptive_margin(scale=scale)


def clean(records: Any, *operations: Operation) -> Cleaned:
    """Run operations one after the other; all of them see the strengths' order as it was in the beginning.

    Args:
        records: preferences with `strength` (None or NaN where nobody voted: such rows stay as they are).
        operations: what to do.

    Returns:
        the rows that are left, in their order, and a report of every change.

    Raises:
        RecordError: for a strength that is no number.
        ValueError: where there is no column `strength`, or no operation.
    """
    if not operations:
        raise ValueError("there is nothing to do: give flip(), soften(), ...")
    columns = as_columns(records)
    for name in ("chosen", "rejected", "strength"):
        if name not in columns:
            hint = "; see preference_strength" if name == "strength" else ""
            raise ValueError(f"no column {name!r}; there are {sorted(columns)}{hint}")
    strength = np.array([_strength(value, row) for row, value in enumerate(columns["strength"])], dtype=float)
    rows: list[Row | None] = [dict(zip(columns, values)) for values in zip(*columns.values())]
    changes: list[Change] = []
    counts: Counter[str] = Counter()
    for operation in operations:
        counts[operation.name] += 0
        for number in np.flatnonzero(operation.select(strength)).tolist():
            row = rows[number]
            if row is None:
                continue
            edited = operation.edit(dict(row))
            changes.append(_change(number, operation, row, edited, strength[number]))
            counts[operation.name] += 1
            rows[number] = edited
    left = [row for row in rows if row is not None]
    names = dict.fromkeys(name for row in left for name in row)
    judged = strength[np.isfinite(strength)]
    report = CleanReport(
        rows=len(rows),
        kept=len(left),
        counts=dict(counts),
        unjudged=np.flatnonzero(~np.isfinite(strength)).tolist(),
        negative=float((judged < 0).mean()) if len(judged) else math.nan,
        quantiles=np.quantile(judged, np.linspace(0, 1, 11)).tolist() if len(judged) else [],
        changes=sorted(changes, key=lambda change: change.row),
    )
    # Rows that an operation left alone lack what it wrote: a label is then certain, a margin 0.
    filled = {"target_prob": 1.0, "margin": 0.0}
    return Cleaned([{n: row[n] if n in row else filled.get(n) for n in names} for row in left], report)


def _change(number: int, operation: Operation, row: Row, edited: Row | None, strength: float) -> Change:
    std = row.get("strength_std")
    changed = {} if edited is None else {name: value for name, value in edited.items() if value is not row.get(name)}
    shown = {name: value for name, value in changed.items() if isinstance(value, bool | int | float)}
    return Change(
        row=number,
        operation=operation.name,
        why=operation.why(),
        strength=float(strength),
        strength_std=None if std is None or math.isnan(std) else float(std),
        before={name: row.get(name) for name in shown},
        after=shown,
    )


def _exchange(row: Row) -> Row:
    """The row with its two sides exchanged, in every column that speaks of one of them."""
    out = dict(row)
    for name in row:
        other = name.replace("chosen", "rejected")
        if other != name and other in row:
            out[name], out[other] = row[other], row[name]
    if row.get("strength") is not None:
        out["strength"] = -row["strength"]
    if row.get("chosen_position") in (1, 2):
        out["chosen_position"] = 3 - row["chosen_position"]
    if isinstance(row.get("gpt4_agrees"), bool):
        out["gpt4_agrees"] = not row["gpt4_agrees"]
    return out


def _strength(value: Any, row: int) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or math.isinf(value):
        raise RecordError(f"must be a finite number, not {value!r}", row=row, column="strength")
    return float(value)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _check_scale(scale: float) -> None:
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive, got {scale}")


def parse_operations(text: str, *, scale: float = 1.0) -> tuple[Operation, ...]:
    """Operations as the command line writes them, with commas between: `flip`, `flip:0.1`, `flip:negative`, `drop:0.2`,
    `drop:negative`, `soften`, `soften:0.2-0.4`, `smooth:0.1`, `margin`, `recommended`.

    Raises:
        ValueError: for anything else.
    """
    found: list[Operation] = []
    for part in (part.strip() for part in text.split(",")):
        name, _, given = part.partition(":")
        try:
            if name in ("flip", "drop"):
                make = flip if name == "flip" else drop
                found.append(make(1.0, below=0.0) if given == "negative" else make(float(given) if given else LOWEST))
            elif name in ("soften", "margin"):
                low, _, high = given.partition("-")
                bands = [(float(low), float(high))] if given else []
                found.append((soften if name == "soften" else adaptive_margin)(*bands, scale=scale))
            elif name == "smooth":
                found.append(smooth(float(given)) if given else smooth())
            elif name == "recommended":
                found += recommended(float(given) if given else LOWEST, scale=scale)
            else:
                raise ValueError("no such operation")
        except ValueError as error:
            raise ValueError(
                f"{part!r}: {error}; there are flip, drop (:0.2, :negative), soften, margin (:0.2-0.4), smooth (:0.1) "
                "and recommended"
            ) from None
    return tuple(found)


def from_strength_cleaned(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of `fnlp/hh-rlhf-strength-cleaned` in our columns.

    `chosen` and `rejected` are lists of turns with one history; its turns become the prompt's messages. The mean and
    standard deviation of the preference difference become `strength` and `strength_std`, the models' scores
    `scores_chosen` and `scores_rejected`, and `GPT4 label` (1, 0, or -1 for none) `gpt4_agrees`, True, False or None.

    Raises:
        RecordError: for a row that is not of this layout.
    """
    out = []
    for number, row in enumerate(rows):
        for name in ("chosen", "rejected", "mean preference difference"):
            if row.get(name) is None:
                raise RecordError("is missing", row=number, column=name)
        chosen, rejected = (_turns(row[name], number, name) for name in ("chosen", "rejected"))
        if chosen[:-1] != rejected[:-1]:
            raise RecordError("must have the history of 'chosen'", row=number, column="rejected")
        made: Row = {
            "prompt": chosen[:-1],
            "chosen": chosen[-1:],
            "rejected": rejected[-1:],
            "strength": _strength(row["mean preference difference"], number),
        }
        renamed = {
            "std preference difference": "strength_std",
            "chosen score list": "scores_chosen",
            "rejected score list": "scores_rejected",
        }
        made |= {ours: row[theirs] for theirs, ours in renamed.items() if theirs in row}
        if "GPT4 label" in row:
            made["gpt4_agrees"] = {1: True, 0: False}.get(row["GPT4 label"])
        out.append(made)
    return out


def _turns(turns: Any, row: int, column: str) -> list[dict[str, str]]:
    """Turns as messages: the last one is the assistant's, and they alternate, unless they begin with who speaks."""
    if not isinstance(turns, list | tuple) or len(turns) < 2 or not all(isinstance(turn, str) for turn in turns):
        raise RecordError("must be a list of turns, the last one the completion", row=row, column=column)
    messages = []
    for at, turn in enumerate(turns):
        role = "assistant" if (len(turns) - at) % 2 else "user"
        for who, said_by in (("Human:", "user"), ("Assistant:", "assistant")):
            if turn.lstrip().startswith(who):
                role, turn = said_by, turn.lstrip().removeprefix(who)
        messages.append({"role": role, "content": turn.strip()})
    return messages
