"""Reports of results: what they say, for good and bad results, and for results that lack something."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import numpy as np
import pytest
from report_results import HOSTILE, audit, best_of_n, evaluation

from rewardsmith.evaluation import audit as run_audit
from rewardsmith.evaluation import best_of_n as run_best_of_n
from rewardsmith.evaluation import compare, evaluate_pairs
from rewardsmith.functions import from_function
from rewardsmith.report import Report, audit_report, best_of_n_report, evaluation_report

COMPARISON = {
    "pairs": [
        {
            "a": "one",
            "b": "two",
            "agreement": 0.8,
            "difference": {"value": 0.05, "low": 0.01, "high": 0.09, "n": 300},
            "p_holm": 1e-5,
        }
    ]
}


def words(report: Report) -> str:
    """The page as a reader sees it, one space between words."""
    body = re.sub(r"<(style|script)>.*?</\1>", " ", report.html(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_evaluation_of_one_model() -> None:
    result = evaluation()
    text = words(evaluation_report(result))
    assert f"hashed agrees with {100 * result['accuracy']['value']:.1f}% of 300 preferences" in text
    assert "Where the better completion is the shorter one, it agrees with 20.0% only." in text
    assert "3 pairs without a score" in text and "3 × timeout: no answer in 5 s" in text
    assert "4 texts longer than the model reads" in text
    assert "It prefers long completions" in text and "more often wrong than right" in text
    assert "margin −3.25" in text
    assert "0123456789abcdef" in text
    assert "Comparison" not in text


def test_evaluation_of_several_models() -> None:
    first, second = evaluation("one", seed=1), evaluation("two", seed=2, shorter=0.9)
    report = evaluation_report([first, second], COMPARISON)
    text = words(report)
    assert "Evaluation of one and two" in text
    assert "one − two 5.0 1.0 to 9.0 80.0% < 0.001" in text
    assert text.count("It prefers long completions") == 1
    assert report.html().count("<figure>") == 5  # by category, length, calibration, two score distributions
    assert "one · name one" in text and "two · name two" in text and "seed 0" in text


def test_a_sound_model_is_not_warned_of() -> None:
    result = evaluation(shorter=0.9) | {"nan": 0, "failures": {}, "worst": [], "by": {}}
    result["card"]["truncated"] = 0
    page = evaluation_report(result).html()
    assert 'class="callout' not in page
    assert "Worst mistakes" not in page


def test_a_model_that_prefers_short_completions_is_warned_of() -> None:
    result = evaluation()
    shorter, longer = "accuracy_chosen_shorter", "accuracy_chosen_longer"
    result["length"][shorter], result["length"][longer] = result["length"][longer], result["length"][shorter]
    text = words(evaluation_report(result))
    assert "It prefers short completions" in text and "will make completions shorter" in text


def test_audit() -> None:
    report = audit_report(audit())
    text = words(report)
    assert "Audit of hashed" in text and "1 serious finding: length." in text
    assert text.index("Length +1.4 standard deviations (1.3 to 1.5)") < text.index("Openers +0.31 ")
    assert "gain 1.75" in text and "original 0.500 Because." in text and "changed 2.25" in text
    assert "2.0% won" in report.html()  # the unit share is written in percent, in the figure's text
    assert HOSTILE[:30] not in report.html()


def test_audit_without_findings_says_that_it_proves_nothing() -> None:
    result = audit()
    result["findings"] = [f for f in result["findings"] if f["severity"] == "ok"]
    assert "Nothing serious was found by 2 probes. That is no proof" in words(audit_report(result))
    result["findings"] = [f for f in result["findings"] if f["effect"] is None]
    assert "<figure>" not in audit_report(result).html()


def test_best_of_n() -> None:
    text = words(best_of_n_report({"hashed": best_of_n(), "better": best_of_n(cost=0.0)}))
    assert "hashed is over-optimized" in text
    assert "Best n, hashed 8" in text and "2 candidates without a score" in text
    text = words(best_of_n_report(best_of_n(cost=0.0)))
    assert "No over-optimization beyond chance was seen up to n = 256." in text
    text = words(best_of_n_report({"hashed": best_of_n(gold=False)}))
    assert "There is no gold reward to judge by" in text


def length(completion: str) -> float:
    return float(len(completion.split()))


PAIRS = [
    {
        "prompt": f"Question {i % 7}",
        "chosen": "It depends. " * (1 + i % 5),
        "rejected": "No. " * (1 + i % 3),
        "kind": "ab"[i % 2],
    }
    for i in range(30)
]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    reward, negative = from_function(length).named("length"), (-1.0 * from_function(length)).named("brevity")
    evaluations = [evaluate_pairs(r, PAIRS, by=["kind"], resamples=50) for r in (reward, negative)]
    rows = [{"prompt": f"p{i}", "candidates": ["a " * (j + 1) for j in range(8)]} for i in range(4)]
    for row in rows:
        row["gold"] = [1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    return {
        "evaluations": evaluations,
        "comparison": compare(evaluations, resamples=50),
        "audit": run_audit(reward, PAIRS, limit=12),
        "best_of_n": run_best_of_n(reward, rows, gold="gold", resamples=50),
    }


def test_results_as_the_library_returns_them(results: dict[str, Any]) -> None:
    report = evaluation_report(results["evaluations"], results["comparison"])
    assert "length − brevity" in words(report)
    assert "Audit of length" in words(audit_report(results["audit"]))
    text = words(best_of_n_report({"length": results["best_of_n"]}))
    assert "Picks" in text and "gold 0.00" in text


def test_saved_results_give_the_same_report(results: dict[str, Any]) -> None:
    saved = json.loads(json.dumps([e.to_dict() for e in results["evaluations"]], allow_nan=False))
    comparison = json.loads(json.dumps(results["comparison"].to_dict()))
    again = evaluation_report(saved, comparison).html()
    assert again == evaluation_report(results["evaluations"], results["comparison"]).html()


def test_nothing_to_report_is_refused() -> None:
    with pytest.raises(ValueError, match="no evaluation"):
        evaluation_report([])


def test_missing_numbers_are_dashes() -> None:
    result = evaluation()
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    result |= {"accuracy": nothing, "length": dict.fromkeys(result["length"], nothing), "by": {}, "worst": []}
    result["calibration"] = {"ece": None, "brier": None, "bins": []}
    result["scores"] = {"logit": {"n": 0, "nan": 300, "quantiles": {}, "edges": [], "counts": []}}
    page = evaluation_report(result).html()
    assert "nan" not in words(evaluation_report(result)).lower().replace("finance", "")
    assert np.char.count(page, "None") == 0
