"""A preference model on held-out pairs: accuracy, calibration, length bias, worst mistakes, and models side by side.

Every result carries a card with what a re-run needs to give the same numbers.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib import metadata
from typing import Any

import numpy as np

from rewardsmith import __version__
from rewardsmith.data.records import as_columns, as_text, text_key
from rewardsmith.evaluation.intervals import (
    Estimate,
    bootstrap_mean,
    cluster_index,
    holm,
    mcnemar,
    paired_permutation,
)
from rewardsmith.evaluation.metrics import Calibration, correctness, correlation, describe, pair_calibration
from rewardsmith.evaluation.plain import excerpt, to_plain
from rewardsmith.reward import PreferenceModel, Reward


@dataclass
class PairEvaluation:
    """What a model makes of P pairs whose better completion is known.

    Attributes:
        name: of the model.
        logits: (P,) logit that chosen beats rejected, NaN where there is none.
        clusters: (P,) integers, equal for pairs of one prompt.
        accuracy: over the pairs that got an answer, ties counting half; intervals keep the pairs of a prompt together.
        by: column -> value -> accuracy there.
        calibration: of sigmoid(logit).
        length: `accuracy_chosen_shorter`, `accuracy_chosen_longer` (words), `spearman` and `pearson` of logit and
            difference of lengths, `longer_wins` (accuracy of always taking the longer one).
        scores: of a scalar reward, `chosen` and `rejected` distributions; else the distribution of logits.
        ties: pairs with a logit of 0.
        nan: pairs without an answer; `failures` counts the reasons.
        worst: the mistakes with the largest logits: row, prompt, chosen, rejected, logit, scores.
        card: what makes the numbers reproducible.
    """

    name: str
    logits: np.ndarray
    clusters: np.ndarray
    accuracy: Estimate
    by: dict[str, dict[str, Estimate]]
    calibration: Calibration
    length: dict[str, Estimate]
    scores: dict[str, dict[str, Any]]
    ties: int
    nan: int
    failures: dict[str, int]
    worst: list[dict[str, Any]]
    card: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the logits of single pairs, as JSON; NaN becomes None."""
        hidden = ("logits", "clusters")
        return {f.name: to_plain(getattr(self, f.name)) for f in fields(self) if f.name not in hidden}


def evaluate_pairs(
    model: PreferenceModel,
    data: Any,
    *,
    by: Sequence[str] = (),
    seed: int = 0,
    resamples: int = 1000,
    worst: int = 10,
    name: str | None = None,
) -> PairEvaluation:
    """Evaluate a model on pairs.

    Args:
        model: a reward or preference model. A reward scores every completion once.
        data: rows with `prompt`, `chosen`, `rejected`, and the columns that `by` and the model read.
        by: columns by whose values accuracy is broken down.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        worst: how many mistakes to list.
        name: of the model in reports. Default: its `__name__`.

    Raises:
        ValueError: where a column is missing or there are no rows.
    """
    columns = as_columns(data)
    for column in ("prompt", "chosen", "rejected"):
        if column not in columns:
            raise ValueError(f"no column {column!r}: pairs have prompt, chosen, rejected; there are {list(columns)}")
    for column in by:
        if column not in columns:
            raise ValueError(f"no column {column!r} to break accuracy down by; there are {list(columns)}")
    prompts, chosen, rejected = columns["prompt"], columns["chosen"], columns["rejected"]
    if not prompts:
        raise ValueError("there are no pairs: the data is empty")
    further = {k: v for k, v in columns.items() if k not in ("prompt", "chosen", "rejected", "completion")}
    logits, sides, failures, truncated = _answers(model, prompts, chosen, rejected, further)

    right = correctness(logits)
    clusters = cluster_index([text_key(prompt) for prompt in prompts], len(prompts))

    def share(rows: np.ndarray) -> Estimate:
        return bootstrap_mean(right[rows], clusters=clusters[rows], resamples=resamples, seed=seed)

    gap = _words(chosen) - _words(rejected)
    everything = np.ones(len(logits), dtype=bool)
    breakdown = {}
    for column in by:
        values = np.array([str(value) for value in columns[column]])
        breakdown[column] = {value: share(values == value) for value in dict.fromkeys(values.tolist())}
    length = {
        "accuracy_chosen_shorter": share(gap < 0),
        "accuracy_chosen_longer": share(gap > 0),
        "spearman": correlation(logits, gap, "spearman"),
        "pearson": correlation(logits, gap, "pearson"),
        "longer_wins": bootstrap_mean(correctness(gap), clusters=clusters, resamples=resamples, seed=seed),
    }
    mistakes = [i for i in np.argsort(np.where(np.isnan(logits), np.inf, logits), kind="stable") if logits[i] < 0]
    label = name or model.__name__
    return PairEvaluation(
        name=label,
        logits=logits,
        clusters=clusters,
        accuracy=share(everything),
        by=breakdown,
        calibration=pair_calibration(logits),
        length=length,
        scores=_distributions(logits, sides),
        ties=int(np.sum(logits == 0)),
        nan=int(np.isnan(logits).sum()),
        failures=failures,
        worst=[_mistake(int(i), columns, logits, sides) for i in mistakes[:worst]],
        card=_card(model, label, columns, seed=seed, resamples=resamples, truncated=truncated),
    )


