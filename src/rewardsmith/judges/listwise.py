"""All responses of a prompt at once, shuffled for every sample, scores summed (Liu et al. 2025, "Inference-Time
Scaling for Generalist Reward Modeling"): a judge that gets better with every sample, more so with a meta reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.chat.protocol import ChatModel
from rewardsmith.data.records import Text
from rewardsmith.judges.asking import JudgeBase, Judgments, balanced_orders
from rewardsmith.judges.prompting import Prompt, transcript
from rewardsmith.judges.voting import keep_votes, majority_votes, sum_votes
from rewardsmith.reward import PreferenceModel, Reward


class ListwiseJudge(JudgeBase, PreferenceModel):
    """A language model that scores all responses of a prompt in one answer; see `JudgeBase` for the further arguments.

    A pair is judged with both responses in sight, K candidates with all K. A preference is the difference of summed
    scores, in points; it grows with the votes and is no calibrated logit.

    Args:
        meta: a reward of the judge's critiques, `judges.meta.train_meta` for one; None lets all samples vote.
        k_meta: how many of the samples vote, the ones with the highest meta reward. Default: half of them.
        combine: `sum` of scores, or `majority`: in how many samples a response was the best (the baseline).
    """

    kinds = ("listwise", "pairwise")

    def __init__(
        self,
        model: ChatModel,
        prompt: str | Path | Prompt = "listwise",
        *,
        meta: Reward | None = None,
        k_meta: int | None = None,
        combine: str = "sum",
        **options: Any,
    ) -> None:
        super().__init__(model, prompt, **options)
        if combine not in ("sum", "majority"):
            raise ValueError(f"combine must be 'sum' or 'majority', not {combine!r}")
        if k_meta is not None and not 1 <= k_meta <= self.votes:
            raise ValueError(f"k_meta must be from 1 to the {self.votes} votes, got {k_meta}")
        self.meta, self.combine = meta, combine
        self.k_meta = max(self.votes // 2, 1) if k_meta is None else k_meta

    def fingerprint(self) -> dict[str, Any]:
        meta: Any = None
        if self.meta is not None:
            meta = self.meta.fingerprint() if hasattr(self.meta, "fingerprint") else self.meta.__name__
        return {**super().fingerprint(), "combine": self.combine, "k_meta": self.k_meta, "meta": meta}

    def judge_sets(self, prompts: Sequence[Text], candidates: Sequence[Sequence[Text]], **columns: Any) -> Judgments:
        """Every single sample about the candidates of each prompt, with what the judge wrote; all samples."""
        orders = [
            balanced_orders(group, self.votes, self.seed, prompt) if len(group) else np.empty((self.votes, 0), int)
            for prompt, group in zip(prompts, candidates)
        ]
        return self.ask(prompts, candidates, orders, columns)

    def totals(
        self, prompts: Sequence[Text], candidates: Sequence[Sequence[Text]], judged: Judgments
    ) -> list[np.ndarray]:
        """Combined scores (K_i,) of the candidates of each prompt, from single samples; NaN where none was parsed."""
        trust = None if self.meta is None else meta_scores(self.meta, prompts, candidates, judged)
        combined = sum_votes if self.combine == "sum" else majority_votes
        return [
            combined(scores if trust is None else keep_votes(scores, trust[row], self.k_meta))
            for row, scores in enumerate(judged.scores)
        ]

    def score_sets(
        self, prompts: Sequence[Text], candidates: Sequence[Sequence[Text]], **columns: Any
    ) -> list[np.ndarray]:
        """Combined scores of the candidates of each prompt: one (K_i,) array per prompt."""
        return self.totals(prompts, candidates, self.judge_sets(prompts, candidates, **columns))

    def preference(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], **columns: Any) -> np.ndarray:
        totals = self.score_sets(prompts, list(zip(a, b)), **columns)
        return np.array([total[0] - total[1] for total in totals], dtype=np.float64)

    def preference_matrix(
        self, prompts: Sequence[Text], candidates: Sequence[Sequence[Text]], **columns: Any
    ) -> list[np.ndarray]:
        """Differences of summed scores, from one question about all candidates of a prompt."""
        return [total[:, None] - total[None, :] for total in self.score_sets(prompts, candidates, **columns)]


def meta_scores(
    meta: Reward, prompts: Sequence[Text], candidates: Sequence[Sequence[Text]], judged: Judgments
) -> list[np.ndarray]:
    """What a meta reward says of every sample: one (V,) array per row, NaN where a sample has no scores."""
    records = critique_records(prompts, candidates, judged)
    values = meta.resolved(records).values if records["completion"] else np.empty(0)
    trust = [np.full(len(answers), np.nan) for answers in judged.answers]
    for value, row, vote in zip(values, records["row"], records["vote"]):
        trust[row][vote] = value
    return trust


def critique_records(
    prompts: Sequence[Text], candidates: Sequence[Sequence[Text]], judged: Judgments
) -> dict[str, list[Any]]:
    """Critiques as what a reward reads: `prompt` (request and responses as they were shown), `completion` (what the
    judge wrote), and `row` and `vote` that say where each is from. Samples without scores are left out."""
    records: dict[str, list[Any]] = {"prompt": [], "completion": [], "row": [], "vote": []}
    for row, (prompt, group) in enumerate(zip(prompts, candidates)):
        shown: dict[tuple[int, ...], str] = {}
        for vote, answer in enumerate(judged.answers[row]):
            if judged.failures[row][vote] is not None:
                continue
            order = tuple(judged.orders[row][vote].tolist())
            if order not in shown:
                listed = [f"Response {place}:\n{transcript(group[i])}" for place, i in enumerate(order, 1)]
                shown[order] = "\n\n".join([transcript(prompt), *listed])
            for name, value in zip(records, (shown[order], answer.text, row, vote)):
                records[name].append(value)
    return records
