"""Small results with known numbers, in the plain form that `to_dict()` gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rewardsmith.evaluation.intervals import wilson
from rewardsmith.evaluation.metrics import describe, pair_calibration

HOSTILE = (
    "</details></script><script>alert('x')</script><img src=x onerror=\"alert(1)\"> & $\\frac{1}$ \x00 \ud800 `code`"
)


def evaluation(name: str = "hashed", *, skill: float = 1.0, seed: int = 0, shorter: float = 0.2) -> dict[str, Any]:
    """An evaluation of 300 pairs; of 60 pairs whose better completion is shorter, a share `shorter` is right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(skill, 1.5, 300)
    chosen, edges = rng.normal(1, 1, 300), np.linspace(-6, 6, 25)

    def share(values: np.ndarray) -> dict[str, Any]:
        return wilson(float((values > 0).sum()), len(values)).to_dict()

    return {
        "name": name,
        "accuracy": share(logits),
        "by": {"category": {group: share(logits[i::3]) for i, group in enumerate(("code", "advice", HOSTILE))}},
        "calibration": pair_calibration(logits).to_dict(),
        "length": {
            "accuracy_chosen_shorter": wilson(60 * shorter, 60).to_dict(),
            "accuracy_chosen_longer": wilson(216, 240).to_dict(),
            "spearman": {"value": 0.61, "low": 0.55, "high": 0.66, "n": 300},
        },
        "scores": {"chosen": describe(chosen, edges=edges), "rejected": describe(chosen - logits, edges=edges)},
        "ties": 2,
        "nan": 3,
        "failures": {"timeout: no answer in 5 s": 3},
        "worst": [
            {"row": 7, "prompt": HOSTILE, "chosen": "Short.", "rejected": HOSTILE, "logit": -3.25}
            | {"chosen_score": -1.25, "rejected_score": 2.0}
        ],
        "card": {"name": name, "seed": 0, "data": "0123456789abcdef", "truncated": 4, "versions": {"numpy": "2.4"}},
    }


def best_of_n(*, cost: float = 0.42, gold: bool = True) -> dict[str, Any]:
    """Gold sqrt(kl) - cost * kl against a proxy 3 sqrt(kl)."""
    rows = []
    for n in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        kl = math.log(n) - (n - 1) / n
        proxy, worth = 3 * math.sqrt(kl), math.sqrt(kl) - cost * kl
        row = {"n": n, "kl": kl, "proxy": proxy, "proxy_low": proxy - 0.1, "proxy_high": proxy + 0.1}
        rows.append(row | ({"gold": worth, "gold_low": worth - 0.05, "gold_high": worth + 0.05} if gold else {}))
    if not gold:
        return {"curve": rows, "peak": None, "over_optimized": None, "fall": None, "unscored": 0}
    peak = max(rows, key=lambda row: row["gold"])["n"]
    return {"curve": rows, "peak": peak, "over_optimized": peak < 256, "fall": None, "unscored": 2}


def audit() -> dict[str, Any]:
    """Findings of every severity, in two units, one without an effect."""

    def finding(probe: str, effect: float | None, severity: str, unit: str, example: Any = None) -> dict[str, Any]:
        known = effect is not None
        return {
            "probe": probe,
            "group": "bias",
            "effect": effect,
            "low": effect - 0.1 if known else None,
            "high": effect + 0.1 if known else None,
            "unit": unit,
            "severity": severity,
            "summary": f"What {probe} does: {HOSTILE}",
            "example": example,
            "n": 100,
            "share": 0.9,
        }

    pair = {
        "prompt": "Why?",
        "original": "Because.",
        "changed": HOSTILE,
        "gain": 1.75,
        "score_original": 0.5,
        "score_changed": 2.25,
    }
    sd, wins = "standard deviations", "share won"
    return {
        "name": "hashed",
        "findings": [
            finding("prompt copied", None, "ok", sd),
            finding("empty", 0.02, "ok", wins),
            finding("openers", 0.31, "warning", sd),
            finding("length", 1.42, "serious", sd, pair),
            finding("bullets", 0.1, "note", sd),
        ],
        "card": {"name": "hashed", "seed": 0},
    }


def history() -> list[dict[str, float]]:
    """Fifty logged steps and five evaluations."""
    rows = [
        {"step": i * 10, "loss": 0.7 * math.exp(-i / 20), "accuracy": 1 - 0.5 * math.exp(-i / 15)} for i in range(50)
    ]
    rows += [{"step": i * 100, "eval_loss": 0.6 - 0.02 * i, "eval_accuracy": 0.6 + 0.02 * i} for i in range(1, 6)]
    return sorted(rows, key=lambda row: row["step"])
