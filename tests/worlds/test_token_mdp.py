"""The exact token process: the identities of maximum-entropy control, shaping, brute force over all texts."""

from __future__ import annotations

import pytest
import torch

from rewardsmith.worlds.token_mdp import TabularPolicy, TokenMDP, prefix_rows, text_tokens


@pytest.fixture(params=range(4))
def world(request):
    return TokenMDP.random(prompts=3, vocab=3, horizon=4, beta=0.5, seed=request.param)


def test_the_log_ratio_of_a_text_is_its_reward_up_to_a_constant_of_the_prompt(world):
    solution = world.solve()
    log_ratio = world.beta * world.on_texts(solution.logps - world.ref_logps).sum(-1)
    reward = world.on_texts(world.rewards).sum(-1)
    assert log_ratio.shape == (3, 81)
    torch.testing.assert_close(log_ratio, reward - solution.values[:, :1], atol=1e-10, rtol=0)


def test_prefix_sums_are_the_reward_shaped_by_the_value(world):
    solution = world.solve()
    prefix_sums = world.beta * world.on_texts(solution.logps - world.ref_logps).cumsum(-1)
    along = solution.values[:, prefix_rows(world.texts(), world.vocab)]
    after = torch.cat([along[..., 1:], torch.zeros_like(along[..., :1])], dim=-1)
    shaped = world.on_texts(world.rewards).cumsum(-1) + after - along[..., :1]
    torch.testing.assert_close(prefix_sums, shaped, atol=1e-10, rtol=0)


def test_the_value_of_a_prompt_by_brute_force_over_all_texts(world):
    reward, likelihood = (world.on_texts(table).sum(-1) for table in (world.rewards, world.ref_logps))
    brute = world.beta * torch.logsumexp(likelihood + reward / world.beta, dim=1)
    torch.testing.assert_close(world.solve().values[:, 0], brute, atol=1e-10, rtol=0)


def test_the_optimal_policy_by_brute_force_and_shaping_leaves_it_alone(world):
    solution = world.solve()
    tilted = world.on_texts(world.ref_logps).sum(-1) + world.on_texts(world.rewards).sum(-1) / world.beta
    torch.testing.assert_close(
        world.on_texts(solution.logps).sum(-1), torch.log_softmax(tilted, dim=1), atol=1e-10, rtol=0
    )
    shaped = world.shaped(torch.randn_like(solution.values)).solve()
    torch.testing.assert_close(shaped.logps, solution.logps, atol=1e-10, rtol=0)
    assert (shaped.q - solution.q).abs().max() > 0.1


def test_shaping_to_the_log_ratio_gives_the_reward_that_a_policy_stands_for(world):
    # r + V(next) - V(state) = beta log(pi* / pi_ref): the one member of the class that has this form.
    solution = world.solve()
    torch.testing.assert_close(
        world.shaped(solution.values).rewards,
        world.beta * (solution.logps - world.ref_logps),
        atol=1e-10,
        rtol=0,
    )


def test_logits_are_q_up_to_a_shift_of_each_state(world):
    q = world.solve().q
    torch.testing.assert_close(torch.log_softmax(q / world.beta, -1), world.solve().logps, atol=1e-10, rtol=0)


def test_tables_along_texts_and_the_steps_of_a_policy_agree(world):
    policy = TabularPolicy(world.ref_logps)
    texts = world.texts()
    logps, state = policy.start([2] * len(texts))
    total = torch.zeros(len(texts), dtype=logps.dtype)
    for place in range(world.horizon):
        total += logps.gather(1, texts[:, place : place + 1])[:, 0]
        if place + 1 < world.horizon:
            logps, state = policy.step(state, torch.arange(len(texts)), texts[:, place])
    torch.testing.assert_close(total, world.on_texts(world.ref_logps)[2].sum(-1))


def test_texts_are_numbered_in_base_v():
    assert text_tokens(torch.tensor([0, 5, 26]), 3, 3).tolist() == [[0, 0, 0], [0, 1, 2], [2, 2, 2]]
    assert prefix_rows(torch.tensor([[2, 1, 0]]), 3).tolist() == [[0, 3, 11]]


def test_divergence_of_policies_by_brute_force(world):
    logps = world.solve().logps
    ours, reference = (world.on_texts(table).sum(-1) for table in (logps, world.ref_logps))
    torch.testing.assert_close(world.kl(logps, world.ref_logps), (ours.exp() * (ours - reference)).sum(1))
    assert world.visits(logps).sum((1, 2)).tolist() == pytest.approx([world.horizon] * 3)


def test_pairs_come_from_the_reference_and_the_better_text_wins_as_often_as_bradley_terry_says():
    world = TokenMDP.random(prompts=2, vocab=2, horizon=2, beta=1.0, seed=0)
    chosen, rejected = world.sample_pairs(200_000, seed=1)
    returns = world.on_texts(world.rewards).sum(-1)
    for prompt in range(2):
        for a in range(4):
            for b in range(a):
                wins = int(((chosen[prompt] == a) & (rejected[prompt] == b)).sum())
                losses = int(((chosen[prompt] == b) & (rejected[prompt] == a)).sum())
                expected = float(torch.sigmoid(returns[prompt, a] - returns[prompt, b]))
                assert wins / (wins + losses) == pytest.approx(expected, abs=0.03)
        share = torch.bincount(torch.cat([chosen[prompt], rejected[prompt]]), minlength=4) / 400_000
        likelihood = world.on_texts(world.ref_logps)[prompt].sum(-1).exp()
        torch.testing.assert_close(share.double(), likelihood, atol=0.01, rtol=0)


def test_tables_of_the_wrong_size_are_refused():
    with pytest.raises(ValueError, match=r"must both be \(P, 13, 3\)"):
        TokenMDP(torch.zeros(1, 12, 3), torch.zeros(1, 12, 3), beta=1.0, horizon=3)
    with pytest.raises(ValueError, match="beta must be positive"):
        TokenMDP(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), beta=0.0, horizon=1)
