"""How sure a linear reward is, by Laplace's approximation: a Gaussian over the weights of its head, from the curvature
of the Bradley-Terry loss at them.

With d_i the difference of the hidden vectors of pair i, p_i the probability of its label and a prior N(0, prior^2) on
each weight, the posterior covariance is (I / prior^2 + sum_i p_i (1 - p_i) d_i d_i')^-1, and a preference between two
completions whose vectors differ by d has the variance d' S d. It needs no retraining, and measures what data of
different shapes say about a reward (paper 01). The approximation and the choice of the prior: MacKay 1992, "A Practical
Bayesian Framework for Backpropagation Networks"; last layers alone: Daxberger et al. 2021, "Laplace Redux".
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from rewardsmith.models.backbones import Backbone
from rewardsmith.models.examples import encode_examples
from rewardsmith.models.heads import ScalarHead
from rewardsmith.models.reward_model import RewardModel

PRIORS = torch.logspace(-4, 4, 161, dtype=torch.float64)  # standard deviations that are tried
STEPS, TOLERANCE = 50, 1e-9  # of Newton's method


class LaplaceHead(ScalarHead):
    """A linear head and a Gaussian posterior over its weights; made by `laplace`.

    `std` is that of r(y) less the mean reward of the training completions, as preferences leave rewards an offset;
    `preference_std` that of r(a) - r(b), where the offset cancels.

    Args:
        hidden_size: H.
        rank: R, directions in which there were data, at most H.
        prior: standard deviation of a weight before the data.

    Attributes:
        directions: (H, R) orthonormal.
        kept: (R,) what is left of the prior variance in each direction, in (0, 1]; all of it in the others.
        center: (H,) mean hidden vector of the training completions.
    """

    directions: torch.Tensor
    kept: torch.Tensor
    center: torch.Tensor

    def __init__(self, hidden_size: int, rank: int, prior: float) -> None:
        super().__init__(hidden_size)
        self.rank, self.prior = rank, prior
        self.register_buffer("directions", torch.zeros(hidden_size, rank))
        self.register_buffer("kept", torch.ones(rank))
        self.register_buffer("center", torch.zeros(hidden_size))

    @classmethod
    def build(cls, backbone: Backbone, **config: Any) -> Self:
        return cls(backbone.hidden_size, **config)

    def _deviation(self, difference: torch.Tensor) -> torch.Tensor:
        d = difference.double()
        along = d @ self.directions.double()
        variance = (along.square() * self.kept.double()).sum(1)
        if self.rank < d.shape[1]:
            variance = variance + (d.square().sum(1) - along.square().sum(1)).clamp_min(0)
        return self.prior * variance.sqrt()

    def std(self, hidden: torch.Tensor, **inputs: Any) -> torch.Tensor:
        return self._deviation(hidden - self.center)

    def preference_std(self, a: torch.Tensor, b: torch.Tensor, **inputs: Any) -> torch.Tensor:
        return self._deviation(a - b)

    def config(self) -> dict[str, Any]:
        return {"rank": self.rank, "prior": self.prior}


@torch.inference_mode()
def laplace(model: RewardModel, records: Any, *, prior: float | None = None, refit: bool = False) -> RewardModel:
    """The same reward model with a posterior over the weights of its linear head, so that it knows how sure it is.

    Scores are those of the model, unless `refit`; `Scores.std` and `preference_std` come with them, and are saved with
    the model. What the backbone could have learned otherwise is not in them.

    Args:
        model: with a `ScalarHead` on H > 1 hidden numbers: a transformer, an embedding model, arrays.
        records: the training pairs: `prompt`, `chosen`, `rejected`, and where they are there `target_prob` (for `refit`
            alone: the curvature does not depend on labels) and `weight`.
        prior: standard deviation of a weight before the data. Default: the most likely one by the evidence.
        refit: move the weights to the mode of the posterior, by Newton's method. The approximation is one at the mode;
            trained weights may be far from it where training was short or regularized otherwise.

    Returns:
        a new model on the same backbone.

    Raises:
        TypeError: for a head that is not linear, or a hidden vector of one number (the hashed default: train it with
            `HashedBackbone(16)`).
        ValueError: for records that are no preferences, or a prior <= 0.
    """
    if prior is not None and prior <= 0:
        raise ValueError(f"prior must be positive, got {prior}")
    weights, bias = _linear(model)
    examples = encode_examples(records, model.backbone, model.head)
    if examples.evidence != "preference":
        raise ValueError(f"a posterior needs preferences (chosen, rejected), not {examples.evidence} records")
    pairs = model.network.hidden_of(examples).double()
    differences = pairs[:, 0] - pairs[:, 1]
    counts = _column(examples.columns.get("weight"), len(pairs), 1.0)
    labels = _column(examples.columns.get("target_prob"), len(pairs), 1.0)
    scale = prior
    if refit:
        for _ in range(1 if prior is not None else 10):  # the prior and the mode depend on each other
            weights = _mode(differences, labels, counts, weights, scale or 1.0)
            if prior is None:
                found = _best_prior(differences, counts, weights)
                if scale is not None and abs(math.log(found / scale)) < 0.03:
                    break
                scale = found
    elif scale is None:
        scale = _best_prior(differences, counts, weights)
    assert scale is not None
    values, directions = _curvature(differences, counts, weights)
    head = LaplaceHead(model.backbone.hidden_size, directions.shape[1], float(scale))
    head.linear.weight.copy_(weights[None])
    head.linear.bias.copy_(bias)
    head.directions.copy_(directions)
    head.kept.copy_(1 / (1 + scale**2 * values))
    head.center.copy_(pairs.mean((0, 1)))
    head.to(model.network.device)
    return RewardModel(model.backbone, head, max_tokens=model.network.max_tokens, name=model.__name__)


def _linear(model: RewardModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (H,) and bias () of the head, on the CPU."""
    head = model.head
    layer = getattr(model.backbone, "linear", None) if not hasattr(head, "linear") else head.linear
    if not isinstance(head, ScalarHead) or not isinstance(layer, nn.Linear):
        raise TypeError(
            f"a posterior is made for a linear head on a hidden vector (head='scalar'), not {type(head).__name__} on "
            f"{model.backbone.name!r} with {model.backbone.hidden_size} hidden number(s)"
        )
    weights = layer.weight.detach().double().cpu()[0]
    bias = weights.new_zeros(()) if layer.bias is None else layer.bias.detach().double().cpu()[0]
    return weights, bias


