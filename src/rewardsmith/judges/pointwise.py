"""One response at a time: a judge that is a `Reward`, for trainers, tables and everything else that takes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.chat.protocol import ChatModel
from rewardsmith.data.records import Batch, as_columns
from rewardsmith.judges.asking import JudgeBase
from rewardsmith.judges.prompting import Prompt
from rewardsmith.reward import Reward, Scores


class Judge(JudgeBase, Reward):
    """A language model that scores a response by itself; see `JudgeBase` for the arguments.

    The score is the mean of the votes that were parsed, `std` their standard deviation (NaN for fewer than two), part
    `votes_parsed` their share. A row without any is NaN with a `Failure` of kind `unparsed` (the judge wrote something
    else) or `chat` (it did not answer). `details` hold the critiques.
    """

    kinds = ("pointwise",)

    def __init__(self, model: ChatModel, prompt: str | Path | Prompt = "pointwise", **options: Any) -> None:
        super().__init__(model, prompt, **options)

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        completions = columns["completion"]
        prompts = columns.get("prompt", [""] * len(completions))
        orders = [np.zeros((self.votes, 1), dtype=np.int64) for _ in completions]
        judged = self.ask(prompts, [[text] for text in completions], orders, columns)
        votes = np.stack(judged.scores)[..., 0] if len(judged) else np.empty((0, self.votes))  # (B, V)
        known = ~np.isnan(votes)
        count = known.sum(1)
        mean = np.where(count > 0, np.where(known, votes, 0.0).sum(1) / np.maximum(count, 1), np.nan)
        squares = np.where(known, votes - mean[:, None], 0.0) ** 2
        std = np.where(count > 1, np.sqrt(squares.sum(1) / np.maximum(count - 1, 1)), np.nan)
        return Scores(
            mean,
            std=std,
            parts={"votes_parsed": count / self.votes},
            details=judged.details(),
            failures={int(row): judged.row_failure(int(row)) for row in np.flatnonzero(count == 0)},
        )
