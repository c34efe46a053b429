"""Paper 64 at small scale beside its claim: how a reward model grows with data, and where best-of-n goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardsmith.evaluation import order_statistics_curve
from rewardsmith.functions import from_function
from rewardsmith.models.losses import bradley_terry
from rewardsmith.papers.p64_summarize import Gold


def linear_fit(pairs: int, seed: int, shuffled: bool = False) -> float:
    """Held-out sign accuracy of a linear Bradley-Terry fit on 40 features with labels of sigmoid(3 difference)."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.randn(40, generator=g)
    weights /= weights.norm()
    x, y = torch.randn(2, pairs + 5000, 40, generator=g)
    difference = (x - y) @ weights
    first = torch.rand(len(x), generator=g) < torch.sigmoid(3 * difference)
    if shuffled:
        first = first[torch.randperm(len(first), generator=g)]
    a, b = torch.where(first.unsqueeze(1), x, y), torch.where(first.unsqueeze(1), y, x)
    w = torch.zeros(40, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = bradley_terry(a[:pairs] @ w, b[:pairs] @ w).mean() + 1e-4 * w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    guess = (x - y)[pairs:] @ w.detach()
    return float((guess * difference[pairs:] > 0).float().mean())


def test_accuracy_grows_with_comparisons_and_shuffled_labels_teach_nothing():
    accuracy = [np.mean([linear_fit(n, seed) for seed in range(3)]) for n in (100, 500, 2000, 8000)]
    assert accuracy == sorted(accuracy)
    assert accuracy[2] >= 0.94
    assert np.mean([linear_fit(2000, seed, shuffled=True) for seed in range(20)]) == pytest.approx(0.5, abs=0.03)


def candidates(share: float):
    """Proxy and gold of 1,024 candidates for 200 prompts; a share of them fools the proxy with style."""
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(200, 1024))  # gold score of the 20 clean features, of unit variance
    style = rng.normal(size=clean.shape)
    hacked = rng.random(clean.shape) < share
    proxy = clean + 0.5 * np.where(hacked, 10, style) + 0.15 * rng.normal(size=clean.shape)
    gold = clean + np.where(hacked, -3.0, 0.5 * style)
    return proxy, gold


def test_gold_peaks_at_16_and_ends_below_the_start_where_candidates_fool_the_proxy():
    ns = (1, 4, 16, 64, 256, 1024)
    rows, peak, fall = order_statistics_curve(*candidates(0.005), ns)
    assert peak in (4, 16, 64)
    assert fall["low"] > 0
    assert rows[-1]["gold"] < rows[0]["gold"]
    proxy = [row["proxy"] for row in rows]
    assert proxy == sorted(proxy)
    kl = [row["kl"] for row in rows]
    assert kl == pytest.approx([0, 0.636, 1.835, 3.175, 4.549, 5.932], abs=1e-3)


def test_noise_alone_never_makes_gold_fall():
    rows, peak, _ = order_statistics_curve(*candidates(0.0), (1, 4, 16, 64, 256, 1024))
    gold = [row["gold"] for row in rows]
    assert gold == sorted(gold) and peak == 1024


def test_subtracting_the_mean_of_references_centers_them_and_leaves_preferences_alone():
    learned = from_function(lambda completion: 0.3 * len(completion) - 2)
    references = ["one two", "three", "four five six"]
    centered = learned - float(np.mean(learned([""] * 3, references)))
    assert np.mean(centered([""] * 3, references)) == pytest.approx(0, abs=1e-6)
    pair = ([""], ["one"], ["three"])
    assert centered.preference(*pair) == pytest.approx(learned.preference(*pair))


def test_gold_of_notes_by_hand():
    notes = ["who what", "who who", "who who who", "um the", "the of"]
    assert Gold()([""] * 5, notes) == pytest.approx([2, 1, 0.5, -0.7, 0])
