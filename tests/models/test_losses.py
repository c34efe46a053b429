"""Losses against numbers worked out by hand, and what they must be equal to."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.models.losses import bradley_terry, hits, preference_loss

numbers = st.floats(-20, 20, width=32)


def t(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_hand_numbers():
    assert bradley_terry(t(1.0), t(0.0)).item() == pytest.approx(0.313262, abs=1e-6)
    assert bradley_terry(t(0.0), t(0.0)).item() == pytest.approx(math.log(2))
    assert preference_loss(t(-1.0)).item() == pytest.approx(1.313262, abs=1e-6)


def test_margin_moves_the_logit():
    assert torch.allclose(bradley_terry(t(3.0), t(1.0), margin=t(1.0)), bradley_terry(t(2.0), t(1.0)))


def test_soft_label_of_one_half_is_least_at_a_tie():
    logits = t(-2.0, -0.5, 0.0, 0.5, 2.0)
    loss = preference_loss(logits, target_prob=torch.full((5,), 0.5, dtype=torch.float64))
    assert loss.argmin().item() == 2
    assert torch.allclose(loss, loss.flip(0))


def test_smoothing_is_a_soft_label():
    logits = t(0.3, -1.2)
    smoothed = preference_loss(logits, label_smoothing=0.1)
    assert torch.allclose(smoothed, preference_loss(logits, target_prob=t(0.9, 0.9)))
    assert smoothed[0].item() == pytest.approx(0.9 * 0.554355 + 0.1 * 0.854355, abs=1e-6)


def test_centering_is_the_squared_sum():
    plain, centered = bradley_terry(t(2.0), t(1.0)), bradley_terry(t(2.0), t(1.0), centering=0.1)
    assert (centered - plain).item() == pytest.approx(0.9)


def test_extreme_logits_stay_finite():
    loss = bradley_terry(torch.tensor([-1e4, 1e4]), torch.zeros(2), label_smoothing=0.1)
    assert torch.isfinite(loss).all()
    wrong = torch.tensor([-200.0], requires_grad=True)
    preference_loss(wrong).sum().backward()
    assert wrong.grad.item() == pytest.approx(-1.0)


@given(numbers, numbers, numbers)
def test_adding_a_constant_to_both_rewards_changes_nothing(a, b, constant):
    base = bradley_terry(t(a), t(b)).item()
    assert bradley_terry(t(a + constant), t(b + constant)).item() == pytest.approx(base, abs=1e-9)


@given(numbers, st.floats(0, 1, width=32))
def test_swapping_the_pair_and_its_label_changes_nothing(logit, probability):
    forth = preference_loss(t(logit), target_prob=t(probability))
    back = preference_loss(t(-logit), target_prob=t(1 - probability))
    assert forth.item() == pytest.approx(back.item(), abs=1e-9)


def test_a_tie_is_half_a_hit():
    assert hits(t(1.0, -1.0, 0.0, 2.0)).tolist() == [1.0, 0.0, 0.5, 1.0]
