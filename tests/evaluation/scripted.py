"""Rewards that do exactly what their name says, for tests of the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rewardsmith.data.records import Batch, Text, as_columns, as_text
from rewardsmith.reward import PreferenceModel, Reward, Scores


class Scripted(Reward):
    """A reward from a function of prompt and completion, both as text."""

    def __init__(self, name: str, function: Callable[[str, str], float]) -> None:
        self.function = function
        self.__name__ = name

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        rows = zip(columns["prompt"], columns["completion"])
        return Scores(np.array([self.function(as_text(p), as_text(c)) for p, c in rows], dtype=float))


class FirstWins(PreferenceModel):
    """Prefers whatever comes first, and the longer one a little."""

    __name__ = "first wins"

    def preference(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], **columns: Any) -> np.ndarray:
        gap = np.array([len(as_text(x)) - len(as_text(y)) for x, y in zip(a, b)], dtype=float)
        return 1.0 + 0.01 * gap


class LongerWins(PreferenceModel):
    """Prefers the longer one, whatever its place."""

    __name__ = "longer wins"

    def preference(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], **columns: Any) -> np.ndarray:
        return np.array([len(as_text(x)) - len(as_text(y)) for x, y in zip(a, b)], dtype=float)
