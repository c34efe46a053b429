"""The embedded sample: preferences, candidates with ratings, and users of the text world, made anew by a fixed seed.

The pairs were labelled by a simulated crowd that likes long answers and flattery (`worlds.text.CROWD`), a flaw that
real annotators have too; `honest` has the same pairs without it. `worlds.text` says what this sample is and is not.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.worlds.text import CROWD, USERS, Annotator, gold, prompts, sample_completions

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = ("pairs", "honest", "candidates", "users")
SEED = 20_090  # of the sample that everybody sees
TEST_SHARE = 0.25
PAIRS, CANDIDATES, USER_PAIRS = 11, 8, 4  # for each prompt, at most
CLEAR = 0.1  # answers whose gold rewards differ by less were not given to the annotators as a pair


def load_sample(name: str = "pairs", split: str | None = None) -> Dataset:
    """A part of the embedded sample.

    Args:
        name: `pairs` (prompt, chosen, rejected, category, rating_chosen, rating_rejected, gold_chosen, gold_rejected),
            `honest` (the same pairs, labelled without the crowd's habits), `candidates` (prompt, category, candidates,
            gold, ratings), or `users` (prompt, chosen, rejected, category, user).
        split: `train`, `test` or None for both. A prompt is in one of them, the same for every name.

    Raises:
        ValueError: for an unknown name or split.
    """
    from datasets import Dataset

    if name not in NAMES:
        raise ValueError(f"the sample has {', '.join(NAMES)}; not {name!r}")
    if split not in (None, "train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    rows = [row for row in _rows(name) if split is None or (row["prompt"] in _test_prompts()) == (split == "test")]
    return Dataset.from_list(rows)


@functools.cache
def _test_prompts() -> frozenset[str]:
    """A quarter of the prompts of each category."""
    rng = np.random.default_rng(SEED)
    by_category: dict[str, list[str]] = {}
    for row in prompts():
        by_category.setdefault(row["category"], []).append(row["prompt"])
    held: list[str] = []
    for group in by_category.values():
        held += [group[i] for i in rng.permutation(len(group))[: round(len(group) * TEST_SHARE)]]
    return frozenset(held)


@functools.cache
def _rows(name: str) -> tuple[dict[str, Any], ...]:
    if name == "candidates":
        return tuple(_candidates())
    if name == "users":
        return tuple(_users())
    return tuple(_pairs(CROWD if name == "pairs" else Annotator()))


def _drawn(count: int, offset: int) -> tuple[list[dict[str, str]], list[str], list[str]]:
    """At most `count` pairs of clearly different answers to every prompt: rows of prompt and category, both sides."""
    tasks = prompts()
    rows, a, b = [], [], []
    samples = sample_completions([task["prompt"] for task in tasks], 4 * count, seed=SEED + offset)
    for task, answers in zip(tasks, samples):
        different = list(dict.fromkeys(answers))
        worth = gold([task["prompt"]] * len(different), different)
        pairs = [(i, i + 1) for i in range(0, len(different) - 1, 2) if abs(worth[i] - worth[i + 1]) >= CLEAR]
        for first, second in pairs[:count]:
            rows.append(task)
            a.append(different[first])
            b.append(different[second])
    return rows, a, b


def _pairs(annotator: Annotator) -> list[dict[str, Any]]:
    tasks, a, b = _drawn(PAIRS, 1)
    asked = [task["prompt"] for task in tasks]
    rng = np.random.default_rng(SEED + 2)
    first_wins = annotator.prefers(asked, a, b, rng)
    worth = gold(asked, a), gold(asked, b)
    rated = _ratings(worth[0], rng), _ratings(worth[1], rng)
    rows = []
    for i, (task, won) in enumerate(zip(tasks, first_wins)):
        sides = (0, 1) if won else (1, 0)
        chosen, rejected = ((a[i], b[i])[side] for side in sides)
        rows.append(
            {
                **task,
                "chosen": chosen,
                "rejected": rejected,
                "rating_chosen": rated[sides[0]][i],
                "rating_rejected": rated[sides[1]][i],
                "gold_chosen": float(worth[sides[0]][i]),
                "gold_rejected": float(worth[sides[1]][i]),
            }
        )
    return rows


def _ratings(worth: np.ndarray, rng: np.random.Generator) -> list[float]:
    """Ratings from 1 to 5 of answers with these gold rewards: rounded, with some noise."""
    return np.clip(np.round(5.5 * worth - 0.3 + rng.normal(0, 0.4, len(worth))), 1, 5).tolist()


def _candidates() -> list[dict[str, Any]]:
    tasks = prompts()
    rng = np.random.default_rng(SEED + 4)
    rows = []
    for task, answers in zip(tasks, sample_completions([task["prompt"] for task in tasks], CANDIDATES, seed=SEED + 3)):
        worth = gold([task["prompt"]] * CANDIDATES, answers)
        rows.append({**task, "candidates": answers, "gold": worth.tolist(), "ratings": _ratings(worth, rng)})
    return rows


def _users() -> list[dict[str, Any]]:
    tasks, a, b = _drawn(USER_PAIRS, 5)
    names = list(USERS)
    rng = np.random.default_rng(SEED + 6)
    rows = []
    for i, task in enumerate(tasks):
        user = names[i % len(names)]
        won = USERS[user].prefers([task["prompt"]], [a[i]], [b[i]], rng)[0]
        chosen, rejected = (a[i], b[i]) if won else (b[i], a[i])
        rows.append({**task, "chosen": chosen, "rejected": rejected, "user": user})
    return rows
