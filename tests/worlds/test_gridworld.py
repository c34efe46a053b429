"""The grid: its moves, and that best policies and their worth are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.control.transitions import from_transition_function
from rewardsmith.worlds.gridworld import Gridworld


@pytest.fixture
def world():
    return Gridworld.random(np.random.default_rng(0))


def gold_rewards(world):
    return world.transitions().next_observations @ world.weights


def test_moves_lead_to_neighbors_and_walls_stop(world):
    to = world.successors
    assert to.shape == (64, 4)
    assert sorted(to[0]) == [0, 0, 1, 8] and sorted(to[63]) == [55, 62, 63, 63] and sorted(to[9]) == [1, 8, 10, 17]
    steps = world.transitions()
    assert len(steps) == 256 and steps.start.all() and not steps.terminated.any()
    np.testing.assert_array_equal(steps.next_observations[4 * 9 : 4 * 9 + 4], world.features[to[9]])


def test_the_gold_reward_has_the_best_policy(world):
    best = world.best_policy(gold_rewards(world))
    assert world.fitness(best) == pytest.approx(1.0)
    rng = np.random.default_rng(1)
    others = [world.fitness(rng.integers(4, size=64)) for _ in range(50)]
    # No policy is better, and neither is one that differs in a single cell.
    for cell in range(64):
        changed = best.copy()
        changed[cell] = (changed[cell] + 1) % 4
        others.append(world.fitness(changed))
    assert max(others) <= 1 + 1e-9
    assert abs(np.mean(others[:50])) < 0.5  # random policies are about as good as a random walk


def test_best_policies_agree_with_value_iteration(world):
    rewards = np.random.default_rng(2).standard_normal(256)
    table = 0.9 * rewards.reshape(64, 4) + 0.1 * rewards.reshape(64, 4).mean(1, keepdims=True)
    assert world.slip == pytest.approx(0.1)
    values = np.zeros(64)
    for _ in range(600):
        ahead = values[world.successors]
        q = table + world.gamma * (0.9 * ahead + 0.1 * ahead.mean(1, keepdims=True))
        values = q.max(1)
    moves = world.best_policy(rewards)
    np.testing.assert_allclose(q[np.arange(64), moves], values, atol=1e-6)


def test_scale_and_offset_of_a_reward_change_nothing(world):
    rewards = gold_rewards(world)
    assert world.fitness(world.best_policy(3 * rewards + 7)) == pytest.approx(1.0)
    assert world.fitness(world.best_policy(-rewards)) < 0


def test_a_reward_is_scored_by_the_policy_that_it_makes(world):
    gold = from_transition_function(lambda next_observations: next_observations @ world.weights)
    assert world.score(gold) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="256 transitions is NaN"):
        world.score(from_transition_function(lambda next_observations: next_observations[:, 0] * np.nan))
