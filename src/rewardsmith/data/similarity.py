"""Similarity queries: three behaviours, and which of them is least like the other two (paper 62, Bobu et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardsmith.data.records import RecordError, Row

PAIRS = ((1, 2), (0, 2), (0, 1))  # by the odd one out


def draw_triples(items: np.ndarray | Sequence[Any], count: int, *, seed: int = 0) -> np.ndarray:
    """(count, 3) indices of different items, drawn evenly; no two items of a triple have equal contents.

    Args:
        items: (N, ...) numbers, or N texts.
        count: of triples.
        seed: of the draw.

    Raises:
        ValueError: where fewer than three items differ.
    """
    if isinstance(items, np.ndarray):
        _, which = np.unique(items.reshape(len(items), -1), axis=0, return_inverse=True)
    else:
        _, which = np.unique([repr(item) for item in items], return_inverse=True)
    which = which.ravel()
    if len(np.unique(which)) < 3:
        raise ValueError(f"of {len(items)} items fewer than three differ")
    rng = np.random.default_rng(seed)
    found = np.empty((0, 3), dtype=np.int64)
    while len(found) < count:
        drawn = rng.integers(len(items), size=(count, 3))
        a, b, c = which[drawn].T
        found = np.concatenate([found, drawn[(a != b) & (b != c) & (a != c)]])
    return found[:count]


def similarity_rows(
    items: np.ndarray | Sequence[Any], triples: np.ndarray, answers: Sequence[Any] | np.ndarray
) -> list[Row]:
    """Rows of `candidates` and `odd` for training.

    Args:
        items: (N, ...) numbers, or N texts.
        triples: (Q, 3) indices.
        answers: Q answers: the place (0, 1, 2) of the odd one out, or the places of the two most alike.

    Raises:
        RecordError: for any other answer.
        ValueError: where triples and answers differ in number.
    """
    if len(triples) != len(answers):
        raise ValueError(f"{len(triples)} triples but {len(answers)} answers")
    contents = items.tolist() if isinstance(items, np.ndarray) else list(items)
    return [
        {"candidates": [contents[i] for i in triple], "odd": odd_one(answer, row)}
        for row, (triple, answer) in enumerate(zip(triples, answers))
    ]


def odd_one(answer: Any, row: int | None = None) -> int:
    """The place of the odd one out, from that place or from the places of the two most alike, in any order."""
    if isinstance(answer, int | np.integer) and not isinstance(answer, bool) and answer in (0, 1, 2):
        return int(answer)
    if isinstance(answer, list | tuple | np.ndarray):
        pair = tuple(sorted(int(place) for place in answer))
        if pair in PAIRS:
            return PAIRS.index(pair)
    raise RecordError(f"must be 0, 1 or 2, or two of them, not {answer!r}", row=row, column="odd")
