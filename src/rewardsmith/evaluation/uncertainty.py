"""Uncertainty put to use: which pairs to have labeled next, and whether a model knows where it is wrong.

A model that knows how sure it is answers a preference with a logit and its standard deviation
(`PreferenceModel.preference_std`), taken for a Gaussian here. What is worth a label is what the model would learn from:
the mutual information of the label and the reward (Houlsby et al. 2011, "Bayesian Active Learning for Classification
and Preference Learning", equation 3), which is large where the members of an ensemble contradict each other, and small
where they agree that two completions are equally good.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit, ndtr, xlogy

from rewardsmith.data.records import RecordError, Text, as_columns, text_key
from rewardsmith.evaluation.intervals import Estimate, bootstrap_mean, cluster_index, tail
from rewardsmith.evaluation.metrics import correctness, correlation
from rewardsmith.evaluation.plain import to_plain
from rewardsmith.reward import PreferenceModel

# Texts, and columns that say something of each candidate or of the label: they do not describe a pair of candidates.
_USED = ("prompt", "candidates", "chosen", "rejected", "completion", "gold", "ratings", "ranks")
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5, 0.25)
_PROBIT = math.sqrt(math.pi / 8)  # sigmoid(x) is about Phi(x * _PROBIT)
_SPREAD = math.sqrt(math.pi * math.log(2) / 2)  # of the Gaussian that the entropy of Phi(x) is about, in bits


def mean_probability(logits: np.ndarray, std: np.ndarray) -> np.ndarray:
    """E sigmoid(x) for x ~ N(logits, std^2), within 0.02: sigmoid(logit / sqrt(1 + pi std^2 / 8)) (MacKay 1992)."""
    return expit(logits / np.sqrt(1 + (_PROBIT * std) ** 2))


def information_gain(logits: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Bits that a label tells about a Gaussian logit: the entropy of the label less its mean entropy given the logit.

    In closed form, within 0.04 bits: with m and s the logit's mean and deviation times sqrt(pi / 8), the entropy of
    Phi(m / sqrt(1 + s^2)) less C exp(-m^2 / (2 (s^2 + C^2))) / sqrt(s^2 + C^2), C = sqrt(pi ln 2 / 2).

    Args:
        logits: (B,).
        std: (B,), >= 0.

    Returns:
        (B,) in [0, 1], 0 where std is 0.
    """
    m, s2 = _PROBIT * logits, (_PROBIT * std) ** 2
    p = ndtr(m / np.sqrt(1 + s2))
    entropy = -(xlogy(p, p) + xlogy(1 - p, 1 - p)) / math.log(2)
    given = _SPREAD * np.exp(-(m**2) / (2 * (s2 + _SPREAD**2))) / np.sqrt(s2 + _SPREAD**2)
    # At std = 0 the two differ by the error of the approximation alone, which is taken out.
    q = ndtr(m)
    error = -(xlogy(q, q) + xlogy(1 - q, 1 - q)) / math.log(2) - np.exp(-(m**2) / (2 * _SPREAD**2))
    return np.clip(entropy - given - error, 0.0, 1.0)


def acquisition(logits: np.ndarray, std: np.ndarray | None, by: str) -> np.ndarray:
    """What a label is worth, (B,): the larger, the sooner.

    Args:
        logits: (B,) mean logits.
        std: (B,) their standard deviations; not needed for `margin`.
        by: `information` (see `information_gain`), `uncertainty` (std), `margin` (minus the absolute logit).

    Raises:
        ValueError: for another word, or where the model has no std.
    """
    if by == "margin":
        return -np.abs(logits)
    if by not in ("information", "uncertainty"):
        raise ValueError(f"by must be information, uncertainty or margin, not {by!r}")
    if std is None:
        raise ValueError(
            f"{by} needs a model that knows how sure it is, such as an ensemble (head='ensemble'); this one gives no "
            "standard deviation of preferences. Without one there is by='margin'"
        )
    return information_gain(logits, std) if by == "information" else std


@dataclass
class SelectedPairs:
    """Pairs that are worth a label.

    Attributes:
        rows: the best first: `prompt`, `candidates` (two), the columns that describe the prompt, `row` (of the data),
            `logit` (that the first is the better one), `std` where the model has it, `probability`, and `score`, by
            which they were chosen.
        by: how.
        pairs: how many there were to choose from.
        unscored: of these, pairs that the model could not compare; none of them is chosen.
    """

    rows: list[dict[str, Any]]
    by: str
    pairs: int
    unscored: int

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return to_plain(self)


