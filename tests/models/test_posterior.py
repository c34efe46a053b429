"""Laplace posteriors: the closed form, two ranks, the mode, the prior, saving, and which data leaves less unknown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_llama

from rewardsmith.evaluation.topology import posterior_variance
from rewardsmith.models import RewardModel, ScalarHead, load_model, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.ensemble import EnsembleHead
from rewardsmith.models.hashed import HashedBackbone
from rewardsmith.models.posterior import LaplaceHead, laplace

torch.set_num_threads(1)


def world(size: int, count: int, seed: int = 0, scale: float = 1.0) -> tuple[dict, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = scale * rng.normal(size=size)
    a, b = rng.normal(size=(2, count, size))
    won = rng.random(count) < 1 / (1 + np.exp(-(a - b) @ weights))
    chosen, rejected = np.where(won[:, None], a, b), np.where(won[:, None], b, a)
    return {"prompt": [""] * count, "chosen": chosen.tolist(), "rejected": rejected.tolist()}, weights


def model(size: int, weights: np.ndarray | None = None) -> RewardModel:
    made = RewardModel(ArrayBackbone(size), ScalarHead(size))
    if weights is not None:
        made.head.linear.weight.data.copy_(torch.tensor(weights)[None])
    return made


@pytest.mark.parametrize(("size", "count"), [(5, 40), (40, 6)])
def test_the_covariance_is_the_inverse_of_the_curvature(size: int, count: int) -> None:
    rows, weights = world(size, count)
    rows["weight"] = np.linspace(0.5, 2, count).tolist()
    found = laplace(model(size, weights), rows, prior=0.7)
    d = np.array(rows["chosen"]) - np.array(rows["rejected"])
    p = 1 / (1 + np.exp(-d @ weights))
    precision = np.eye(size) / 0.7**2 + (d.T * (np.array(rows["weight"]) * p * (1 - p))) @ d
    S = np.linalg.inv(precision)
    a, b = np.random.default_rng(1).normal(size=(2, 9, size))
    expected = np.sqrt(np.einsum("bi,ij,bj->b", a - b, S, a - b))
    std = found.preference_std([""] * 9, a.tolist(), b.tolist())
    np.testing.assert_allclose(std, expected, rtol=1e-4)
    center = (np.array(rows["chosen"]) + np.array(rows["rejected"])).mean(0) / 2
    scores = found.score({"completion": a.tolist()})
    np.testing.assert_allclose(scores.std, np.sqrt(np.einsum("bi,ij,bj->b", a - center, S, a - center)), rtol=1e-4)
    np.testing.assert_allclose(scores.values, model(size, weights).score({"completion": a.tolist()}).values, rtol=1e-5)
    assert isinstance(found.head, LaplaceHead) and found.head.rank == min(size, count)


def test_without_curvature_the_prior_is_left_and_data_only_lessens_it() -> None:
    rows, weights = world(6, 30)
    ask = ([""] * 4, np.eye(6)[:4].tolist(), np.zeros((4, 6)).tolist())
    certain = laplace(model(6, 1e4 * weights), rows, prior=2.0)  # every label was foregone
    np.testing.assert_allclose(certain.preference_std(*ask), 2.0, rtol=0.05)
    few, many = (
        laplace(model(6, weights), {k: v[:n] for k, v in rows.items()}, prior=2.0).preference_std(*ask)
        for n in (10, 30)
    )
    assert (few < 2.0).all() and (many < few).all()


def test_labels_with_little_news_are_those_of_the_gaussian_world() -> None:
    """Near reward 0 a label has curvature 1/4: a comparison with noise 4, in the exact posterior."""
    rows, _ = world(5, 12)
    found = laplace(model(5, np.zeros(5)), rows, prior=1.0)
    points = np.concatenate([rows["chosen"], rows["rejected"]])
    exact = posterior_variance(points @ points.T, [[i, i + 12] for i in range(12)], 4.0)
    std = found.preference_std([""] * 11, [points[0].tolist()] * 11, points[1:12].tolist())
    np.testing.assert_allclose(std, np.sqrt(exact[0, 1:12]), rtol=1e-4)


@pytest.mark.parametrize("start", [0.0, 30.0])
def test_refit_finds_the_mode(start: float) -> None:
    rows, _ = world(5, 60)
    rows["target_prob"] = [0.9] * 60
    found = laplace(model(5, np.full(5, start)), rows, prior=0.8, refit=True)
    w = torch.tensor(found.head.linear.weight.detach().numpy()[0].astype(float), requires_grad=True)
    d = torch.tensor(np.array(rows["chosen"]) - np.array(rows["rejected"]))
    logits = d @ w
    loss = -(0.9 * torch.nn.functional.logsigmoid(logits) + 0.1 * torch.nn.functional.logsigmoid(-logits)).sum()
    (loss + w.square().sum() / (2 * 0.8**2)).backward()
    assert w.grad is not None and w.grad.abs().max() < 1e-3


def test_the_evidence_finds_the_scale_of_the_weights() -> None:
    for scale in (0.3, 1.5):
        rows, weights = world(30, 3000, seed=2, scale=scale)
        assert laplace(model(30, weights), rows).head.prior == pytest.approx(np.sqrt((weights**2).mean()), rel=0.2)
        assert laplace(model(30), rows, refit=True).head.prior == pytest.approx(scale, rel=0.4)


def test_saved_and_loaded(tmp_path) -> None:
    rows, weights = world(4, 20)
    found = laplace(model(4, weights), rows, prior=1.3)
    found.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    batch = {"completion": rows["chosen"]}
    np.testing.assert_array_equal(again.score(batch).values, found.score(batch).values)
    np.testing.assert_array_equal(again.score(batch).std, found.score(batch).std)
    assert not list((tmp_path / "m").glob("*.bin")) and (tmp_path / "m" / "head.safetensors").is_file()


def test_a_transformer_gets_one_too(tmp_path) -> None:
    texts = ["a green tree", "a long answer about rain and roofs", "no", "yes, the capital is Paris"]
    rows = {"prompt": [f"question {i}" for i in range(8)], "chosen": texts * 2, "rejected": (texts[1:] + texts[:1]) * 2}
    first = train(rows, tiny_llama(), epochs=1, batch_size=4).model
    found = laplace(first, rows)
    batch = {"prompt": rows["prompt"], "completion": rows["chosen"]}
    scores = found.score(batch)
    np.testing.assert_allclose(scores.values, first.score(batch).values, atol=1e-5)
    assert scores.std is not None and (scores.std > 0).all() and first.score(batch).std is None
    found.save(tmp_path / "m")
    np.testing.assert_allclose(load_model(tmp_path / "m").score(batch).std, scores.std, rtol=1e-5)


def test_what_has_no_linear_head_is_refused() -> None:
    rows, _ = world(5, 10)
    with pytest.raises(TypeError, match="EnsembleHead"):
        laplace(RewardModel(ArrayBackbone(5), EnsembleHead(5)), rows)
    with pytest.raises(TypeError, match="1 hidden number"):
        laplace(RewardModel(HashedBackbone(1)), {"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]})
    with pytest.raises(ValueError, match="prior must be positive"):
        laplace(model(5), rows, prior=0.0)
    with pytest.raises(ValueError, match="not rating"):
        laplace(model(5), {"completion": rows["chosen"], "rating": [1.0] * 10})
