"""A chat model that answers from a script: for tests, claims and dry runs of a pipeline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rewardsmith.chat.protocol import Answer, ChatModel, check_sampling
from rewardsmith.data.records import Message, Text, as_messages

Script = Callable[[list[Message], int], str | Answer]


class ScriptedModel(ChatModel):
    """Answers from a list, in turn, or from a function of the messages and the number of the sample.

    Args:
        script: texts or `Answer`s, given out one after the other and from the start again after the last; or
            `script(messages, sample) -> text or Answer`, where `sample` counts from 0 for each prompt.
        name: for reports, and for a cache around it: scripts of one name share their answers there.

    Attributes:
        asked: the messages of every prompt so far, in order.
    """

    def __init__(self, script: Script | Sequence[str | Answer], name: str = "script") -> None:
        super().__init__()
        if not callable(script) and not len(script):
            raise ValueError("the script is empty")
        self.script, self.name = script, name
        self.asked: list[list[Message]] = []
        self._next = 0
        self._lock = threading.Lock()

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
        check_sampling(n, max_new_tokens, temperature, top_p)
        for prompt in prompts:
            messages = as_messages(prompt, "user")
            with self._lock:
                answers = [self._answer(messages, sample) for sample in range(n)]
                self.asked.append(messages)
                self.usage.requests += 1
                self.usage.failed += sum(answer.error is not None for answer in answers)
                self.usage.answers += sum(answer.error is None for answer in answers)
            yield answers

    def _answer(self, messages: list[Message], sample: int) -> Answer:
        if callable(self.script):
            answer = self.script(messages, sample)
        else:
            answer = self.script[self._next % len(self.script)]
            self._next += 1
        return Answer(answer) if isinstance(answer, str) else answer

    def fingerprint(self) -> dict[str, Any]:
        return {"script": self.name}