def select_pairs(
    model: PreferenceModel, data: Any, n: int, *, by: str = "information", diverse: bool = True
) -> SelectedPairs:
    """The n pairs whose labels would teach a model most.

    Args:
        model: any; for `information` and `uncertainty` one with `preference_std`.
        data: rows with `prompt` and `candidates` (two or more: every pair of them), or `chosen` and `rejected`, whose
            labels are not looked at; and the columns that the model reads.
        n: pairs to choose.
        by: see `acquisition`.
        diverse: take the best pair of every prompt before the second best of any: pairs of one prompt tell much of the
            same.

    Raises:
        ValueError: where there are no pairs, or the model has no standard deviation.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    columns = as_columns(data)
    rows, a, b = _pairs(columns)
    if not rows:
        raise ValueError("there are no pairs to choose from")
    further = {name: [column[row] for row in rows] for name, column in columns.items() if name not in _USED}
    prompts = [columns["prompt"][row] for row in rows]
    logits = np.asarray(model.preference(prompts, a, b, **further), dtype=np.float64)
    std = None if by == "margin" else model.preference_std(prompts, a, b, **further)
    scores = acquisition(logits, std, by)
    order = np.argsort(-scores, kind="stable")
    order = order[~np.isnan(scores[order])]
    known = len(order)
    if diverse:
        seen: dict[str, int] = {}
        turn = np.zeros(len(rows), dtype=np.int64)
        for at in order:
            key = text_key(prompts[at])
            turn[at] = seen[key] = seen.get(key, -1) + 1
        order = order[np.argsort(turn[order], kind="stable")]
    probability = expit(logits) if std is None else mean_probability(logits, std)
    return SelectedPairs(
        rows=[
            {
                **{name: column[at] for name, column in further.items()},
                "prompt": prompts[at],
                "candidates": [a[at], b[at]],
                "row": rows[at],
                "logit": float(logits[at]),
                **({} if std is None else {"std": float(std[at])}),
                "probability": float(probability[at]),
                "score": float(scores[at]),
            }
            for at in order[:n]
        ],
        by=by,
        pairs=len(rows),
        unscored=len(rows) - known,
    )


def _pairs(columns: dict[str, list[Any]]) -> tuple[list[int], list[Text], list[Text]]:
    """Row numbers and the two completions of every pair."""
    if "prompt" not in columns:
        raise ValueError(f"no column 'prompt' to choose pairs of; there are {sorted(columns)}")
    if "candidates" in columns:
        found = []
        for row, group in enumerate(columns["candidates"]):
            if not isinstance(group, list | tuple) or len(group) < 2:
                raise RecordError("must be a list of at least two", row=row, column="candidates")
            found += [(row, first, second) for first, second in itertools.combinations(group, 2)]
    elif "chosen" in columns and "rejected" in columns:
        found = list(zip(range(len(columns["prompt"])), columns["chosen"], columns["rejected"]))
    else:
        raise ValueError(f"no candidates, or chosen and rejected, to choose pairs of; there are {sorted(columns)}")
    return [row for row, _, _ in found], [first for _, first, _ in found], [second for _, _, second in found]


@dataclass
class Detector:
    """How well one measure of doubt finds the mistakes.

    Attributes:
        auroc: chance that a mistake gets more doubt than a right answer; 0.5 is none at all.
        spearman: rank correlation of doubt and mistake.
        risk: error among the least doubtful share of pairs, by that share (`COVERAGES`).
        aurc: mean error over all coverages: the area under the risk-coverage curve (Geifman et al. 2019); the error at
            full coverage is that of a measure that knows nothing.
    """

    auroc: Estimate
    spearman: Estimate
    risk: dict[float, Estimate]
    aurc: float

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return to_plain(self)


@dataclass
class Uncertainty:
    """Whether a model knows where it is wrong.

    Attributes:
        error: share of pairs that the model orders wrongly; a tie is half a mistake.
        detectors: by `margin` (small absolute logit), and, where the model has them, `std`, `information` and
            `probability` (mean probability near one half: margin and std together).
        n: pairs.
        unscored: pairs without a logit (or standard deviation), left out.
    """

    error: Estimate
    detectors: dict[str, Detector]
    n: int
    unscored: int = 0
    card: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return to_plain(self)


def evaluate_uncertainty(model: PreferenceModel, data: Any, *, seed: int = 0, resamples: int = 1000) -> Uncertainty:
    """How well a model's doubts point to its mistakes, on labeled pairs, with 95 % intervals over prompts.

    Args:
        model: any; one without `preference_std` is judged by its margins alone.
        data: rows with `prompt`, `chosen`, `rejected`, and the columns that the model reads.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    columns = as_columns(data)
    for name in ("prompt", "chosen", "rejected"):
        if name not in columns:
            raise ValueError(f"no column {name!r}; there are {sorted(columns)}")
    further = {name: column for name, column in columns.items() if name not in ("prompt", "chosen", "rejected")}
    pairs = (columns["prompt"], columns["chosen"], columns["rejected"])
    logits = np.asarray(model.preference(*pairs, **further), dtype=np.float64)
    std = model.preference_std(*pairs, **further)
    known = ~np.isnan(logits) if std is None else ~np.isnan(logits) & ~np.isnan(std)
    if not known.any():
        raise ValueError("the model could compare none of the pairs")
    clusters = cluster_index([text_key(prompt) for prompt in columns["prompt"]], len(logits))[known]
    clusters = np.unique(clusters, return_inverse=True)[1]
    logits = logits[known]
    wrong = 1 - correctness(logits)
    doubts = {"margin": -np.abs(logits)}
    if std is not None:
        std = std[known]
        doubts["std"] = std
        doubts["information"] = information_gain(logits, std)
        doubts["probability"] = -np.abs(mean_probability(logits, std) - 0.5)
    return Uncertainty(
        error=bootstrap_mean(wrong, clusters=clusters, seed=seed, resamples=resamples),
        detectors={
            name: detector(doubt, wrong, clusters=clusters, seed=seed, resamples=resamples)
            for name, doubt in doubts.items()
        },
        n=len(logits),
        unscored=int((~known).sum()),
        card={"model": model.__name__, "seed": seed, "resamples": resamples},
    )


