"""What a judge is trained by: the rule that says whether its answer is right, and the tasks on which it is asked.

The rule of Liu et al. 2025 (equation 10) covers verdicts too (Chen et al. 2025, "RM-R1"): a verdict is a pair of scores
(1, 0). Rewards are in TRL's signature, so `GRPOTrainer(reward_funcs=[JudgeCorrectness("pairwise")])` trains a judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.data.records import Batch, Text, as_columns, as_text
from rewardsmith.judges.prompting import Prompt, load_prompt
from rewardsmith.reward import Reward, Scores


def is_correct(scores: Sequence[float] | np.ndarray | None, ratings: Sequence[float]) -> bool:
    """Whether a judge's scores put the best response first.

    Args:
        scores: n scores, NaN or None where the answer could not be parsed: that is wrong.
        ratings: n ground truths with one largest; of a single response, 0 or 1, which must be met exactly.

    Raises:
        ValueError: where several responses have no single best one.
    """
    truth = np.asarray(ratings, dtype=np.float64)
    best = np.flatnonzero(truth == truth.max())
    if len(truth) > 1 and len(best) > 1:
        raise ValueError(f"the ratings {truth.tolist()} have no single best response")
    if scores is None or len(scores) != len(truth):
        return False
    values = np.asarray(scores, dtype=np.float64)
    if np.isnan(values).any():
        return False
    if len(truth) == 1:
        return bool(values[0] == truth[0])
    return bool((values[best[0]] > np.delete(values, best[0])).all())


class JudgeCorrectness(Reward):
    """A reward of what a judge writes: +1 where its answer is right, -1 where it is wrong or cannot be parsed.

    A judge that does not write what it was asked for is at fault, so an unparsed answer is a wrong one here, and part
    `parsed` says how many there are. Parts: `correct`, `parsed`. Ties of the best score with another are wrong.

    Args:
        prompt: what the judge was asked, for its parser.
        column: of the batch, with the ground truths of the responses as they were shown; for a verdict, [1, 0] or
            [0, 1].
        cold_start: 1 for an answer that can be parsed plus 1 for a right one, from 0 to 2: for a judge that has not
            learned the format yet (Chen et al. 2025, without distillation).
    """

    def __init__(
        self, prompt: str | Path | Prompt = "pairwise", *, column: str = "ratings", cold_start: bool = False
    ) -> None:
        self.prompt, self.column, self.cold_start = load_prompt(prompt), column, cold_start
        self.__name__ = "judge_correctness"

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        if self.column not in columns:
            raise ValueError(f"no column {self.column!r} with the ground truths; there are {list(columns)}")
        parsed, correct = [], []
        for row, (text, ratings) in enumerate(zip(columns["completion"], columns[self.column])):
            try:
                scores = self.prompt.parse(as_text(text), len(ratings)).scores
                correct.append(is_correct(scores, ratings))
            except (TypeError, ValueError) as problem:
                raise ValueError(f"row {row}, column {self.column!r}: {problem}") from None
            parsed.append(scores is not None)
        ok, read = np.array(correct, dtype=np.float64), np.array(parsed, dtype=np.float64)
        return Scores(ok + read if self.cold_start else 2 * ok - 1, parts={"correct": ok, "parsed": read})


def judging_tasks(
    data: Any, prompt: str | Path | Prompt, *, seed: int = 0, both_orders: bool = False, **texts: Text
) -> dict[str, list[Any]]:
    """Tasks for a judge in training: `prompt` (the messages that it reads), `ratings` in the order shown, and `row`.

    Args:
        data: preference records (`prompt`, `chosen`, `rejected`), or `prompt`, `candidates` and `ratings`.
        prompt: what the judge is asked.
        seed: of the order in which responses are shown.
        both_orders: two tasks of each pair, one in each order; otherwise one, the better one first in every second task
            of a random order, so that the places of winners are balanced exactly.
        texts: for further placeholders of the prompt; columns of the data are used where they have the name.
    """
    columns, asked = as_columns(data), load_prompt(prompt)
    rng = np.random.default_rng(seed)
    count = len(columns["prompt"])
    if "candidates" in columns:
        groups, truths = columns["candidates"], columns["ratings"]
        orders = [[rng.permutation(len(group))] for group in groups]
    else:
        groups = list(zip(columns["chosen"], columns["rejected"]))
        truths = [[1.0, 0.0]] * count
        second = rng.permutation(np.arange(count) % 2)
        pair = np.array([[0, 1], [1, 0]])
        orders = [list(pair) if both_orders else [pair[place]] for place in second]
    tasks: dict[str, list[Any]] = {"prompt": [], "ratings": [], "row": []}
    for row in range(count):
        further = {**texts, **{name: columns[name][row] for name in asked.columns if name in columns}}
        for order in orders[row]:
            tasks["prompt"].append(asked.messages(columns["prompt"][row], [groups[row][i] for i in order], **further))
            tasks["ratings"].append([float(truths[row][i]) for i in order])
            tasks["row"].append(row)
    return tasks
