"""The autoencoder: its loss by hand, and that it keeps what varies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardsmith.evaluation.representations import feature_prediction_error
from rewardsmith.models import RewardModel
from rewardsmith.models.autoencoder import train_vae, vae_loss
from rewardsmith.models.similarity import embed


def test_loss_by_hand():
    states, rebuilt = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    mean, log_var = torch.tensor([[2.0]]), torch.tensor([[0.0]])
    assert vae_loss(states, rebuilt, mean, log_var, beta=0.5).item() == pytest.approx(2.0 + 0.5 * 2.0)
    narrow = vae_loss(states, states, 0 * mean, torch.tensor([[-2.0]]))
    assert narrow.item() == pytest.approx((np.exp(-2) - 1 + 2) / 2)


def test_it_keeps_what_varies():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(400, 6)) * np.array([3, 3, 0.1, 0.1, 0.1, 0.1])
    backbone = train_vae(states, 2, (32,), steps=400, learning_rate=3e-3)
    vectors = embed(RewardModel(backbone), states.tolist())
    half = np.arange(400) < 200
    assert feature_prediction_error(vectors, states[:, :2], half).relative < 0.1
    assert feature_prediction_error(vectors, states[:, 2:], half).relative > 0.9
    first, again = (train_vae(states, 2, (8,), steps=3) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters()))
