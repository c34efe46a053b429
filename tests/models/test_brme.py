"""Robust rewards (paper 40): the arithmetic, the exact worlds, heads on data with a gap, constant rewards, saving."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_llama
from torch import nn

from rewardsmith.alignment.advantages import group_advantages
from rewardsmith.models import RewardModel, load_model, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.brme import (
    GaussianEnsembleHead,
    expected_squared_error,
    gaussian_nll,
    robust_reward,
    standardized_targets,
)
from rewardsmith.models.ensemble import EnsembleHead
from rewardsmith.models.heads import Head
from rewardsmith.reward import Reward, Scores
from rewardsmith.worlds.candidates import tilt_to_kl

MU, SIGMA = torch.tensor([[1.0, 0.2, -0.5]]), torch.tensor([[0.3, 0.1, 0.9]])


def test_by_hand():
    found = robust_reward(MU, SIGMA, 0.6)
    assert [round(float(value), 6) for value in found] == [-0.08, 0.2, -0.5, 2, 1.5]
    assert robust_reward(MU, SIGMA, 1.0).reward.item() == pytest.approx(0.2)
    assert robust_reward(MU, SIGMA, 0.0).reward.item() == -0.5
    assert robust_reward(MU, None, 0.5, nominal="mean").reward.item() == pytest.approx((0.7 / 3 - 0.5) / 2)
    precision = (1 / 0.09 + 0.2 / 0.01 - 0.5 / 0.81) / (1 / 0.09 + 1 / 0.01 + 1 / 0.81)
    assert robust_reward(MU, SIGMA, 1.0, nominal="precision").reward.item() == pytest.approx(precision)
    assert robust_reward(MU, SIGMA, 0.6, nominal=torch.tensor([2.0])).reward.item() == pytest.approx(1.0)
    drawn = robust_reward(MU, SIGMA, 0.0, noise=torch.tensor([[-10.0, 0.0, 0.0]]))
    assert (drawn.reward.item(), drawn.head.item()) == (-2.0, 0)


@pytest.mark.parametrize("nominal", ["confident", "mean", "precision"])
def test_invariances(nominal):
    generator = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(50, 5, generator=generator), torch.rand(50, 5, generator=generator) + 0.1
    equal = mu[:, :1].expand(-1, 5)
    for weight in (0.0, 0.3, 1.0):
        found = robust_reward(mu, sigma, weight, nominal=nominal)
        torch.testing.assert_close(robust_reward(equal, sigma, weight, nominal=nominal).reward, mu[:, 0])
        torch.testing.assert_close(robust_reward(mu + 3, sigma, weight, nominal=nominal).reward, found.reward + 3)
        assert (found.reward <= found.nominal + 1e-6).all()
    batch = robust_reward(mu, sigma, 0.0, "batch")
    assert len(set(batch.head.tolist())) == 1 and batch.reward.mean().item() == pytest.approx(mu.mean(0).min().item())
    assert batch.reward.mean() >= robust_reward(mu, sigma, 0.0).reward.mean()


def test_bad_arguments():
    for arguments, said in (((1.5,), "must lie in"), ((0.5, "all"), "mode must be"), ((0.5, "sample", "x"), "nominal")):
        with pytest.raises(ValueError, match=said):
            robust_reward(MU, SIGMA, *arguments)
    with pytest.raises(ValueError, match="need sigma"):
        robust_reward(MU)


def test_losses():
    mu, sigma, target = torch.tensor(0.7), torch.tensor(0.4), torch.tensor(-0.1)
    eps = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    sampled = (mu + sigma * eps - target).square().mean()
    assert sampled.item() == pytest.approx(expected_squared_error(mu, sigma, target).item(), rel=0.02)
    assert expected_squared_error(mu, sigma, target).item() == pytest.approx(0.8)
    assert gaussian_nll(mu, torch.tensor(1.0), mu).item() == 0.0
    normal = torch.distributions.Normal(mu, sigma)
    expected = -normal.log_prob(target).item() - 0.5 * np.log(2 * np.pi)
    assert gaussian_nll(mu, sigma, target).item() == pytest.approx(expected, abs=1e-6)


def golds(utilities: dict, gold: np.ndarray, kl: float) -> dict:
    return {name: float((tilt_to_kl(u[None], kl)[0] * gold).sum()) for name, u in utilities.items()}


def mixes(mu: np.ndarray, sigma: np.ndarray) -> dict:
    """Utilities of one head, the mean of all, and lambda 1 (nominal) to 0 (minimum)."""
    found = {
        w: robust_reward(torch.tensor(mu), torch.tensor(sigma), w).reward.numpy() for w in (1.0, 0.8, 0.5, 0.2, 0.0)
    }
    return {"single": mu[:, 0], "mean": mu.mean(1), **found}


@pytest.mark.parametrize("seed", range(3))
def test_hacks_that_fool_some_heads(seed):
    rng = np.random.default_rng(seed)
    n = 4000
    hack = rng.random(n) < 0.02
    gold = np.where(hack, -2.0, rng.normal(size=n))
    mu = gold[:, None] + rng.normal(0, 0.4, (n, 5)) + 7.0 * (hack[:, None] & (rng.random((n, 5)) < 0.6))
    sigma = 0.4 + hack[:, None] * rng.uniform(0.75, 2.25, (n, 5))
    for kl in (0.5, 2.0):
        found = golds(mixes(mu, sigma), gold, kl)
        falling = [found[weight] for weight in (1.0, 0.8, 0.5, 0.2, 0.0)]
        if kl == 0.5:
            assert falling == sorted(falling) and len(set(falling)) == 5
        assert abs(found[1.0] - found["single"]) < 0.2  # the surest head is fooled as often as any
        assert found[0.5] >= found["single"] + 0.3
        assert found[0.5] >= found["mean"] + 0.1


@pytest.mark.parametrize("seed", range(3))
def test_the_minimum_alone_is_too_timid(seed):
    """One head knows each sample and says so: the nominal reward is the better one."""
    rng = np.random.default_rng(seed)
    n = 4000
    gold = rng.normal(size=n)
    knows = np.eye(5, dtype=bool)[rng.integers(5, size=n)]
    sigma = np.where(knows, 0.2, 1.5)
    mu = gold[:, None] + sigma * rng.normal(size=(n, 5))
    utilities = mixes(mu, sigma)
    found = golds(utilities, gold, 0.5)
    assert found[1.0] >= found[0.0] + 0.15 and found[1.0] > found["mean"] > found[0.0]
    assert np.corrcoef(utilities[1.0], gold)[0, 1] > 0.95


def gap_world(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x in [-2, 2] with none in (-0.25, 0.75), and a standardized target."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, 900)
    x = x[(x < -0.25) | (x > 0.75)][:300]
    y = np.sin(2 * x) + 0.3 * x + 0.1 * rng.normal(size=300)
    y = (y - y.mean()) / y.std()
    return torch.tensor(x[:, None], dtype=torch.float32), torch.tensor(y[:, None], dtype=torch.float32)


def fitted(head: Head, trunk: nn.Module, loss, steps: int = 1500) -> None:
    optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=5e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()
    head.eval()


@torch.no_grad()
def spreads(means, x: torch.Tensor) -> tuple[float, float, float]:
    """Largest minus smallest member in the gap and on the data, and the std over members of their mean on the data."""
    inside, data = means(torch.linspace(-0.05, 0.55, 50)[:, None]), means(x)

    def spread(m: torch.Tensor) -> float:
        return float((m.max(1).values - m.min(1).values).mean())

    return spread(inside), spread(data), float(data.mean(0).std())


def trunk_of(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ArrayBackbone(1, layers=(64,), hidden_size=64, activation="tanh").encoder


def test_heads_part_where_there_is_no_data():
    x, y = gap_world(0)
    rows = torch.arange(300)
    found = {}
    for name in ("mse", "equal"):
        trunk = nn.Sequential(trunk_of(0), nn.Tanh())
        share = 1.0 if name == "equal" else 0.6
        head = GaussianEnsembleHead(64, hidden=32, share=share, loss="mse")
        if name == "equal":
            head.maps.make_equal()
        fitted(
            head,
            trunk,
            lambda h=head, t=trunk: h.rating_loss(t(x), rating=y, rows=rows)[0],
            200 if name == "equal" else 1500,
        )
        found[name] = spreads(lambda points, h=head, t=trunk: h.gaussians(t(points))[0], x)
    gap, data, _ = found["mse"]
    assert gap >= 2.8 * data and gap >= 0.12
    assert found["equal"][0] < 0.12

    first, second = torch.from_numpy(np.random.default_rng(1).integers(300, size=(2, 1000)))
    wins = (
        torch.rand(1000, generator=torch.Generator().manual_seed(1)) < torch.sigmoid(3 * (y[first] - y[second]))[:, 0]
    )
    chosen, rejected = torch.where(wins, first, second), torch.where(wins, second, first)
    trunk, head = nn.Sequential(trunk_of(0), nn.Tanh()), EnsembleHead(64, hidden=32)

    def likelihood() -> torch.Tensor:
        hidden = trunk(x)
        return head.loss(hidden[chosen], hidden[rejected], rows=torch.arange(1000))[0]

    fitted(head, trunk, likelihood)
    gap, data, offset = spreads(lambda points: head.maps(trunk(points)).squeeze(-1), x)
    assert gap < 2.8 * data  # preferences leave each head an offset, which hides what it does not know
    assert offset >= 20 * found["mse"][2]
    assert spreads(lambda points: head.rewards(trunk(points)), x)[2] < 0.2 * offset  # centered members have none


def moved(rewards, seed: int, gold: np.ndarray) -> float:
    """Mean total variation that 200 steps of policy gradient move a softmax over 10 answers to each of 32 prompts."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(32, 10, generator=generator)
    start = logits.softmax(1)
    groups = torch.arange(32).repeat_interleave(8)
    for _ in range(200):
        policy = logits.softmax(1)
        actions = torch.multinomial(policy, 8, replacement=True, generator=generator)
        values = rewards(actions, generator, torch.tensor(gold, dtype=torch.float32))
        advantages = group_advantages(values.flatten(), groups).reshape(32, 8)
        taken = torch.zeros_like(policy).scatter_add(1, actions, advantages) / 8
        logits = logits + 0.05 * (taken - policy * taken.sum(1, keepdim=True))
    return float((logits.softmax(1) - start).abs().sum(1).mean() / 2)


