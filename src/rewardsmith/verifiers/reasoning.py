"""Completions of a thought and an answer, `<think>...</think><answer>...</answer>`: what is scored, and the format."""

from __future__ import annotations

import re

import numpy as np

from rewardsmith.data.records import Batch, as_columns
from rewardsmith.reward import Reward, Scores
from rewardsmith.verifiers.reading import assistant_text

_THOUGHT = ("<think>", "</think>", "<answer>", "</answer>")
_FORMAT = re.compile(r"<think>.*?</think><answer>.*?</answer>", re.DOTALL)


def answer_text(text: str) -> str:
    """What stands between the answer tags; all after the opening one where it is not closed; else the whole text."""
    _, opening, answer = text.partition("<answer>")
    return answer.partition("</answer>")[0].strip() if opening else text


class ReasoningFormat(Reward):
    """1 where a completion is one think block and at once one answer block, and nothing else; else 0 (paper 04).

    Details say what is wrong.
    """

    __name__ = "reasoning_format"

    def score(self, batch: Batch) -> Scores:
        problems = [_problem(assistant_text(completion)) for completion in as_columns(batch)["completion"]]
        values = np.array([float(problem is None) for problem in problems])
        return Scores(values, details=[{"problem": problem} for problem in problems])


def _problem(text: str) -> str | None:
    for tag in _THOUGHT:
        if (count := text.count(tag)) != 1:
            return f"{tag} stands there {count} times, not once"
    if _FORMAT.fullmatch(text) is None:
        return "it is not <think>...</think><answer>...</answer> and nothing else"
    return None
