"""Reward networks: a backbone, a head, a loss; one trainer. `train` makes a model, `load_model` loads any."""

from rewardsmith.models.backbones import Backbone, Encoded
from rewardsmith.models.heads import Head, ScalarHead
from rewardsmith.models.reward_model import PairwiseModel, RewardModel, load_model

__all__ = [
    "Backbone",
    "EmbeddingBackbone",
    "Encoded",
    "HashedBackbone",
    "Head",
    "PairwiseModel",
    "RewardModel",
    "ScalarHead",
    "TrainResult",
    "TransformerBackbone",
    "load_model",
    "train",
]

_LATE = {
    "EmbeddingBackbone": "embedding",
    "HashedBackbone": "hashed",
    "TransformerBackbone": "transformer",
    "TrainResult": "trainer",
    "train": "trainer",
}


def __getattr__(name: str):
    # transformers and its trainer take seconds to import: only for those who use them.
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"rewardsmith.models.{_LATE[name]}"), name)
