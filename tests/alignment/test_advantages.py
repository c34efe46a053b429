"""Advantage estimators against hand-computed numbers, TRL's formula and their invariances."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.alignment.advantages import group_advantages, returns_to_go, step_advantages, whitened_advantages

NAN = math.nan


def test_hand_computed_with_both_standard_deviations():
    rewards, groups = torch.tensor([1.0, 1.0, -1.0, -1.0]), torch.zeros(4, dtype=torch.long)
    population = group_advantages(rewards, groups, unbiased=False, eps=0.0)
    sample = group_advantages(rewards, groups, eps=0.0)
    torch.testing.assert_close(population, torch.tensor([1.0, 1.0, -1.0, -1.0]))
    torch.testing.assert_close(sample, torch.tensor([0.8660, 0.8660, -0.8660, -0.8660]), atol=1e-4, rtol=0)
    torch.testing.assert_close(group_advantages(rewards, groups, scale="none"), rewards)


def test_groups_need_not_stand_together():
    rewards = torch.tensor([1.0, 10.0, 3.0, 30.0])
    advantages = group_advantages(rewards, torch.tensor([7, 2, 7, 2]), scale="none")
    torch.testing.assert_close(advantages, torch.tensor([-1.0, -10.0, 1.0, 10.0]))


def test_equals_what_trl_computes():
    rewards = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    ours = group_advantages(rewards.flatten(), torch.arange(6).repeat_interleave(4))
    trl = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(ours, trl.flatten(), atol=1e-6, rtol=1e-5)


def test_a_completion_without_reward_counts_nowhere():
    rewards = torch.tensor([1.0, NAN, 3.0, NAN, NAN])
    advantages = group_advantages(rewards, torch.tensor([0, 0, 0, 1, 1]), scale="none")
    torch.testing.assert_close(advantages, torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0]))


@given(value=st.floats(-1e6, 1e6), size=st.integers(1, 7))
def test_equal_rewards_have_no_advantage(value, size):
    advantages = group_advantages(torch.full((size,), value), torch.zeros(size, dtype=torch.long))
    assert (advantages == 0).all()


@given(shift=st.floats(-50, 50), factor=st.floats(0.1, 20))
def test_an_affine_change_within_a_group_changes_nothing(shift, factor):
    rewards = torch.tensor([0.0, 1.0, 4.0, 2.0], dtype=torch.float64)
    groups = torch.zeros(4, dtype=torch.long)
    moved = group_advantages(shift + factor * rewards, groups, eps=0.0)
    torch.testing.assert_close(moved, group_advantages(rewards, groups, eps=0.0), atol=1e-8, rtol=0)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(B,\)"):
        group_advantages(torch.zeros(2, 2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="scale"):
        group_advantages(torch.zeros(2), torch.zeros(2), scale="batch")


def test_returns_to_go():
    assert returns_to_go(torch.tensor([[1.0, 0.0, 2.0]])).tolist() == [[3.0, 2.0, 2.0]]


def test_whitened_over_tokens_and_filtered():
    rewards = torch.zeros(8, 4)
    rewards[:, 3] = torch.tensor([0.0] * 7 + [100.0])
    mask = torch.ones(8, 4, dtype=torch.bool)
    mask[0, 2:] = False
    plain = whitened_advantages(rewards, mask)
    assert plain[mask].mean().abs() < 1e-5 and plain[mask].std(unbiased=False) == pytest.approx(1, abs=1e-4)
    assert (plain[~mask] == 0).all()
    filtered = whitened_advantages(rewards, mask, limit=2.0)
    assert (filtered[7] == 0).all() and torch.equal(filtered[:7], plain[:7])
    rewards[1, 0] = NAN
    assert (whitened_advantages(rewards, mask)[1] == 0).all()


def test_a_token_has_the_return_of_its_step():
    # Two completions of one prompt, two steps each: [-1, then +1] and [+1, then -1].
    token_rewards = torch.tensor([[NAN, -1.0, NAN, 1.0], [NAN, 1.0, NAN, -1.0]])
    mask = torch.ones(2, 4, dtype=torch.bool)
    advantages = step_advantages(token_rewards, torch.zeros(2), torch.zeros(2, dtype=torch.long), mask, eps=0.0)
    # Returns: 0, 1 and 0, -1: mean 0, sample standard deviation sqrt(2 / 3).
    unit = math.sqrt(3 / 2)
    torch.testing.assert_close(advantages, torch.tensor([[0.0, 0.0, unit, unit], [0.0, 0.0, -unit, -unit]]))
    without = step_advantages(token_rewards, torch.tensor([NAN, 0.0]), torch.zeros(2, dtype=torch.long), mask)
    assert (without[0] == 0).all()
