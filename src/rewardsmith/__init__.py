"""rewardsmith: the whole life of a reward, for language models and Gymnasium environments.

The names below load on first use, so that importing the package stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_LAZY = {
    "Reward": "rewardsmith.reward",
    "Scores": "rewardsmith.reward",
    "Failure": "rewardsmith.reward",
    "PreferenceModel": "rewardsmith.reward",
    "from_function": "rewardsmith.functions",
    "load_reward": "rewardsmith.loading",
}
__all__ = ["Failure", "PreferenceModel", "Reward", "Scores", "__version__", "from_function", "load_reward"]

if TYPE_CHECKING:
    from rewardsmith.functions import from_function
    from rewardsmith.loading import load_reward
    from rewardsmith.reward import Failure, PreferenceModel, Reward, Scores


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'rewardsmith' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
