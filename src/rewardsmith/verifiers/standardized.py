"""Rewards of different units in one: the mean of their z-scores, such as BLEU and a reward model (paper 04)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from rewardsmith.data.records import Batch, as_columns, text_key
from rewardsmith.reward import Failure, Reward, Scores


def grouped_z_scores(values: np.ndarray, groups: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """(v - mean) / (standard deviation + eps) in each group, with the sample's deviation (n - 1).

    Args:
        values: (B,), NaN where there is none; those count in no mean and stay.
        groups: (B,) integers from 0.
        eps: keeps groups of equal values at 0.

    Returns:
        (B,), 0 in a group of one.
    """
    known = ~np.isnan(values)
    count = np.bincount(groups, weights=known)
    mean = np.bincount(groups, weights=np.where(known, values, 0.0)) / np.maximum(count, 1)
    centered = values - mean[groups]
    squares = np.bincount(groups, weights=np.where(known, centered, 0.0) ** 2)
    return centered / (np.sqrt(squares / np.maximum(count - 1, 1))[groups] + eps)


class StandardizedMean(Reward):
    """The mean of rewards, each z-scored among the completions of one prompt. Parts: the rewards, as they were.

    For preference pairs use `by=None`: with two completions of a prompt z-scores say only which one is ahead.

    Args:
        rewards: at least one, such as `[BLEU(), reward_model]`.
        by: column whose equal values make a group; None: the whole batch is one.
    """

    def __init__(self, rewards: Iterable[Reward], *, by: str | None = "prompt") -> None:
        self.rewards, self.by = list(rewards), by
        if not self.rewards:
            raise ValueError("a mean needs at least one reward")
        self.__name__ = " & ".join(reward.__name__ for reward in self.rewards)

    def set_step(self, step: int) -> None:
        self.step = step
        for reward in self.rewards:
            reward.set_step(step)

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        if self.by is not None and self.by not in columns:
            raise ValueError(f"no column {self.by!r} to group by; there are {sorted(columns)}")
        keys: list[Any] = [0] * len(columns["completion"]) if self.by is None else columns[self.by]
        numbers: dict[str, int] = {}
        groups = np.array([numbers.setdefault(text_key(key), len(numbers)) for key in keys], dtype=np.int64)
        scored = [reward.resolved(columns) for reward in self.rewards]
        total = np.mean([grouped_z_scores(scores.values, groups) for scores in scored], axis=0)
        parts: dict[str, np.ndarray] = {}
        failures: dict[int, Failure] = {}
        for index, (reward, scores) in enumerate(zip(self.rewards, scored)):
            name = reward.__name__ if reward.__name__ not in parts else f"{reward.__name__}_{index + 1}"
            parts[name] = scores.values
            parts.update({f"{name}/{key}": part for key, part in scores.parts.items()})
            for row, failure in scores.failures.items():
                failures.setdefault(row, replace(failure, reason=f"{name}: {failure.reason}"))
        return Scores(total, parts=parts, failures=failures)

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on (JSON)."""
        inner: list[dict[str, Any]] = [getattr(reward, "fingerprint", dict)() for reward in self.rewards]
        return {"class": "StandardizedMean", "by": self.by, "rewards": inner}
