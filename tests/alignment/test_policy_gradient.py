"""Pieces of PPO (paper 64): hand-computed numbers and closed forms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.alignment.policy_gradient import (
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    kl_penalized_rewards,
    last_token_index,
    masked_mean,
    response_mask,
    whiten,
)
from rewardsmith.models.losses import bradley_terry

EOS, PAD = 1, 0


def lengths_mask(lengths, width):
    return torch.arange(width) < torch.tensor(lengths).unsqueeze(1)


def test_the_reward_is_read_at_the_last_token_before_padding():
    ids = torch.tensor([[7, 8, 9, EOS, PAD, PAD], [7, 8, 9, 4, 5, 6], [PAD] * 6, [7, PAD, PAD, PAD, PAD, PAD]])
    assert last_token_index(ids, PAD).tolist() == [3, 5, 0, 0]


def test_the_response_ends_with_its_first_end_of_text():
    ids = torch.tensor([[7, EOS, PAD, PAD], [7, 8, 9, 4], [EOS, 7, EOS, 7]])
    assert response_mask(ids, EOS).int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]


@given(st.integers(0, 1000), st.floats(0, 2))
def test_token_rewards_sum_to_the_penalized_reward(seed, beta):
    g = torch.Generator().manual_seed(seed)
    logps, reference = -torch.rand(2, 3, 5, generator=g, dtype=torch.float64)
    scores = torch.randn(3, generator=g, dtype=torch.float64)
    mask = lengths_mask([5, 2, 1], 5)
    rewards = kl_penalized_rewards(scores, logps, reference, mask, beta)
    expected = scores - beta * ((logps - reference) * mask).sum(1)
    assert torch.allclose(rewards.sum(1), expected, atol=1e-12)
    assert (rewards[~mask] == 0).all()


def test_the_score_is_paid_at_the_last_token():
    rewards = kl_penalized_rewards(
        torch.tensor([2.0]), torch.zeros(1, 3), torch.zeros(1, 3), lengths_mask([2], 3), beta=0.5
    )
    assert rewards.tolist() == [[0.0, 2.0, 0.0]]


def test_lambda_one_gives_returns_minus_values_and_zero_one_step_errors():
    g = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 2, 4, generator=g)
    mask = lengths_mask([4, 2], 4)
    rewards = rewards * mask
    to_go = rewards.flip(1).cumsum(1).flip(1)
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert torch.allclose(advantages, (to_go - values) * mask, atol=1e-6)
    assert torch.allclose(returns, to_go * mask, atol=1e-6)
    one_step, _ = gae(rewards, values, mask, gamma=0.9, lam=0.0)
    following = torch.cat([(values * mask)[:, 1:], torch.zeros(2, 1)], 1)
    assert torch.allclose(one_step, (rewards + 0.9 * following - values) * mask, atol=1e-6)


def test_gae_by_hand():
    # deltas: 0 + 0.5 * 2 - 1 = 0 and 3 - 2 = 1; A_1 = 1, A_0 = 0 + 0.5 * 0.5 * 1.
    advantages, returns = gae(
        torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 2.0]]), torch.ones(1, 2).bool(), gamma=0.5, lam=0.5
    )
    assert advantages.tolist() == [[0.25, 1.0]]
    assert returns.tolist() == [[1.25, 3.0]]


def test_whitened_values_have_mean_zero_and_variance_one_over_the_mask():
    mask = lengths_mask([5, 3, 1], 5)
    white = whiten(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 7 + 3, mask)
    assert masked_mean(white, mask).item() == pytest.approx(0, abs=1e-5)
    assert masked_mean(white.square(), mask).item() == pytest.approx(1, abs=1e-4)
    assert (white[~mask] == 0).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # clipped at 1.2: no gradient
        (0.5, 2.0, -1.0, -1.0),  # a bad ratio is not clipped
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_policy_loss_is_clipped_on_the_side_that_pays(ratio, advantage, loss, slope):
    logps = torch.tensor(ratio).log().requires_grad_()
    value = clipped_policy_loss(logps, torch.tensor(0.0), torch.tensor(advantage), clip=0.2)
    value.backward()
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert logps.grad.item() == pytest.approx(slope, abs=1e-6)


def test_value_loss_takes_the_larger_error():
    loss = clipped_value_loss(torch.tensor([2.0, 1.1]), torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0]), clip=0.2)
    assert loss.tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.9**2])


def test_pair_loss_of_rewards_one_and_zero():
    assert bradley_terry(torch.tensor([1.0]), torch.tensor([0.0])).item() == pytest.approx(0.313262, abs=1e-6)