def test_a_constant_reward_leaves_the_policy():
    gold = np.random.default_rng(0).normal(size=(32, 10))
    for constant in (0.1, 1.0, 1.7, -3.3, 100.3):
        assert moved(lambda a, g, r, c=constant: torch.full(a.shape, c), 0, gold) <= 0.001
    assert moved(lambda a, g, r: torch.randn(a.shape, generator=g), 0, gold) <= 0.05
    assert moved(lambda a, g, r: r.gather(1, a), 0, gold) >= 0.4


class ByLength(Reward):
    def score(self, batch) -> Scores:
        return Scores([float(len(c)) if c else None for c in batch["completion"]])


def test_targets_are_standardized_rewards():
    data = {"prompt": ["p", "q"], "chosen": ["aaaa", "aa"], "rejected": ["a", "aaa"], "user": ["u", "v"]}
    found = standardized_targets(ByLength(), data)
    assert found["completion"] == ["aaaa", "a", "aa", "aaa"] and found["prompt"] == ["p", "p", "q", "q"]
    assert found["user"] == ["u", "u", "v", "v"] and "chosen" not in found
    np.testing.assert_allclose(found["rating"], np.array([1.5, -1.5, -0.5, 0.5]) / np.sqrt(1.25))
    with pytest.warns(UserWarning, match="1 of 4 completions have no reward"):
        assert (
            len(standardized_targets(ByLength(), {"prompt": ["p"], "candidates": [["a", "", "aa", "b"]]})["rating"])
            == 3
        )
    with pytest.raises(ValueError, match="all the same"):
        standardized_targets(ByLength(), {"completion": ["a", "b"]})
    with pytest.raises(ValueError, match="no completion"):
        standardized_targets(ByLength(), {"prompt": ["a"]})


