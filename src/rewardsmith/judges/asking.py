"""What every judge shares: all questions of a batch go to the model in one call, and the answers come back as scores.

Position bias is measured and cancelled here: which response is shown where is decided by a hash of the texts and the
seed, so that a judgment depends neither on the batch nor on the order in which the caller lists the responses.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rewardsmith.chat.protocol import Answer, ChatModel
from rewardsmith.data.records import Text, text_key
from rewardsmith.judges.prompting import Prompt, load_prompt
from rewardsmith.reward import Failure

VOTING_TEMPERATURE = 0.5  # Liu et al. 2025, for more than one sample
LISTED = 20  # tokens at each place, where verdicts are read from their probabilities: the most that servers give


@dataclass
class Judgments:
    """What a judge made of R rows, row i with n_i responses and V samples.

    Attributes:
        scores: R arrays (V, n_i), in the order in which the caller listed the responses; NaN where unparsed.
        orders: R integer arrays (V, n_i): which response was shown in which place.
        answers: R lists of V answers.
        failures: R lists of V: why a sample has no scores, else None.
    """

    scores: list[np.ndarray]
    orders: list[np.ndarray]
    answers: list[list[Answer]]
    failures: list[list[Failure | None]]

    def __len__(self) -> int:
        return len(self.scores)

    def first(self, votes: int) -> Judgments:
        """The same with the first `votes` samples of every row alone."""
        return Judgments(
            [scores[:votes] for scores in self.scores],
            [orders[:votes] for orders in self.orders],
            [answers[:votes] for answers in self.answers],
            [failures[:votes] for failures in self.failures],
        )

    def details(self) -> list[dict[str, Any]]:
        """For people: what was written, shown in which order, and understood how, one dict per row."""
        return [
            {
                "critiques": [answer.text for answer in answers],
                "scores": scores.tolist(),
                "orders": orders.tolist(),
                "problems": [None if failure is None else f"{failure.kind}: {failure.reason}" for failure in failures],
            }
            for scores, orders, answers, failures in zip(self.scores, self.orders, self.answers, self.failures)
        ]

    def row_failure(self, row: int) -> Failure:
        """Why a row without any scores has none: its samples' commonest reason."""
        (kind, reason), count = Counter((f.kind, f.reason) for f in self.failures[row] if f).most_common(1)[0]
        return Failure(kind, f"{reason} ({count} of {len(self.failures[row])} samples)")


