"""Potential-based shaping leaves the best policies alone, at ends and at time limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewardsmith.control.potential import PotentialShaping
from rewardsmith.control.transitions import Transitions

STATES, ACTIONS, GAMMA = 6, 3, 0.95
TERMINAL = STATES - 1


def table(phi: np.ndarray):
    """The potential of states that are observed as their number."""
    return lambda observations: phi[observations]


def shaping_table(phi: np.ndarray) -> np.ndarray:
    """F(s, s') (S, S) of every pair of states, through the reward on transitions."""
    before, after = (grid.ravel() for grid in np.meshgrid(np.arange(STATES), np.arange(STATES), indexing="ij"))
    t = Transitions(before, np.zeros(len(before)), after, after == TERMINAL, np.zeros(len(before), bool))
    return PotentialShaping(table(phi), GAMMA)(t).reshape(STATES, STATES)


def best_values(reward: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Q* (S, A) by value iteration, for rewards (S, A, S) and one terminal state."""
    q = np.zeros((STATES, ACTIONS))
    for _ in range(800):
        value = q.max(axis=1)
        value[TERMINAL] = 0.0
        q = (probabilities * (reward + GAMMA * value)).sum(axis=2)
    return q


@given(st.integers(0, 10_000))
def test_the_best_policy_is_unchanged(seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(STATES, 0.5), (STATES, ACTIONS))
    reward = rng.normal(size=(STATES, ACTIONS, STATES))
    phi = 10 * rng.normal(size=STATES)
    plain = best_values(reward, probabilities)
    shaped = best_values(reward + shaping_table(phi)[:, None, :], probabilities)
    # Ng et al.: Q'* = Q* - phi, for every state that is not terminal
    np.testing.assert_allclose(shaped[:TERMINAL], (plain - phi[:, None])[:TERMINAL], atol=1e-8)


@given(arrays(float, 8, elements=st.floats(-50, 50)), st.floats(0.1, 1.0), st.booleans())
def test_the_discounted_sum_telescopes(phi, gamma, terminated):
    path = np.arange(8)
    episode = Transitions.episode(path, np.zeros(7), terminated=terminated)
    shaped = PotentialShaping(table(phi), gamma)(episode)
    total = (gamma ** np.arange(7) * shaped).sum()
    last = 0.0 if terminated else gamma**7 * phi[-1]
    np.testing.assert_allclose(total, last - phi[0], atol=1e-9)


def test_a_time_limit_is_no_terminal_state():
    # What a learner that bootstraps at time limits computes there: r + F + gamma (V(s') - phi(s')). It must be
    # r + gamma V(s') - phi(s); a potential of 0 at the limit would add gamma phi(s') to whatever leads there.
    phi, value = np.array([1.0, 5.0, -3.0]), np.array([0.0, 2.0, 4.0])
    for end in (1, 2):
        t = Transitions(np.array([0]), np.zeros(1), np.array([end]), np.array([False]), np.array([True]))
        target = PotentialShaping(table(phi), 0.9)(t)[0] + 0.9 * (value[end] - phi[end])
        assert target == pytest.approx(0.9 * value[end] - phi[0])


def test_both_ended_and_cut_off_is_ended():
    t = Transitions(np.array([0]), np.zeros(1), np.array([1]), np.array([True]), np.array([True]))
    assert PotentialShaping(table(np.array([2.0, 7.0])), 0.9)(t).tolist() == [-2.0]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="gamma"):
        PotentialShaping(table(np.zeros(3)), 1.5)
    with pytest.raises(ValueError, match=r"phi returned shape \(2, 1\) for 2"):
        PotentialShaping(lambda o: o[:, None], 0.9)(Transitions.episode(np.zeros(2), np.zeros(1)))
