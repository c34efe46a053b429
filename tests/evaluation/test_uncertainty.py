"""Uncertainty: information in closed form against integration, choice of pairs, mistakes found, the audit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rewardsmith.evaluation import audit
from rewardsmith.evaluation.uncertainty import (
    COVERAGES,
    acquisition,
    auroc,
    detector,
    evaluate_uncertainty,
    information_gain,
    mean_probability,
    select_pairs,
)
from rewardsmith.reward import PreferenceModel, Reward, Scores

LOGITS, STDS = (grid.ravel() for grid in np.meshgrid(np.linspace(-6, 6, 13), [0.0, 0.2, 0.5, 1, 2, 4]))


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def integrated(logits: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean probability and information, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    p = expit(logits[:, None] + std[:, None] * nodes)
    weights = weights / weights.sum()
    mean = p @ weights
    return mean, entropy(mean) - entropy(np.clip(p, 1e-12, 1 - 1e-12)) @ weights


def test_closed_forms():
    mean, information = integrated(LOGITS, STDS)
    assert np.abs(mean_probability(LOGITS, STDS) - mean).max() < 0.02
    assert np.abs(information_gain(LOGITS, STDS) - information).max() < 0.04


def test_information_behaves():
    grid = np.linspace(0, 5, 30)
    assert information_gain(grid, np.zeros(30)).tolist() == [0.0] * 30
    assert (np.diff(information_gain(np.zeros(30), grid)) > 0).all()  # more doubt, more to learn
    assert (np.diff(information_gain(grid, np.ones(30))) < 0).all()  # a clear case tells less
    np.testing.assert_allclose(information_gain(grid, np.ones(30)), information_gain(-grid, np.ones(30)), atol=1e-12)


class Told(Reward):
    """Completions are `reward std`."""

    def score(self, batch) -> Scores:
        numbers = [[float(part) for part in text.split()] for text in batch["completion"]]
        return Scores(np.array([row[0] for row in numbers]), std=np.array([row[1] for row in numbers]))


class Mute(PreferenceModel):
    """A logit by length, and no standard deviation."""

    def preference(self, prompts, a, b, **columns) -> np.ndarray:
        return np.array([float(len(x) - len(y)) for x, y in zip(a, b)])


DATA = {
    "prompt": ["p", "q", "r"],
    "candidates": [["0 3", "0 3", "9 0"], ["5 .1", "0 .1"], ["1 1", "nan 1"]],
    "topic": ["x", "y", "z"],
    "gold": [[1, 2, 3], [1, 2], [1, 2]],
}


def test_the_pair_that_tells_most_comes_first():
    found = select_pairs(Told(), DATA, 10, diverse=False)
    assert [row["candidates"] for row in found.rows[:2]] == [["0 3", "0 3"], ["0 3", "9 0"]]
    first = found.rows[0]
    assert (first["prompt"], first["topic"], first["row"], first["logit"], first["probability"]) == (
        "p",
        "x",
        0,
        0,
        0.5,
    )
    assert first["std"] == pytest.approx(18**0.5) and "gold" not in first
    assert first["score"] == pytest.approx(float(information_gain(np.zeros(1), np.full(1, 18**0.5))[0]))
    assert (found.pairs, found.unscored, len(found.rows)) == (5, 1, 4)


def test_diverse_takes_every_prompt_before_a_second_of_one():
    assert [row["prompt"] for row in select_pairs(Told(), DATA, 3, diverse=True).rows] == ["p", "q", "p"]
    assert [row["prompt"] for row in select_pairs(Told(), DATA, 3, diverse=False).rows] == ["p", "p", "p"]


def test_without_std_there_is_the_margin():
    pairs = {"prompt": ["p", "p"], "chosen": ["abc", "a"], "rejected": ["ab", "abcdef"]}
    found = select_pairs(Mute(), pairs, 2, by="margin")
    assert [row["row"] for row in found.rows] == [0, 1] and "std" not in found.rows[0]
    with pytest.raises(ValueError, match="information needs a model that knows how sure it is"):
        select_pairs(Mute(), pairs, 2)
    with pytest.raises(ValueError, match="not 'magic'"):
        acquisition(np.zeros(1), None, "magic")
    with pytest.raises(ValueError, match=r"row 1.*at least two"):
        select_pairs(Mute(), {"prompt": ["p", "q"], "candidates": [["a", "b"], ["a"]]}, 1)


def test_auroc_by_hand():
    doubt = np.array([0.1, 0.4, 0.35, 0.8, 0.4])
    wrong = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    # of 6 comparisons of a mistake with a right answer, 4 are won, one is tied, one is lost
    assert auroc(doubt, wrong).value == pytest.approx(4.5 / 6)
    assert auroc(-doubt, wrong).value == pytest.approx(1.5 / 6)
    assert np.isnan(auroc(doubt, np.zeros(5)).value)


def test_auroc_interval_covers_and_counts_clusters():
    rng = np.random.default_rng(0)
    wrong = (rng.random(400) < 0.3).astype(float)
    doubt = rng.normal(size=400) + wrong
    found = auroc(doubt, wrong)
    assert found.low < found.value < found.high and found.low > 0.5
    again = auroc(np.repeat(doubt, 3), np.repeat(wrong, 3), clusters=np.repeat(np.arange(400), 3))
    assert again.value == pytest.approx(found.value)
    assert again.high - again.low == pytest.approx(found.high - found.low, rel=0.15)  # copies are no evidence


def test_risk_falls_where_doubt_is_right():
    wrong = np.array([1.0] * 20 + [0.0] * 80)
    sees = detector(1 + wrong, wrong)
    assert sees.risk[1.0].value == 0.2 and sees.risk[0.8].value == 0.0
    blind = detector(np.ones(100), wrong)
    assert blind.auroc.value == 0.5 and blind.aurc == pytest.approx(0.2)
    assert sees.aurc < 0.05


def test_evaluate_uncertainty():
    rng = np.random.default_rng(1)
    std = rng.uniform(0.1, 3, 600)
    logits = 1.0 + std * rng.normal(size=600)
    data = {
        "prompt": [f"p{i // 2}" for i in range(600)],
        "chosen": [f"{logit} {s}" for logit, s in zip(logits, std)],
        "rejected": ["0 0"] * 600,
    }
    data["chosen"][0] = "nan 1"
    found = evaluate_uncertainty(Told(), data)
    assert (found.n, found.unscored) == (599, 1)
    assert list(found.detectors) == ["margin", "std", "information", "probability"]
    assert found.detectors["std"].auroc.low > 0.6 and found.detectors["std"].spearman.low > 0.1
    assert found.detectors["std"].risk[0.5].high < found.error.value
    assert found.to_dict()["detectors"]["std"]["risk"].keys() == {str(share) for share in COVERAGES}
    assert list(evaluate_uncertainty(Mute(), data).detectors) == ["margin"]


class Sure(Reward):
    """Scores by length; the standard deviation is larger, or not, where the words are not those of the prompt."""

    def __init__(self, rises: bool) -> None:
        self.rises = rises

    def score(self, batch) -> Scores:
        off = [not set(p.split()) & set(c.split()) for p, c in zip(batch["prompt"], batch["completion"])]
        std = 1 + np.array(off, dtype=float) if self.rises else np.ones(len(off))
        return Scores(np.array([float(len(c)) for c in batch["completion"]]), std=std)


def test_the_audit_looks_at_the_std():
    words = ["rivers", "bread", "chess", "clouds", "glass", "bees"]
    rows = {"prompt": [f"about {w}" for w in words], "completion": [f"{w} are {w * 2} indeed so" for w in words]}
    (rising,) = audit(Sure(True), rows, probes=["uncertainty"]).findings
    assert (rising.probe, rising.severity) == ("uncertainty", "ok") and rising.effect > 0.9
    (level,) = audit(Sure(False), rows, probes=["uncertainty"]).findings
    assert (level.severity, level.effect, level.share) == ("note", 0.0, 0.0)
    plain = audit(Told() * 1.0, {"prompt": ["a", "b"], "completion": ["1 1", "2 1"]}, probes=["uncertainty"])
    assert not plain.findings  # a sum of rewards has no standard deviation