def _answers(
    model: PreferenceModel, prompts: list, chosen: list, rejected: list, further: dict[str, list]
) -> tuple[np.ndarray, np.ndarray | None, dict[str, int], int | None]:
    """Logits (P,), a scalar reward's scores (2, P), reasons of failure, and how many prompts were cut."""
    if not isinstance(model, Reward):
        logits = np.asarray(model.preference(prompts, chosen, rejected, **further), dtype=np.float64)
        failed = int(np.isnan(logits).sum())
        return logits, None, {"no answer": failed} if failed else {}, None
    twice = {column: [*values, *values] for column, values in further.items()}
    scored = model.resolved({**twice, "prompt": [*prompts, *prompts], "completion": [*chosen, *rejected]})
    sides = scored.values.reshape(2, -1)
    failures = Counter(f"{failure.kind}: {failure.reason}" for failure in scored.failures.values())
    truncated = None
    if scored.details is not None and any("truncated" in detail for detail in scored.details):
        truncated = sum(bool(detail.get("truncated")) for detail in scored.details)
    elif hasattr(model, "fingerprint") and "max_length" in model.fingerprint():
        truncated = 0
    return sides[0] - sides[1], sides, dict(failures.most_common(20)), truncated


def _words(texts: Sequence[Any]) -> np.ndarray:
    return np.array([len(as_text(text).split()) for text in texts], dtype=np.float64)


def _distributions(logits: np.ndarray, sides: np.ndarray | None) -> dict[str, dict[str, Any]]:
    if sides is None:
        return {"logit": describe(logits)}
    known = sides[np.isfinite(sides)]
    edges = np.histogram_bin_edges(known, bins=30) if len(known) else None
    return {"chosen": describe(sides[0], edges=edges), "rejected": describe(sides[1], edges=edges)}


def _mistake(row: int, columns: dict[str, list], logits: np.ndarray, sides: np.ndarray | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"row": row, "logit": float(logits[row])}
    shown |= {column: excerpt(as_text(columns[column][row])) for column in ("prompt", "chosen", "rejected")}
    if sides is not None:
        shown |= {"chosen_score": float(sides[0, row]), "rejected_score": float(sides[1, row])}
    return shown


def data_fingerprint(columns: dict[str, list[Any]]) -> str:
    """First 16 hex digits of the SHA-256 of the texts, in order."""
    digest = hashlib.sha256()
    for column in ("prompt", "chosen", "rejected", "completion", "candidates"):
        for value in columns.get(column, ()):
            digest.update(text_key(value).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def _card(
    model: PreferenceModel, name: str, columns: dict[str, list], *, seed: int, resamples: int, truncated: int | None
) -> dict[str, Any]:
    versions = {"rewardsmith": __version__, "python": platform.python_version(), "numpy": np.__version__}
    for package in ("torch", "transformers"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return to_plain(
        {
            "name": name,
            "model": model.fingerprint() if hasattr(model, "fingerprint") else {"class": type(model).__name__},
            "data": data_fingerprint(columns),
            "pairs": len(columns["prompt"]),
            "truncated": truncated,
            "order": "chosen, then rejected, each scored on its own" if isinstance(model, Reward) else "chosen first",
            "interval": f"95 %, percentile bootstrap over prompts, {resamples} resamples",
            "seed": seed,
            "versions": versions,
        }
    )


@dataclass
class Comparison:
    """Models compared on the same pairs.

    Attributes:
        pairs: one dict per two models: `a`, `b`, `agreement` (share of pairs with the same verdict), `kappa` (Cohen's),
            `spearman` of their logits, `difference` in accuracy (a - b; its interval keeps pairs of a prompt together),
            `only_a`, `only_b` (pairs that only one got right), `p` (paired permutation test over prompts),
            `p_mcnemar`, and `p_holm` (`p`, corrected for as many comparisons).
    """

    pairs: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """`{"pairs": [...]}`, as JSON."""
        return {"pairs": to_plain(self.pairs)}


def compare(evaluations: Sequence[PairEvaluation], *, seed: int = 0, resamples: int = 1000) -> Comparison:
    """Compare evaluations of several models on the same data, two by two.

    Raises:
        ValueError: where there are fewer than two, or they are of different data.
    """
    if len(evaluations) < 2:
        raise ValueError("a comparison needs at least two evaluations")
    if len({evaluation.card.get("data") for evaluation in evaluations}) > 1:
        raise ValueError("the evaluations are of different data")
    rows = []
    for i, first in enumerate(evaluations):
        for second in evaluations[i + 1 :]:
            rows.append(_compare(first, second, seed, resamples))
    for row, corrected in zip(rows, holm([row["p"] for row in rows])):
        row["p_holm"] = corrected
    return Comparison(rows)


def _compare(first: PairEvaluation, second: PairEvaluation, seed: int, resamples: int) -> dict[str, Any]:
    a, b = correctness(first.logits), correctness(second.logits)
    known = ~(np.isnan(a) | np.isnan(b))
    same = (a == b)[known]
    share = float(same.mean()) if len(same) else math.nan
    expected = (
        sum(float((a[known] == v).mean() * (b[known] == v).mean()) for v in (0.0, 0.5, 1.0)) if len(same) else 0.0
    )
    only_a, only_b, p_mcnemar = mcnemar(a, b)
    _, p = paired_permutation(a, b, clusters=first.clusters, seed=seed)
    return {
        "a": first.name,
        "b": second.name,
        "agreement": share,
        "kappa": (share - expected) / (1 - expected) if expected < 1 else math.nan,
        "spearman": correlation(first.logits, second.logits, "spearman"),
        "difference": bootstrap_mean(a - b, clusters=first.clusters, resamples=resamples, seed=seed),
        "only_a": only_a,
        "only_b": only_b,
        "p": p,
        "p_mcnemar": p_mcnemar,
    }
