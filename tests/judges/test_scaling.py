"""How votes scale, against exact numbers; and the arithmetic of training on verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rewardsmith.alignment.advantages import group_advantages
from rewardsmith.alignment.policy_gradient import clipped_policy_loss
from rewardsmith.evaluation.metrics import correctness
from rewardsmith.judges.voting import keep_votes, sum_votes

QUALITY = np.array([5.5, 5.0])


def accuracy(totals: np.ndarray) -> float:
    return float(correctness(totals[..., 0] - totals[..., 1]).mean())


def noisy(rng: np.random.Generator, records: int, votes: int, quality: np.ndarray, sigma: float) -> np.ndarray:
    """Integer scores from 1 to 10 of a judge that sees the qualities with independent errors."""
    return np.clip(np.round(quality + sigma * rng.standard_normal((records, votes, 2))), 1, 10)


def exact(votes: int, sigma: float) -> float:
    """P(sum of the better > sum of the worse), ties half, by convolution of the distribution of one difference."""
    edges = np.arange(1.5, 10)
    tails = [np.array([0.5 * math.erfc((q - edge) / (sigma * math.sqrt(2))) for edge in edges]) for q in QUALITY]
    better, worse = (np.diff(np.concatenate([[0.0], tail, [1.0]])) for tail in tails)
    one = np.convolve(better, worse[::-1])  # of the differences -9 to 9
    total = np.ones(1)
    for _ in range(votes):
        total = np.convolve(total, one)
    middle = len(total) // 2
    return float(total[middle + 1 :].sum() + 0.5 * total[middle])


@pytest.mark.parametrize(("votes", "published"), [(1, 0.568), (8, 0.690), (32, 0.838)])
def test_accuracy_grows_with_votes_as_the_convolution_says(votes, published):
    found = accuracy(sum_votes(noisy(np.random.default_rng(votes), 8000, votes, QUALITY, 2.0)))
    assert exact(votes, 2.0) == pytest.approx(published, abs=2e-3)
    assert found == pytest.approx(exact(votes, 2.0), abs=0.02)


def test_an_error_that_all_samples_share_caps_what_votes_bring():
    rng = np.random.default_rng(0)
    biased = QUALITY + rng.normal(0, 1.0, (4000, 1, 2))
    curve = [accuracy(sum_votes(noisy(rng, 4000, k, biased, 2.0))) for k in (8, 32, 128)]
    cap = 0.5 * math.erfc(-0.5 / math.sqrt(2) / math.sqrt(2))  # the sign of the shared error decides
    assert curve[0] < exact(8, 2.0) and curve[1] < exact(32, 2.0) - 0.1
    assert curve[2] < cap + 0.02 < exact(128, 2.0) - 0.2


def test_a_meta_reward_that_tells_good_samples_from_noise_beats_plain_voting():
    """Half of the samples are noise over the whole scale; a feature tells which with 85 %."""
    rng = np.random.default_rng(1)
    records = 40_000
    good = rng.random((records, 8)) < 0.5
    careful = noisy(rng, records, 8, QUALITY, 1.0)
    scores = np.where(good[..., None], careful, rng.integers(1, 11, (records, 8, 2)))
    feature = good == (rng.random(good.shape) < 0.85)
    trust = feature + 1e-3 * rng.random(good.shape)
    plain = accuracy(sum_votes(scores))
    guided = accuracy(sum_votes(keep_votes(scores, trust, 4)))
    chance = accuracy(sum_votes(keep_votes(scores, rng.random(good.shape), 4)))
    assert (plain, guided, chance) == pytest.approx((0.601, 0.647, 0.576), abs=0.012)
    assert guided - plain >= 0.03 and plain - chance >= 0.01
    np.testing.assert_array_equal(sum_votes(keep_votes(scores, trust, 8)), sum_votes(scores))


def test_advantages_of_verdict_rewards():
    rewards, groups = torch.tensor([1.0, 1, -1, -1]), torch.zeros(4, dtype=torch.long)
    by_n = group_advantages(rewards, groups, eps=0.0, unbiased=False)
    torch.testing.assert_close(by_n, torch.tensor([1.0, 1, -1, -1]))
    by_n_minus_1 = group_advantages(rewards, groups, eps=0.0)
    torch.testing.assert_close(by_n_minus_1, torch.tensor([0.8660, 0.8660, -0.8660, -0.8660]), atol=1e-4, rtol=0)
    assert group_advantages(torch.ones(4), groups).abs().max() == 0


def test_at_ratio_one_the_loss_is_zero_and_its_gradient_that_of_reinforce():
    torch.manual_seed(0)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    actions = torch.tensor([0, 1, 2, 3])
    rewards = torch.tensor([1.0, 1, -1, -1], dtype=torch.float64)
    advantages = group_advantages(rewards, torch.zeros(4, dtype=torch.long), unbiased=False)
    logps = torch.log_softmax(logits, -1)[torch.arange(4), actions]
    loss = clipped_policy_loss(logps, logps.detach(), advantages).mean()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    (clipped,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (reinforce,) = torch.autograd.grad(-(advantages * logps).mean(), logits)
    torch.testing.assert_close(clipped, reinforce, atol=1e-6, rtol=0)
