"""GPO (paper 26): the game with a known Nash policy, and the regression against the closed form."""

from __future__ import annotations

import pytest
import torch

from rewardsmith.alignment.general_preference import best_and_worst, gpo_loss, gpo_targets, gpo_update

GAME = torch.tensor([[0, 1, -2], [-1, 0, 1], [2, -1, 0]], dtype=torch.float64)  # Nash (1/4, 1/2, 1/4)
START = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
NASH = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)


def play(scores, beta, steps=5000):
    """Average and last policy of the exact update."""
    logps, total = START.log(), torch.zeros(3, dtype=torch.float64)
    for _ in range(steps):
        logps = gpo_update(logps, scores, beta)
        total += logps.exp()
    return total / steps, logps.exp()


@pytest.mark.parametrize("beta", [5.0, 20.0, 100.0])
def test_the_average_policy_approaches_nash_and_the_last_goes_around(beta):
    average, last = play(GAME, beta)
    assert (average - NASH).abs().max() <= 0.02
    assert beta != 20 or (last - NASH).abs().max() > 0.1


def test_an_additive_fit_of_the_game_ends_far_from_nash():
    r = GAME.mean(1)
    average, _ = play(r.unsqueeze(1) - r, 20.0)
    assert average[2] > 0.95
    assert (average - NASH).abs().max() > 0.5


def test_on_an_additive_score_the_limit_is_the_best_action():
    r = torch.tensor([0.1, 0.5, 0.2], dtype=torch.float64)
    assert play(r.unsqueeze(1) - r, 20.0)[1][1] > 0.999


def regress(beta, baseline):
    """Largest error of the policy, over 5 iterations of regression against the closed form."""
    logps, worst = START.log(), 0.0
    for _ in range(5):
        pi = logps.exp()
        targets = gpo_targets(GAME, beta, baseline=baseline, weights=pi, clamp=None)
        theta = logps.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([theta], max_iter=100, tolerance_grad=1e-14, tolerance_change=1e-16)

        def closure(pi=pi, targets=targets, theta=theta, optimizer=optimizer, logps=logps):
            optimizer.zero_grad()
            loss = (pi * gpo_loss(torch.log_softmax(theta, -1), logps, targets)).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        exact = gpo_update(logps, GAME, beta)
        worst = max(worst, (theta.detach().softmax(-1) - exact.exp()).abs().max().item())
        logps = exact
    return worst


def test_regression_reaches_the_closed_form_with_the_exact_baseline():
    assert regress(20.0, "exact") <= 1e-3
    assert regress(1.0, "exact") <= 1e-3


def test_without_a_baseline_it_does_only_where_beta_is_large():
    assert regress(20.0, "none") <= 1e-3
    assert regress(1.0, "none") > 0.01


def test_targets_of_sampled_completions():
    assert torch.allclose(gpo_targets(GAME, 2.0), GAME.mean(1) / 2)
    assert torch.allclose(gpo_targets(GAME, 2.0, scale=2.0), GAME.mean(1))
    assert gpo_targets(GAME, 1e-6).abs().max() == 1000
    assert abs(gpo_targets(GAME, 1.0).sum()) < 1e-12
    exact = gpo_targets(GAME, 0.5, baseline="exact")
    assert exact.exp().mean().item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="baseline must be"):
        gpo_targets(GAME, 1.0, baseline="mean")


def test_no_gradient_flows_into_targets_or_reference():
    logps, reference, targets = (torch.zeros(2, requires_grad=True) for _ in range(3))
    gpo_loss(logps, reference, targets + 1).sum().backward()
    assert torch.equal(logps.grad, torch.full((2,), -2.0))
    assert reference.grad is None and targets.grad is None


def test_best_and_worst_of_each_row():
    assert best_and_worst(torch.tensor([[0.1, 0.9, -0.3], [2.0, 1.0, 3.0]])).tolist() == [[1, 2], [2, 1]]
