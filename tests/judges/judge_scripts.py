"""Simulated judges: functions of what a judge was really sent."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from rewardsmith.chat.protocol import Answer, TokenLogprob
from rewardsmith.chat.scripted import ScriptedModel


class Script(ScriptedModel):
    """`answer(text of the user message, index of the sample) -> str | Answer`; counts questions and samples."""

    def __init__(self, answer: Callable[[str, int], str | Answer]) -> None:
        super().__init__(lambda messages, i: answer(messages[-1]["content"], i))
        self.calls: list[tuple[int, int]] = []  # questions and samples of each call of `generate`

    def generate(self, prompts, n=1, **options):
        self.calls.append((len(prompts), n))
        yield from super().generate(prompts, n, **options)


def shown(text: str) -> list[str]:
    """The responses in the order in which a judge sees them, from between the delimiters."""
    mark = re.search(r"The mark is (\w+)", text)[1]
    blocks = re.findall(rf"=== {mark} ([\w ]+) ===\n(.*?)\n=== {mark} end of \1 ===", text, re.S)
    return [block for name, block in blocks if name not in ("request", "rubric")]


def yes_no(logit: float) -> Answer:
    """An answer of one token with the probability sigmoid(logit) of YES."""
    p = 1 / (1 + math.exp(-logit))
    top = (("YES", math.log(p)), ("NO", math.log(1 - p)))
    return Answer(max(top, key=lambda pair: pair[1])[0], logprobs=(TokenLogprob(*top[0], top=top),))