def detector(
    doubt: np.ndarray, wrong: np.ndarray, *, clusters: np.ndarray | None = None, seed: int = 0, resamples: int = 1000
) -> Detector:
    """See `Detector`.

    Args:
        doubt: (n,), larger where the model is less sure.
        wrong: (n,) in [0, 1], 1 for a mistake.
        clusters: (n,) integers 0..G-1, drawn whole by the bootstrap.
        seed: of the bootstrap.
        resamples: of the bootstrap.
    """
    n = len(doubt)
    order = np.argsort(doubt, kind="stable")
    kept = {share: order[: max(1, math.ceil(share * n))] for share in COVERAGES}
    # Equal doubts are kept or left together, on average: each takes the mean of its group.
    _, group, count = np.unique(doubt, return_inverse=True, return_counts=True)
    tied = (np.bincount(group, weights=wrong) / count)[group][order]
    return Detector(
        auroc=auroc(doubt, wrong, clusters=clusters, seed=seed, resamples=resamples),
        spearman=correlation(doubt, wrong),
        risk={
            share: bootstrap_mean(
                wrong[rows], clusters=None if clusters is None else clusters[rows], seed=seed, resamples=resamples
            )
            for share, rows in kept.items()
        },
        aurc=float((np.cumsum(tied) / np.arange(1, n + 1)).mean()),
    )


def auroc(
    doubt: np.ndarray, wrong: np.ndarray, *, clusters: np.ndarray | None = None, seed: int = 0, resamples: int = 1000
) -> Estimate:
    """Chance that a mistake gets more doubt than a right answer, ties one half, with a percentile bootstrap interval.

    Arguments as for `detector`; a `wrong` of one half counts on both sides with half its weight. NaN without a mistake
    or without a right answer.
    """
    n = len(doubt)
    order = np.argsort(doubt, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(doubt[order]) > 0])

    def area(weights: np.ndarray) -> np.ndarray:
        errors = np.add.reduceat(weights[:, order] * wrong[order], starts, axis=1)
        right = np.add.reduceat(weights[:, order] * (1 - wrong[order]), starts, axis=1)
        below = np.cumsum(right, axis=1) - 0.5 * right
        with np.errstate(invalid="ignore"):
            return (errors * below).sum(1) / (errors.sum(1) * right.sum(1))

    value = float(area(np.ones((1, n)))[0])
    index = np.arange(n) if clusters is None else clusters
    groups = int(index.max()) + 1
    if math.isnan(value) or groups < 2:
        return Estimate(value, math.nan, math.nan, n)
    rng = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // n)
    areas = np.concatenate(
        [
            area(rng.multinomial(groups, np.full(groups, 1 / groups), size=min(chunk, resamples - start))[:, index])
            for start in range(0, resamples, chunk)
        ]
    )
    low, high = np.nanquantile(areas, tail(0.95))
    return Estimate(value, float(low), float(high), n)
