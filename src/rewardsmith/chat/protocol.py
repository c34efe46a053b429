"""The one protocol of everything that writes text: prompts in, n answers of each out, in order.

Judges, design loops, best-of-n and self-training are written against `ChatModel`; an endpoint, a local transformers
model and a script are three of them, and a cache is one around another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rewardsmith.data.records import Text


@dataclass(frozen=True)
class TokenLogprob:
    """One token of an answer.

    Attributes:
        token: its text.
        logprob: natural logarithm of its probability.
        top: the most likely tokens at this place and their log-probabilities, the best first.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """One answer, or the reason why there is none.

    Attributes:
        text: what the model wrote; empty where `error` is set.
        finish_reason: `stop`, `length` (cut by `max_new_tokens`), or what the server says; `error` where there is none.
        logprobs: one entry per token, where they were asked for and the backend has them.
        error: why there is no answer, in one line; None where there is one.
    """

    text: str
    finish_reason: str = "stop"
    logprobs: tuple[TokenLogprob, ...] | None = None
    error: str | None = None


@dataclass
class Usage:
    """What a model was asked so far.

    Attributes:
        requests: answered or given up; a request may ask for several answers.
        answers: that came back.
        failed: answers that were given up, after all retries.
        retries: further attempts.
        cached: answers that came from a cache, without a request.
        prompt_tokens, completion_tokens: as the backend counts them.
        cost: in the currency of the prices that the backend was given, 0 without.
        seconds: that answers took, by the wall clock, waiting in parallel counted once.
    """

    requests: int = 0
    answers: int = 0
    failed: int = 0
    retries: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class ChatModel(ABC):
    """Something that answers prompts.

    Attributes:
        name: model id, for reports.
        usage: counts since it was made.
    """

    name: str = "model"

    def __init__(self) -> None:
        self.usage = Usage()

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[Text],
        n: int = 1,
        *,
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        logprobs: int = 0,
    ) -> Iterator[list[Answer]]:
        """n answers of each prompt, in the order of the prompts, as they are ready.

        An answer that could not be had is an `Answer` with `error`; nothing is left out and no failure of one prompt
        ends the others.

        Args:
            prompts: plain texts or messages (a list of role/content). A plain text is continued by a local model, and
                sent as one user message to an endpoint.
            n: answers of each prompt.
            max_new_tokens: longest answer.
            temperature: 0 for greedy decoding (then n must be 1).
            top_p: share of probability that is sampled from, in (0, 1].
            stop: texts at which an answer ends, themselves left out.
            seed: of sampling; the same call gives the same answers where the backend can promise that.
            logprobs: how many of the most likely tokens to report at each place; 0 for no log-probabilities.

        Raises:
            ValueError: where an argument is out of range.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What, besides the arguments of `generate`, changes the answers: model, revision, address, dtype, template."""


def check_sampling(n: int, max_new_tokens: int, temperature: float, top_p: float) -> None:
    """Arguments of `ChatModel.generate` that every backend checks in the same way.

    Raises:
        ValueError: naming the argument that is out of range.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if temperature < 0 or (temperature == 0 and n > 1):
        raise ValueError(f"the temperature must be at least 0, and above 0 for n > 1, got {temperature} and n = {n}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
