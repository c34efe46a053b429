"""The exact world: closed forms of tilted policies, and what papers 61 and 28 say of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rewardsmith.shaping import References, conjunction, par
from rewardsmith.worlds.candidates import Candidates, TableReward, hacked_rewards, kl_from_uniform, tilt, tilt_to_kl


def test_a_tilted_policy_is_the_optimum_under_the_penalty():
    rng = np.random.default_rng(0)
    utility, beta = rng.standard_normal((3, 6)), 0.7

    def objective(policy):
        return (policy * utility).sum() / 3 - beta * kl_from_uniform(policy)

    best = tilt(utility, beta)
    for _ in range(50):
        other = best * np.exp(0.1 * rng.standard_normal(best.shape))
        assert objective(other / other.sum(1, keepdims=True)) <= objective(best) + 1e-12


def test_policies_at_a_distance():
    utility = np.random.default_rng(0).standard_normal((20, 50))
    for kl in (0.01, 0.5, 3.0):
        assert kl_from_uniform(tilt_to_kl(utility, kl)) == pytest.approx(kl, abs=1e-6)
    with pytest.raises(ValueError, match="cannot be reached"):
        tilt_to_kl(utility, 10.0)


def test_rewards_by_text_and_what_is_no_candidate():
    world = Candidates.make(2, 3)
    reward = TableReward(world, np.arange(6.0).reshape(2, 3), "table")
    assert world.scores(reward).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert reward.score({"prompt": ["x"], "completion": ["y"]}).failures[0].kind == "unknown"


def test_log_sigmoid_with_a_penalty_of_one_conditions_on_being_good():
    rng = np.random.default_rng(0)
    world = Candidates.make(4, 30)
    tables = [rng.standard_normal((4, 30)) for _ in range(2)]
    floors = [References({"prompt": p, "ref_rewards": [0.3]} for p in world.prompts) for _ in tables]
    rewards = [TableReward(world, values, name) for values, name in zip(tables, "ab")]
    for k in (1, 2):  # one property, then both, which are independent given the answer
        utility = world.scores(conjunction(rewards[:k], floors[:k], q=[None] * k))
        good = np.prod([expit(values - 0.3) for values in tables[:k]], axis=0)
        np.testing.assert_allclose(tilt(utility, 1.0), good / good.sum(1, keepdims=True), atol=1e-6)


def test_par_bounds_the_distance_and_the_hacks_at_a_fixed_penalty():
    rng, beta = np.random.default_rng(3), 0.2
    world = Candidates.make(200, 200)
    gold, proxy, hacks = hacked_rewards(rng, 200, 200)
    references = References(
        {"prompt": prompt, "ref_rewards": [row[rng.integers(200)]]} for prompt, row in zip(world.prompts, proxy)
    )
    raw = tilt(proxy, beta)
    shaped = tilt(world.scores(par(TableReward(world, proxy, "proxy"), references)), beta)
    assert (raw * gold).sum(1).mean() < -1.8 and (raw * hacks).sum(1).mean() > 0.99
    assert (shaped * gold).sum(1).mean() > -0.1 and (shaped * hacks).sum(1).mean() < 0.35
    assert np.log(shaped.max(1) * 200).max() <= 1 / beta and kl_from_uniform(shaped) <= 1 / beta
