"""Preferences with a strength, and HelpSteer2's records (Wang et al. 2024, arXiv 2410.01257, section 3).

A strength s says of two responses which is better and by how much: -3, -2, -1 where the first is much, clearly or
slightly better, 0 where neither is, 1 to 3 where the second is.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rewardsmith.data.records import RecordError, Row

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
SPREAD = 2  # votes that are to be averaged differ by at most so much
NOT_RATED = -100  # how files that were made for training write a rating that is not there


def aggregate_strength(votes: Sequence[int]) -> int | None:
    """One strength from those of three or more annotators: the mean of the three that agree most, rounded.

    Which three is a matter of their range, then of their squared distances, then of how near their mean is to that of
    all votes, then of the weaker preference. Votes of the opposite sign give the opposite result.

    Returns:
        the strength, or None where even the three nearest votes differ by more than two steps, or where three votes
        for either response agree equally well.

    Raises:
        ValueError: for fewer than three votes, or one that is no integer.
    """
    if len(votes) < 3 or any(isinstance(vote, bool) or int(vote) != vote for vote in votes):
        raise ValueError(f"needs three or more integers, got {list(votes)}")
    ordered = sorted(int(vote) for vote in votes)
    total, count = sum(ordered), len(ordered)

    def merit(three: tuple[int, ...]) -> tuple[int, int, int, int]:
        a, b, c = three  # integers throughout, so that opposite votes tie exactly
        apart = (a - b) ** 2 + (b - c) ** 2 + (a - c) ** 2
        return c - a, apart, abs(count * (a + b + c) - 3 * total), abs(a + b + c)

    triples = [tuple(ordered[at : at + 3]) for at in range(count - 2)]
    best = min(map(merit, triples))
    sums = {sum(three) for three in triples if merit(three) == best}
    if best[0] > SPREAD or len(sums) > 1:
        return None
    return round(sums.pop() / 3)


def prefer_by_strength(
    rows: Iterable[Mapping[str, Any]], use: Literal["plain", "margin", "weight"] = "weight"
) -> tuple[list[Row], dict[str, int]]:
    """Rows of two responses and a strength as preferences.

    Args:
        rows: with `prompt`, `response_1`, `response_2` and `preference_strength`: a number, or a list of the
            annotators' (which `aggregate_strength` makes one). Further columns are kept.
        use: what becomes of m = |strength|: `weight` multiplies the loss by it (scaled Bradley-Terry, the paper's),
            `margin` asks for a difference of rewards of m (to be trained with `use_margin=True`), `plain` neither.

    Returns:
        rows with `chosen`, `rejected`, `strength` (m), `chosen_position` (1 or 2), and `margin` or `weight`; and how
        many rows were left out, by reason: `no preference` (0), `no agreement` (see `aggregate_strength`).

    Raises:
        RecordError: for a row without a prompt, a response or a usable strength.
    """
    if use not in ("plain", "margin", "weight"):
        raise ValueError(f"use must be 'plain', 'margin' or 'weight', not {use!r}")
    out: list[Row] = []
    left_out: Counter[str] = Counter()
    for number, row in enumerate(rows):
        for name in ("prompt", "response_1", "response_2"):
            if row.get(name) is None:
                raise RecordError("is missing", row=number, column=name)
        strength = _strength(row.get("preference_strength"), number)
        if not strength:
            left_out["no agreement" if strength is None else "no preference"] += 1
            continue
        won, lost = (1, 2) if strength < 0 else (2, 1)
        used = ("response_1", "response_2", "preference_strength")
        pair = {name: value for name, value in row.items() if name not in used}
        pair |= {"chosen": row[f"response_{won}"], "rejected": row[f"response_{lost}"]}
        pair |= {"strength": abs(strength), "chosen_position": won}
        out.append(pair if use == "plain" else {**pair, use: abs(strength)})
    return out, dict(left_out)


def _strength(value: Any, row: int) -> float | None:
    if isinstance(value, list | tuple):
        try:
            agreed = aggregate_strength(value)
            return None if agreed is None else float(agreed)
        except (TypeError, ValueError) as error:
            raise RecordError(str(error), row=row, column="preference_strength") from None
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        problem = f"must be a number, negative where response_1 is better, or a list of them; not {value!r}"
        raise RecordError(problem, row=row, column="preference_strength")
    return float(value)


def attribute_ratings(rows: Iterable[Mapping[str, Any]], attributes: Sequence[str] = ATTRIBUTES) -> list[Row]:
    """Rows of a response with a column per attribute (HelpSteer, HelpSteer2) as `completion` and `attributes`.

    Args:
        rows: with `prompt`, `response` (or `completion`), and numbers in the columns that `attributes` names. None and
            -100 are ratings that are not there.
        attributes: which to keep. The paper's first stage learns from `["helpfulness"]` alone.

    Raises:
        RecordError: for a row without a response, or without any of the attributes.
    """
    out = []
    for number, row in enumerate(rows):
        text = row.get("response", row.get("completion"))
        if text is None:
            raise RecordError("is missing", row=number, column="response")
        found = {name: None if row.get(name) == NOT_RATED else row.get(name) for name in attributes}
        if all(value is None for value in found.values()):
            raise RecordError(f"has no rating of {', '.join(attributes)}", row=number)
        rest = {
            name: value
            for name, value in row.items()
            if name not in itertools.chain(("response", "completion", "rating"), ATTRIBUTES, attributes)
        }
        out.append({**rest, "completion": text, "attributes": found})
    return out
