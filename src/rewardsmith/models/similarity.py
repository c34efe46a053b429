"""SIRL (paper 62, Bobu et al. 2023): what matters is learned from similarities, what is good from a few preferences.

Phase 1, `train(triples, backbone, head=SimilarityHead(...))`: of three behaviours a person picks the two most alike,
and the embedding draws these together and pushes the third away, so that what people do not look at is lost. Phase 2,
`train(pairs, result.model.backbone, head=result.model.head)`: a reward on that embedding, which stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rewardsmith.data.records import Text
from rewardsmith.models.arrays import mlp
from rewardsmith.models.backbones import Backbone
from rewardsmith.models.heads import ScalarHead
from rewardsmith.models.reward_model import RewardModel


def squared_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(B,) squared Euclidean distance of vectors (B, m)."""
    return (a - b).square().sum(-1)


def triplet_loss(
    anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, margin: float = 1.0
) -> torch.Tensor:
    """(B,) max(|anchor - positive|^2 - |anchor - negative|^2 + margin, 0) of vectors (B, m)."""
    return F.relu(squared_distance(anchor, positive) - squared_distance(anchor, negative) + margin)


def similarity_loss(a: torch.Tensor, b: torch.Tensor, odd: torch.Tensor, margin: float = 1.0) -> torch.Tensor:
    """(B,) triplet loss with either of the two most alike as the anchor: nobody said which it is.

    Embeddings 0, 1 and 2 on a line give 0 + 1 = 1 with a margin of 1.
    """
    return triplet_loss(a, b, odd, margin) + triplet_loss(b, a, odd, margin)


class SimilarityHead(ScalarHead):
    """An embedding that knows what is alike, and a reward on it once there are preferences.

    Args:
        hidden_size: H.
        dim: m of a linear map to the embedding. Default: the hidden vector is the embedding.
        margin: alpha of the triplet loss.
        layers: sizes of the hidden layers of the reward. Default: it is linear.
        tune: whether preferences move the embedding too.
    """

    scale: torch.Tensor

    def __init__(
        self,
        hidden_size: int,
        dim: int | None = None,
        margin: float = 1.0,
        layers: Sequence[int] = (),
        tune: bool = False,
    ) -> None:
        if margin <= 0:
            raise ValueError(f"margin must be above 0, got {margin}")
        super().__init__(dim or hidden_size)
        self.dim, self.margin, self.layers, self.tune = dim, margin, list(layers), tune
        self.map = nn.Identity() if dim is None else nn.Linear(hidden_size, dim, bias=False)
        if layers:
            self.linear = mlp([dim or hidden_size, *layers, 1])  # type: ignore[assignment]
        else:  # a few preferences would not outweigh a random start
            nn.init.zeros_(self.linear.weight)
        # Of each dimension, so that it has unit variance: the margin says nothing of the scale. 0 until phase 2.
        self.register_buffer("scale", torch.zeros(dim or hidden_size))

    @classmethod
    def build(cls, backbone: Backbone, **config: Any) -> Self:
        return cls(backbone.hidden_size, **config)

    @property
    def recipe(self) -> Mapping[str, Any]:  # type: ignore[override]
        """A few preferences want many passes with a larger step; similarities what the backbone wants."""
        return {"learning_rate": 0.05, "epochs": 100, "weight_decay": 0.01} if self.scale.any() else {}

    def fit(self, columns: Mapping[str, list[Any]], hidden: Callable[[], torch.Tensor]) -> None:
        """Before phase 2, measure the scale of the embedding."""
        with torch.no_grad():
            spread = self.embed(hidden().to(self.scale.device)).flatten(0, 1).std(0)
        if not (spread > 0).any():
            raise ValueError("the backbone gives all rows the same vector: distances between them cannot be learned")
        if "chosen" in columns:
            self.scale.copy_(torch.where(spread > 0, 1 / spread, 1.0))

    def embed(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, m) embeddings of hidden vectors (B, H)."""
        return self.map(hidden)

    def reward(
        self, hidden: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None, **columns: Any
    ) -> torch.Tensor:
        if not self.scale.any():
            raise ValueError("this model has seen similarities alone: train its backbone and head on preferences")
        vectors = self.embed(hidden)
        return self.linear((vectors if self.tune else vectors.detach()) * self.scale).squeeze(-1)

    def similarity_loss(
        self, a: torch.Tensor, b: torch.Tensor, odd: torch.Tensor, **inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        a, b, odd = self.embed(a), self.embed(b), self.embed(odd)
        nearer = torch.minimum(squared_distance(a, odd), squared_distance(b, odd)) - squared_distance(a, b)
        return similarity_loss(a, b, odd, self.margin), nearer

    def config(self) -> dict[str, Any]:
        return {"dim": self.dim, "margin": self.margin, "layers": self.layers, "tune": self.tune}


@torch.inference_mode()
def embed(model: RewardModel, completions: Sequence[Any], prompts: Sequence[Text] | None = None) -> np.ndarray:
    """(N, m) embeddings of completions: the head's where it is a `SimilarityHead`, else the backbone's hidden vectors.

    Raises:
        ValueError: where one cannot be read.
    """
    hidden, failures, _ = model.network.hidden([""] * len(completions) if prompts is None else prompts, completions)
    if failures:
        row, failure = next(iter(failures.items()))
        raise ValueError(f"row {row}: {failure.reason}")
    if isinstance(model.head, SimilarityHead):
        hidden = model.head.embed(hidden.to(model.network.device))
    return hidden.double().cpu().numpy()
