"""From one kind of record to another: preferences, ratings, rankings, candidates, steps, segments, users.

Every function takes and returns rows (dicts).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from rewardsmith.data.records import RecordError, Row, Text, as_text, text_key


def preferences_to_ratings(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Two rows per pair: chosen with rating 1, rejected with rating 0."""
    out = []
    for row in rows:
        rest = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
        out += [
            {**rest, "completion": row["chosen"], "rating": 1.0},
            {**rest, "completion": row["rejected"], "rating": 0.0},
        ]
    return out


def ratings_to_candidates(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row per prompt, with its completions as `candidates` and their `ratings`, in order of appearance."""
    groups: dict[str, Row] = {}
    for row in rows:
        group = groups.setdefault(text_key(row["prompt"]), {"prompt": row["prompt"], "candidates": [], "ratings": []})
        group["candidates"].append(row["completion"])
        group["ratings"].append(row["rating"])
    return list(groups.values())


def candidates_to_preferences(rows: Iterable[Mapping[str, Any]], *, min_gap: float = 0.0) -> list[Row]:
    """All pairs of candidates that differ by more than `min_gap`, the better one chosen.

    What is better is said by `ratings` (higher), `ranks` (lower) or `num_correct` (the first ones are right). The
    difference is kept as `margin` where there are ratings.

    Raises:
        RecordError: for a row that has none of the three.
    """
    out = []
    for number, row in enumerate(rows):
        texts = row["candidates"]
        if row.get("ratings") is not None:
            worth = np.asarray(row["ratings"], dtype=float)
        elif row.get("ranks") is not None:
            worth = -np.asarray(row["ranks"], dtype=float)
        elif row.get("num_correct") is not None:
            worth = (np.arange(len(texts)) < row["num_correct"]).astype(float)
        else:
            raise RecordError(
                "cannot be paired: there must be 'ratings', 'ranks' or 'num_correct'", row=number, column="candidates"
            )
        per_candidate = ("candidates", "ratings", "ranks", "num_correct", "gold", "total_completions")
        rest = {name: value for name, value in row.items() if name not in per_candidate}
        for i, j in itertools.combinations(range(len(texts)), 2):
            gap = float(worth[i] - worth[j])
            if abs(gap) <= min_gap:
                continue
            won, lost = (i, j) if gap > 0 else (j, i)
            pair = {**rest, "chosen": texts[won], "rejected": texts[lost]}
            out.append({**pair, "margin": abs(gap)} if row.get("ratings") is not None else pair)
    return out


def users_to_preferences(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Preferences of several users as one row per pair of completions: the majority's, without `user`.

    `target_prob` is the share of users who preferred `chosen`; of a tie the first user's choice, with 0.5. Which of
    several `margin`, `context` and the like would hold is unknown, so only `prompt` and the completions stay.
    """
    votes: dict[tuple[str, frozenset[str]], tuple[Row, list[str]]] = {}
    for row in rows:
        chosen, rejected = text_key(row["chosen"]), text_key(row["rejected"])
        key = (text_key(row["prompt"]), frozenset((chosen, rejected)))
        votes.setdefault(key, (dict(row), []))[1].append(chosen)
    out = []
    for first, keys in votes.values():
        share = keys.count(text_key(first["chosen"])) / len(keys)
        won, lost = ("chosen", "rejected") if share >= 0.5 else ("rejected", "chosen")
        texts = {"prompt": first["prompt"], "chosen": first[won], "rejected": first[lost]}
        out.append({**texts, "target_prob": max(share, 1 - share)})
    return out


def steps_to_completions(rows: Iterable[Mapping[str, Any]], *, separator: str = "\n") -> list[Row]:
    """Step-labelled rows as completions, the steps joined by `separator`."""
    out = []
    for row in rows:
        rest = {name: value for name, value in row.items() if name not in ("completions", "labels")}
        out.append({**rest, "completion": separator.join(row["completions"])})
    return out


def steps_to_segments(rows: Iterable[Mapping[str, Any]], *, separator: str = "\n") -> list[Row]:
    """Step-labelled rows as segment-labelled ones; a segment ends with its step, separators belong to the next one."""
    out = []
    for row in rows:
        rest = {name: value for name, value in row.items() if name not in ("completions", "labels")}
        ends = np.cumsum([len(step) for step in row["completions"]]) + len(separator) * np.arange(
            len(row["completions"])
        )
        segments = [{"end": int(end), "label": label} for end, label in zip(ends, row["labels"])]
        out.append({**rest, "completion": separator.join(row["completions"]), "segments": segments})
    return out


def segments_to_steps(rows: Iterable[Mapping[str, Any]], *, separator: str = "\n") -> list[Row]:
    """Segment-labelled rows as step-labelled ones: the inverse of `steps_to_segments`.

    Raises:
        RecordError: for a segment without a label.
    """
    out = []
    for number, row in enumerate(rows):
        if any(segment.get("label") is None for segment in row["segments"]):
            raise RecordError("cannot become steps: every segment must have a label", row=number, column="segments")
        rest = {name: value for name, value in row.items() if name not in ("completion", "segments")}
        text, ends = as_text(row["completion"]), [segment["end"] for segment in row["segments"]]
        steps = [
            text[start:end].removeprefix(separator) if start else text[:end] for start, end in zip([0, *ends], ends)
        ]
        out.append({**rest, "completions": steps, "labels": [segment["label"] for segment in row["segments"]]})
    return out


def unpaired_to_preferences(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Every desirable completion of a prompt paired with every undesirable one."""
    groups: dict[str, tuple[Text, list[Text], list[Text]]] = {}
    for row in rows:
        _, good, bad = groups.setdefault(text_key(row["prompt"]), (row["prompt"], [], []))
        (good if row["label"] else bad).append(row["completion"])
    return [
        {"prompt": prompt, "chosen": won, "rejected": lost}
        for prompt, good, bad in groups.values()
        for won, lost in itertools.product(good, bad)
    ]


# kind read, kind wanted -> how to get there
PATHS: dict[tuple[str, str], Callable[[Iterable[Mapping[str, Any]]], list[Row]]] = {
    ("candidates", "preference"): candidates_to_preferences,
    ("ranking", "preference"): candidates_to_preferences,
    ("rating", "preference"): lambda rows: candidates_to_preferences(ratings_to_candidates(rows)),
    ("rating", "candidates"): ratings_to_candidates,
    ("unpaired", "preference"): unpaired_to_preferences,
    ("preference", "rating"): preferences_to_ratings,
    ("steps", "completion"): steps_to_completions,
    ("steps", "segments"): steps_to_segments,
    ("segments", "steps"): segments_to_steps,
}