@dataclass
class JudgeReport:
    """What a judge did since it was made.

    Attributes:
        rows: judged.
        answers: asked for.
        unparsed: answers that came and could not be read.
        failed: answers that did not come.
        cut: answers that reached the longest length; most of them are unparsed too.
        problems: how often an answer could not be read, by reason.
        decided: parsed answers about several responses that have one best.
        first_best: decided answers whose best was the response shown first, and `first_expected`, how many those would
            be if places did not matter.
        both_orders: pairs judged in both orders with a decision each way, and `agreed`, in which of them the same
            response won.
        usage: of the chat model, as it counts itself; shared by all judges that ask it.
    """

    rows: int = 0
    answers: int = 0
    unparsed: int = 0
    failed: int = 0
    cut: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    decided: int = 0
    first_best: int = 0
    first_expected: float = 0.0
    both_orders: int = 0
    agreed: int = 0
    usage: dict[str, Any] = field(default_factory=dict)

    @property
    def unparsed_share(self) -> float:
        """Of the answers that came."""
        came = self.answers - self.failed
        return self.unparsed / came if came else math.nan

    @property
    def position_bias(self) -> float:
        """How much oftener than by chance the response shown first wins, in [-1, 1]; 0 is no bias."""
        return (self.first_best - self.first_expected) / self.decided if self.decided else math.nan

    @property
    def order_agreement(self) -> float:
        """Share of pairs with the same winner in both orders; NaN where nothing was asked both ways."""
        return self.agreed / self.both_orders if self.both_orders else math.nan

    def add(self, judged: Judgments) -> None:
        """Count a batch."""
        for scores, orders, answers, failures in zip(judged.scores, judged.orders, judged.answers, judged.failures):
            self.rows += 1
            self.answers += len(answers)
            kinds = Counter(failure.kind for failure in failures if failure)
            self.unparsed += kinds["unparsed"]
            self.failed += kinds["chat"]
            self.cut += sum(answer.finish_reason == "length" for answer in answers)
            self.problems.update(f.reason for f in failures if f)
            n = scores.shape[1]
            if n < 2:
                continue
            best = (scores == scores.max(1, keepdims=True)) & ~np.isnan(scores).any(1, keepdims=True)
            one = best.sum(1) == 1
            first = best[np.arange(len(best)), orders[:, 0]] & one
            self.decided += int(one.sum())
            self.first_best += int(first.sum())
            self.first_expected += float(one.sum()) / n
            if n == 2:
                # Over all samples of one order, who wins oftener.
                lead = [float((best[side & one] * [1, -1]).sum()) for side in (orders[:, 0] == 0, orders[:, 0] == 1)]
                if lead[0] and lead[1]:
                    self.both_orders += 1
                    self.agreed += lead[0] * lead[1] > 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the shares with them; None for a share of nothing."""
        shares = {
            "unparsed_share": self.unparsed_share,
            "position_bias": self.position_bias,
            "order_agreement": self.order_agreement,
        }
        counts = {name: getattr(self, name) for name in ("rows", "answers", "unparsed", "failed", "cut", "decided")}
        plain = {name: None if math.isnan(value) else value for name, value in shares.items()}
        return {**counts, **plain, "problems": dict(self.problems.most_common()), "usage": self.usage}


class JudgeBase:
    """A model, a prompt, and how to ask.

    Args:
        model: what answers.
        prompt: a `Prompt`, the name of one that comes with the library, or a path.
        votes: samples of each question.
        temperature: of sampling. Default: 0 for one vote, 0.5 for several.
        max_new_tokens: longest answer.
        seed: of sampling and of the order in which responses are shown.
        texts: for placeholders that are not columns of the data, `{"rubric": "..."}`; may be changed at any time.
        name: under which trainers and tables show it.

    Attributes:
        report: a `JudgeReport`, counting from the start.
    """

    kinds: tuple[str, ...] = ()

    def __init__(
        self,
        model: ChatModel,
        prompt: str | Path | Prompt,
        *,
        votes: int = 1,
        temperature: float | None = None,
        max_new_tokens: int = 1024,
        seed: int = 0,
        texts: Mapping[str, Text] | None = None,
        name: str | None = None,
    ) -> None:
        self.model, self.prompt = model, load_prompt(prompt)
        if self.prompt.kind not in self.kinds:
            raise ValueError(
                f"{type(self).__name__} takes a prompt that is {' or '.join(self.kinds)}; "
                f"{self.prompt.name!r} is {self.prompt.kind}"
            )
        if votes < 1:
            raise ValueError(f"votes must be at least 1, got {votes}")
        self.votes = votes
        self.temperature = (0.0 if votes == 1 else VOTING_TEMPERATURE) if temperature is None else temperature
        if self.temperature == 0 and votes > 1:
            raise ValueError("several votes at temperature 0 would all be the same: set a temperature")
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.texts = dict(texts or {})
        self.logprobs = 0
        self.report = JudgeReport(usage=model.usage.to_dict())
        self.__name__ = name or f"{self.prompt.name}_judge"

    def fingerprint(self) -> dict[str, Any]:
        """What makes the judgments reproducible (JSON)."""
        names = ("votes", "temperature", "max_new_tokens", "seed", "texts")
        return {
            "class": type(self).__name__,
            "model": self.model.fingerprint(),
            "prompt": self.prompt.fingerprint(),
            **{name: getattr(self, name) for name in names},
        }

    def ask(
        self,
        prompts: Sequence[Text],
        responses: Sequence[Sequence[Text]],
        orders: Sequence[np.ndarray],
        columns: Mapping[str, Sequence[Any]],
    ) -> Judgments:
        """Judge R rows of responses, each V_i times in the given orders.

        All questions go out together: one call of `model.generate` for all rows and votes of a batch (one for each
        number of samples, where questions differ in it). Equal questions are asked once with as many samples, so that
        a cache or a seeded server does not answer all of them alike.

        Args:
            prompts: R prompts.
            responses: R lists of n_i responses.
            orders: R integer arrays (V_i, n_i): row v says which response is shown in which place in sample v.
            columns: of length R, for the placeholders of the prompt.

        Raises:
            ValueError: where the prompt needs a text that is in no column and not in `texts`.
        """
        per_row = [name for name in self.prompt.columns if name in columns]
        asked: dict[int, list[tuple[int, np.ndarray, list]]] = {}  # number of samples -> row, votes, messages
        for row, (prompt, group, shown) in enumerate(zip(prompts, responses, orders)):
            texts = {**self.texts, **{name: columns[name][row] for name in per_row}}
            distinct, of = np.unique(shown, axis=0, return_inverse=True)
            for k, order in enumerate(distinct):
                votes = np.flatnonzero(of.reshape(-1) == k)
                messages = self.prompt.messages(prompt, [group[i] for i in order], **texts)
                asked.setdefault(len(votes), []).append((row, votes, messages))
        answers: list[list[Answer]] = [[Answer("", "error", error="no answer came")] * len(shown) for shown in orders]
        for samples, questions in sorted(asked.items(), key=lambda item: item[0]):
            came = self.model.generate(
                [messages for _, _, messages in questions],
                samples,
                max_new_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=self.seed,
                logprobs=self.logprobs,
            )
            for (row, votes, _), written in zip(questions, came):
                for vote, answer in zip(votes.tolist(), written):
                    answers[row][vote] = answer
        judged = self._read([len(group) for group in responses], orders, answers)
        self.report.add(judged)
        self.report.usage = self.model.usage.to_dict()
        return judged

    def _read(self, sizes: list[int], orders: Sequence[np.ndarray], answers: list[list[Answer]]) -> Judgments:
        scores = [np.full(shown.shape, np.nan) for shown in orders]
        failures: list[list[Failure | None]] = [[None] * len(shown) for shown in orders]
        for row, (n, shown) in enumerate(zip(sizes, orders)):
            for vote, answer in enumerate(answers[row]):
                if answer.error is not None:
                    failures[row][vote] = Failure("chat", answer.error)
                    continue
                values, problem = self._value(answer, n)
                if values is None:
                    failures[row][vote] = Failure("unparsed", problem or "no scores")
                else:
                    scores[row][vote, shown[vote]] = values
        return Judgments(scores, list(orders), answers, failures)

    def _value(self, answer: Answer, n: int) -> tuple[tuple[float, ...] | None, str | None]:
        """Scores of the responses as shown, or None and the problem."""
        parsed = self.prompt.parse(answer.text, n)
        return parsed.scores, parsed.problem


def balanced_orders(responses: Sequence[Text], votes: int, seed: int, prompt: Text = "") -> np.ndarray:
    """(votes, n) random orders in which n responses are shown: each response as often in each place as can be.

    Orders come in rounds of n, the rotations of one random order; two responses are shown in both orders in turn. They
    depend on the texts and the seed, not on how the caller ordered the responses.
    """
    keys = [text_key(response) for response in responses]
    canonical = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    text = "\0".join([str(seed), text_key(prompt), *sorted(keys)])
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]))
    n = len(keys)
    rounds = np.stack([rng.permutation(n) for _ in range(-(-votes // n))])
    rotations = (np.arange(n)[:, None] + np.arange(n)) % n
    return canonical[rounds[:, rotations].reshape(-1, n)[:votes]]
