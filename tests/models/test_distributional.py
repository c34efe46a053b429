"""Distributions of rewards: preferences by hand, antisymmetry, and what disagreement looks like."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rewardsmith.models import load_model, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.distributional import CategoricalHead, MeanVarianceHead, categorical_logit, gaussian_logit


def test_draws_of_atoms():
    chosen, rejected = torch.tensor([[0.1, 0.2, 0.7]]), torch.tensor([[0.5, 0.25, 0.25]])
    beats = sum(chosen[0, i] * rejected[0, j] * ((i > j) + 0.5 * (i == j)) for i in range(3) for j in range(3))
    logit = categorical_logit(chosen.log(), rejected.log())
    assert torch.sigmoid(logit).item() == pytest.approx(float(beats), abs=1e-6)
    assert categorical_logit(rejected.log(), chosen.log()).item() == pytest.approx(-logit.item(), abs=1e-6)
    assert categorical_logit(chosen.log(), chosen.log()).item() == pytest.approx(0, abs=1e-6)
    certain = torch.log_softmax(torch.tensor([[-900.0, 900.0]]), -1)  # no draw loses: the logit stays finite
    assert torch.isfinite(categorical_logit(certain, certain.flip(1))).all()


def test_gaussians():
    logit = gaussian_logit(torch.tensor([1.0, 0.0, -30.0]), torch.tensor([1.0, 4.0, 1.0]))
    assert torch.sigmoid(logit)[0].item() == pytest.approx(0.841345, abs=1e-5)
    assert logit[1].item() == 0 and torch.isfinite(logit).all()


@pytest.mark.parametrize("kind", [CategoricalHead, MeanVarianceHead])
def test_a_preference_has_two_sides(kind):
    torch.manual_seed(0)
    head, a, b = kind(4), torch.randn(5, 4), torch.randn(5, 4)
    assert torch.allclose(head.preference(a, b), -head.preference(b, a), atol=1e-5)
    assert (head.std(a) > 0).all() and kind(4, **head.config()).config() == head.config()


def test_the_categorical_moments_and_the_entropy_bonus():
    head = CategoricalHead(2, atoms=3)
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    hidden = torch.zeros(1, 2)
    assert head.reward(hidden).item() == pytest.approx(0.5)
    assert head.std(hidden).item() == pytest.approx(math.sqrt(1 / 6))
    assert head.loss(hidden, hidden)[0].item() == pytest.approx(math.log(2) - 0.1 * math.log(3), abs=1e-6)
    with pytest.raises(ValueError, match="atoms must be at least 2"):
        CategoricalHead(2, atoms=1)


@pytest.mark.parametrize("head", [lambda: CategoricalHead(16, entropy_weight=0.0), lambda: MeanVarianceHead(16)])
def test_disagreement_is_spread(head, tmp_path):
    """All want the first number large; what the second marks, half the users want above all and half not at all."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(400):
        items = np.stack([rng.normal(size=2), [0, rng.integers(2)]], 1)  # second: 1 where users disagree
        worth = items[:, 0] + 8 * items[:, 1] * rng.choice([-1, 1])
        best = worth.argmax()
        rows.append({"prompt": "", "chosen": items[best].tolist(), "rejected": items[1 - best].tolist()})
    torch.manual_seed(0)
    backbone = ArrayBackbone(2, (16,), 16)
    model = train(
        rows, backbone, head=head(), epochs=12, batch_size=32, learning_rate=1e-2, output_dir=tmp_path / "m"
    ).model
    agreed, divided = ([[x, mark] for x in np.linspace(-1, 1, 21)] for mark in (0.0, 1.0))
    scores = model.score({"completion": [*agreed, *divided]})
    assert scores.values[20] > scores.values[0]
    assert scores.std[21:].mean() > 1.1 * scores.std[:21].mean()
    again = load_model(tmp_path / "m").score({"completion": agreed})
    assert np.allclose(again.values, scores.values[:21]) and np.allclose(again.std, scores.std[:21])