def _column(values: list[Any] | None, count: int, missing: float) -> torch.Tensor:
    read = [missing] * count if values is None else [missing if value is None else float(value) for value in values]
    return torch.tensor(read, dtype=torch.float64)


def _curvature(
    differences: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues (R,) above 0 and eigenvectors (H, R) of G = sum_i c_i p_i (1 - p_i) d_i d_i'.

    From whichever Gram matrix is the smaller one, (H, H) or (P, P).
    """
    p = torch.sigmoid(differences @ weights)
    rows = (counts * p * (1 - p)).sqrt()[:, None] * differences
    if len(rows) < rows.shape[1]:
        values, vectors = torch.linalg.eigh(rows @ rows.T)
    else:
        values, vectors = torch.linalg.eigh(rows.T @ rows)
    kept = values > values.max().clamp_min(1e-300) * 1e-12
    values, vectors = values[kept], vectors[:, kept]
    if len(rows) < rows.shape[1]:
        vectors = rows.T @ vectors / values.sqrt()
    return values, vectors


def _loss(differences: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of all labels."""
    logits = differences @ weights
    return -(counts * (labels * F.logsigmoid(logits) + (1 - labels) * F.logsigmoid(-logits))).sum()


def _mode(
    differences: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor, prior: float
) -> torch.Tensor:
    """Weights with the largest posterior density: Newton's method with halved steps, from the given ones."""

    def objective(w: torch.Tensor) -> torch.Tensor:
        return _loss(differences, labels, counts, w) + 0.5 * w.square().sum() / prior**2

    now = objective(weights)
    for _ in range(STEPS):
        residual = counts * (torch.sigmoid(differences @ weights) - labels)
        gradient = differences.T @ residual + weights / prior**2
        values, vectors = _curvature(differences, counts, weights)
        along = vectors.T @ gradient
        step = prior**2 * (gradient - vectors @ (along * (1 - 1 / (1 + prior**2 * values))))
        size = 1.0
        while (new := objective(weights - size * step)) > now and size > 1e-8:
            size /= 2
        weights = weights - size * step
        if now - new < TOLERANCE * (1 + abs(float(now))):
            break
        now = new
    return weights


def _best_prior(differences: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor) -> float:
    """The prior with the largest evidence, log p(D | w) - |w|^2 / (2 s^2) - 1/2 sum log(1 + s^2 values) up to a
    constant."""
    values, _ = _curvature(differences, counts, weights)
    variance = PRIORS.square()
    evidence = -0.5 * weights.square().sum() / variance - 0.5 * torch.log1p(variance[:, None] * values).sum(1)
    return float(PRIORS[int(evidence.argmax())])
