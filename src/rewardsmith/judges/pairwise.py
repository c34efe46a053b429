"""Two responses at a time, in both orders: a judge that is a `PreferenceModel`.

The logit is that of the share of votes won, over both orders, or of the probability of the verdict's token averaged
over both orders, p = (p(a, b) + 1 - p(b, a)) / 2 (Xu et al. 2025, "A Unified Pairwise Framework for RLHF"), which is
antisymmetric whatever the judge's liking for a place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rewardsmith.chat.protocol import Answer, ChatModel
from rewardsmith.data.records import Text
from rewardsmith.judges.asking import LISTED, JudgeBase, Judgments, balanced_orders
from rewardsmith.judges.prompting import Prompt
from rewardsmith.judges.voting import share_logit
from rewardsmith.reward import PreferenceModel

MOST = 1e-6  # a probability is kept this far from 0 and 1


class PairwiseJudge(JudgeBase, PreferenceModel):
    """A language model that compares two responses; see `JudgeBase` for the further arguments.

    Args:
        orders: `both` asks every pair in both orders, `votes` times each; `first` shows the response passed first in
            the first place, `random` either in the first place, by a hash of the texts and the seed.
        smoothing: votes added to each side before the logit, so that a unanimous vote is finite and grows with votes.
        from_logprobs: read the probabilities of the two labels at the place of the verdict instead of the verdict
            alone. The chat model must report log-probabilities. A label that is not among the listed tokens counts with
            the probability of the last one listed, which is the most that it can have.
    """

    kinds = ("pairwise",)

    def __init__(
        self,
        model: ChatModel,
        prompt: str | Path | Prompt = "pairwise",
        *,
        orders: Literal["both", "first", "random"] = "both",
        smoothing: float = 0.5,
        from_logprobs: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(model, prompt, **options)
        if orders not in ("both", "first", "random"):
            raise ValueError(f"orders must be 'both', 'first' or 'random', not {orders!r}")
        if smoothing <= 0:
            raise ValueError(f"smoothing must be above 0, got {smoothing}")
        if from_logprobs and self.prompt.parser not in ("verdict_tag", "verdict_word"):
            raise ValueError(f"prompt {self.prompt.name!r} asks for {self.prompt.parser}, which is no single token")
        self.orders, self.smoothing, self.from_logprobs = orders, smoothing, from_logprobs
        self.logprobs = LISTED if from_logprobs else 0

    def fingerprint(self) -> dict[str, Any]:
        return {
            **super().fingerprint(),
            "orders": self.orders,
            "smoothing": self.smoothing,
            "from_logprobs": self.from_logprobs,
        }

    def judge_pairs(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], **columns: Any) -> Judgments:
        """Every single vote about B pairs, with what the judge wrote: scores (V, 2) of a and b for each pair.

        With `orders="both"` the first half of the V = 2 votes shows a first, the second half b.
        """
        if self.orders == "both":
            fixed = np.repeat(np.array([[0, 1], [1, 0]]), self.votes, axis=0)
            orders = [fixed] * len(a)
        elif self.orders == "first":
            orders = [np.tile([0, 1], (self.votes, 1))] * len(a)
        else:
            orders = [
                np.repeat(balanced_orders([x, y], 1, self.seed, prompt), self.votes, axis=0)
                for prompt, x, y in zip(prompts, a, b)
            ]
        return self.ask(prompts, list(zip(a, b)), orders, columns)

    def preference(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], **columns: Any) -> np.ndarray:
        return self.logits(self.judge_pairs(prompts, a, b, **columns))

    def logits(self, judged: Judgments) -> np.ndarray:
        """(B,) logits that the first response of each pair wins, NaN where the votes of an order are lost."""
        if not len(judged):
            return np.empty(0)
        scores, orders = np.stack(judged.scores), np.stack(judged.orders)  # (B, V, 2)
        known = ~np.isnan(scores).any(-1)
        if self.from_logprobs:
            won = scores[..., 0]
        else:
            won = (np.sign(scores[..., 0] - scores[..., 1]) + 1) / 2
        # An order whose samples were lost must not leave the other's liking for a place uncancelled.
        shares, votes = [], []
        for place in (0, 1):
            seen = known & (orders[..., 0] == place)
            count = seen.sum(1)
            shares.append(np.where(seen, won, 0.0).sum(1) / np.maximum(count, 1))
            votes.append(count)
        asked = np.stack([(orders[..., 0] == place).any(1) for place in (0, 1)])
        lost = (asked & (np.stack(votes) == 0)).any(0)
        share = np.where(asked, np.stack(shares), 0.0).sum(0) / asked.sum(0)
        total = np.where(lost, 0, np.sum(votes, axis=0))
        if self.from_logprobs:
            p = np.clip(share, MOST, 1 - MOST)
            return np.where(total > 0, np.log(p / (1 - p)), np.nan)
        return share_logit(share, total, self.smoothing)

    def _value(self, answer: Answer, n: int) -> tuple[tuple[float, ...] | None, str | None]:
        if not self.from_logprobs:
            return super()._value(answer, n)
        if answer.logprobs is None:
            return None, "the model gave no log-probabilities"
        tagged = self.prompt.parser == "verdict_tag"
        if tagged and (parsed := self.prompt.parse(answer.text, n)).scores is None:
            return None, parsed.problem
        p = verdict_probability(answer, self.prompt.format.labels[:2], last=tagged)
        return (None, "no verdict among the tokens") if p is None else ((p, 1 - p), None)


def verdict_probability(answer: Answer, labels: Sequence[str], *, last: bool) -> float | None:
    """P(first label) / (P(first) + P(second)) where a token is one of the labels, else None.

    Args:
        answer: with log-probabilities.
        labels: of the first response and of the second.
        last: read the last such token (a verdict after a text) or the very first token of the answer alone. There,
            upper and lower case are one: a small model says Yes where it was asked for YES.
    """
    tokens = list(answer.logprobs or ())
    written = [token for token in tokens if token.token.strip()]
    # The alternatives of a first token may be labels even where it is none.
    places = [token for token in written if _bare(token.token) in labels] if last else written[:1]
    if not places:
        return None
    place = places[-1]
    listed = [*place.top, (place.token, place.logprob)]
    same = str if last else str.casefold  # after a text, "a" is more often an article than a verdict
    found = {}
    for label in labels:
        own = {name: value for name, value in listed if same(_bare(name)) == same(label)}
        found[label] = sum(math.exp(value) for value in own.values())
    if not any(found.values()):
        return None
    floor = math.exp(min(value for _, value in listed))
    first, second = (found[label] or floor for label in labels)
    return first / (first + second)


def _bare(token: str) -> str:
    return token.strip(" []<>\"'*:.\n")
