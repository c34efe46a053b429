"""Simulated judges: functions of what a judge was really sent."""

from __future__ import annotations

import re
from collections.abc import Callable

from rewardsmith.chat.protocol import Answer, ChatModel, TokenLogprob


class Script(ChatModel):
    """`answer(text of the user message, index of the sample) -> str | Answer`. Keeps what it was asked."""

    name = "script"

    def __init__(self, answer: Callable[[str, int], str | Answer]) -> None:
        super().__init__()
        self.answer = answer
        self.calls: list[tuple[int, int]] = []  # questions and samples of each call of `generate`
        self.asked: list[list] = []

    def generate(self, prompts, n=1, *, max_new_tokens=256, temperature=1.0, top_p=1.0, stop=(), seed=0, logprobs=0):
        self.calls.append((len(prompts), n))
        for messages in prompts:
            self.asked.append(messages)
            said = [self.answer(messages[-1]["content"], i) for i in range(n)]
            yield [Answer(text) if isinstance(text, str) else text for text in said]

    def fingerprint(self):
        return {"name": self.name}


def shown(text: str) -> list[str]:
    """The responses in the order in which a judge sees them, from between the delimiters."""
    mark = re.search(r"The mark is (\w+)", text)[1]
    blocks = re.findall(rf"=== {mark} ([\w ]+) ===\n(.*?)\n=== {mark} end of \1 ===", text, re.S)
    return [block for name, block in blocks if name not in ("request", "rubric")]


def yes_no(logit: float) -> Answer:
    """An answer of one token with the probability sigmoid(logit) of YES."""
    import math

    p = 1 / (1 + math.exp(-logit))
    top = (("YES", math.log(p)), ("NO", math.log(1 - p)))
    return Answer(max(top, key=lambda pair: pair[1])[0], logprobs=(TokenLogprob(*top[0], top=top),))
