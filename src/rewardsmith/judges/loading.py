"""A judge from a model and the name of a prompt: the prompt's kind says which class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewardsmith.chat.protocol import ChatModel
from rewardsmith.judges.listwise import ListwiseJudge
from rewardsmith.judges.pairwise import PairwiseJudge
from rewardsmith.judges.pointwise import Judge
from rewardsmith.judges.prompting import Prompt, load_prompt
from rewardsmith.reward import PreferenceModel

CLASSES: dict[str, type[PreferenceModel]] = {
    "pointwise": Judge,
    "pairwise": PairwiseJudge,
    "listwise": ListwiseJudge,
}


def make_judge(model: ChatModel | str, prompt: str | Path | Prompt = "pairwise", **options: Any) -> PreferenceModel:
    """A `Judge`, `PairwiseJudge` or `ListwiseJudge`, by the kind of the prompt.

    Args:
        model: a chat model, or what `chat.load_chat` reads: an address, `openai:name`, a path or hub id.
        prompt: a `Prompt`, the name of one that comes with the library, or a path.
        options: of the class: `votes`, `temperature`, `max_new_tokens`, `seed`, `texts`, `orders`, ...
    """
    asked = load_prompt(prompt)
    if isinstance(model, str):
        from rewardsmith.chat.loading import load_chat

        model = load_chat(model)
    return CLASSES[asked.kind](model, asked, **options)  # type: ignore[call-arg]