def test_two_stages_on_text(tmp_path):
    pairs = [
        {"prompt": f"Question {i}?", "chosen": f"A helpful answer, number {i % 5}.", "rejected": f"No idea {i % 3}."}
        for i in range(40)
    ]
    first = train(pairs, "hashed").model
    rows = standardized_targets(first, pairs)
    result = train(rows, "hashed", head="brme", epochs=30, output_dir=tmp_path / "m")
    model = result.model
    assert isinstance(model, RewardModel) and result.history[-1]["error"] < 0.3
    batch = {"prompt": ["Question 3?"] * 2, "completion": ["A helpful answer, number 3.", "No idea 0."]}
    scores, again = model.score(batch), load_model(tmp_path / "m").score(batch)
    assert scores.values[0] > scores.values[1] + 1
    np.testing.assert_allclose(again.values, scores.values, atol=1e-6)
    np.testing.assert_allclose(again.std, scores.std, atol=1e-6)
    parts = scores.parts
    np.testing.assert_allclose(scores.values, 0.6 * parts["nominal"] + 0.4 * parts["minimum"], atol=1e-6)
    heads = np.stack([parts[f"head_{k}"] for k in range(5)])
    np.testing.assert_allclose(heads.min(0), parts["minimum"], atol=1e-6)
    np.testing.assert_allclose(heads.std(0, ddof=1), scores.std, atol=1e-6)
    model.head.weight = 0.0
    np.testing.assert_allclose(model.score(batch).values, parts["minimum"], atol=1e-6)


def test_on_a_transformer(tmp_path):
    rows = {
        "prompt": ["What is bread?"] * 4,
        "completion": ["Flour.", "Water.", "No.", "Yes."],
        "rating": [1.0, 1, -1, -1],
    }
    model = train(rows, tiny_llama(), head="brme", epochs=1, batch_size=4, output_dir=tmp_path / "m").model
    scores, again = model.score(rows), load_model(tmp_path / "m").score(rows)
    assert (scores.std > 0).all()
    np.testing.assert_allclose(again.values, scores.values, atol=1e-5)
    with pytest.raises(TypeError, match="standardized_targets"):
        train({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]}, tiny_llama(), head="brme")
