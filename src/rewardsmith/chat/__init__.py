"""Language models to talk to: OpenAI-compatible endpoints, local transformers, scripts; with a cache around any.

The names load on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_LAZY = {
    "Answer": "protocol",
    "CachedModel": "cache",
    "ChatModel": "protocol",
    "EndpointModel": "endpoint",
    "LocalModel": "local",
    "ScriptedModel": "scripted",
    "TokenLogprob": "protocol",
    "Usage": "protocol",
    "load_chat": "loading",
}
__all__ = [
    "Answer",
    "CachedModel",
    "ChatModel",
    "EndpointModel",
    "LocalModel",
    "ScriptedModel",
    "TokenLogprob",
    "Usage",
    "load_chat",
]

if TYPE_CHECKING:
    from rewardsmith.chat.cache import CachedModel
    from rewardsmith.chat.endpoint import EndpointModel
    from rewardsmith.chat.loading import load_chat
    from rewardsmith.chat.local import LocalModel
    from rewardsmith.chat.protocol import Answer, ChatModel, TokenLogprob, Usage
    from rewardsmith.chat.scripted import ScriptedModel


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(f"rewardsmith.chat.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'rewardsmith.chat' has no attribute {name!r}")
