"""A chat model by name, as the command line writes it."""

from __future__ import annotations

from typing import Any

from rewardsmith.chat.protocol import ChatModel

OPENAI = "https://api.openai.com/v1"


def load_chat(spec: str | ChatModel, **options: Any) -> ChatModel:
    """A chat model by name.

    Args:
        spec: one of
            - `http://host:port/v1#model`, an OpenAI-compatible endpoint and the model's name there;
            - `openai:model`, the hosted one; the key is read from the environment;
            - a causal language model by path or hub id, loaded into this process;
            - a chat model, which is returned as it is.
        options: of `EndpointModel`, or of `LocalModel.from_pretrained`.

    Raises:
        ValueError: where nothing is found under that name.
    """
    if isinstance(spec, ChatModel):
        return spec
    address, _, name = spec.partition("#")
    if spec.startswith("openai:"):
        address, name = OPENAI, spec.removeprefix("openai:")
    if address.startswith(("http://", "https://")):
        from rewardsmith.chat.endpoint import EndpointModel

        if not name:
            raise ValueError(f"{spec!r} does not say which model: write {address}#model-name")
        return EndpointModel(name, address, **options)
    from rewardsmith.chat.local import LocalModel

    return LocalModel.from_pretrained(spec, **options)
