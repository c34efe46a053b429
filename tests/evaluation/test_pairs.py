"""Evaluation on pairs: counts by hand, what is not an answer, comparison of models, and the same numbers twice."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scripted import FirstWins, Scripted

from rewardsmith.evaluation import compare, evaluate_pairs
from rewardsmith.reward import Failure, Reward, Scores

# Scores are the numbers in the completions. Rows: right, wrong, tie, wrong by much; two rows share a prompt.
PAIRS = [
    {"prompt": "p", "chosen": "2 b", "rejected": "1 b c", "kind": "x"},
    {"prompt": "p", "chosen": "1 b c d", "rejected": "2 b", "kind": "y"},
    {"prompt": "q", "chosen": "1 b", "rejected": "1 c", "kind": "x"},
    {"prompt": "r", "chosen": "0 b", "rejected": "9 b c", "kind": "y"},
]
NUMBER = Scripted("number", lambda prompt, text: float(text.split()[0]))
WORDS = Scripted("words", lambda prompt, text: float(len(text.split())))


def test_accuracy_by_hand() -> None:
    found = evaluate_pairs(NUMBER, PAIRS, by=["kind"])
    assert found.accuracy.value == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert (found.accuracy.n, found.ties, found.nan) == (4, 1, 0)
    assert found.by["kind"]["x"].value == 0.75 and found.by["kind"]["y"].value == 0.0
    assert found.length["accuracy_chosen_shorter"].value == 0.5
    assert found.length["accuracy_chosen_longer"].value == 0.0
    assert found.length["longer_wins"].value == pytest.approx((0 + 1 + 0.5 + 0) / 4)
    assert [row["row"] for row in found.worst] == [3, 1]
    assert found.worst[0] | {"chosen_score": 0.0, "rejected_score": 9.0, "logit": -9.0} == found.worst[0]


class Sometimes(Reward):
    __name__ = "sometimes"

    def score(self, batch) -> Scores:
        values = [float(text.split()[0]) for text in batch["completion"]]
        failures = {i: Failure("timeout", "too slow") for i, value in enumerate(values) if value == 9}
        return Scores(np.array(values), failures=failures)


def test_no_answer_is_no_miss() -> None:
    found = evaluate_pairs(Sometimes(), PAIRS)
    assert (found.nan, found.accuracy.n) == (1, 3)
    assert found.accuracy.value == pytest.approx(1.5 / 3)
    assert found.failures == {"timeout: too slow": 1}


def test_a_preference_model_is_evaluated_by_its_verdicts() -> None:
    found = evaluate_pairs(FirstWins(), PAIRS)
    assert found.accuracy.value == 1.0 and set(found.scores) == {"logit"}


def test_the_same_numbers_twice_and_all_of_them_json() -> None:
    first, again = (json.dumps(evaluate_pairs(NUMBER, PAIRS, seed=3).to_dict(), allow_nan=False) for _ in range(2))
    assert first == again
    card = json.loads(first)["card"]
    assert card["seed"] == 3 and card["pairs"] == 4 and {"torch", "transformers", "numpy"} <= set(card["versions"])


def test_the_card_changes_with_the_data() -> None:
    other = [{**PAIRS[0], "chosen": "2 c"}, *PAIRS[1:]]
    assert evaluate_pairs(NUMBER, PAIRS).card["data"] != evaluate_pairs(NUMBER, other).card["data"]


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match="'chosen'"):
        evaluate_pairs(NUMBER, [{"prompt": "p", "completion": "1"}])
    with pytest.raises(ValueError, match=r"'topic'.*kind"):
        evaluate_pairs(NUMBER, PAIRS, by=["topic"])


def test_comparison_by_hand() -> None:
    rows = [
        {"prompt": str(i), "chosen": "1 b" if i < 6 else "1", "rejected": "0" if i < 6 else "2 b"} for i in range(8)
    ]
    one, two = evaluate_pairs(NUMBER, rows), evaluate_pairs(WORDS, rows)
    pair = compare([one, two]).to_dict()["pairs"][0]
    assert pair["agreement"] == 1.0 and pair["kappa"] == pytest.approx(1.0)
    assert pair["difference"]["value"] == 0.0 and pair["p"] == 1.0
    three = evaluate_pairs(Scripted("never", lambda prompt, text: -float(text.split()[0])), rows)
    pair = compare([one, three]).to_dict()["pairs"][0]
    assert (pair["only_a"], pair["only_b"], pair["agreement"]) == (6, 2, 0.0)
    assert pair["difference"]["value"] == pytest.approx(0.5)


def test_models_are_compared_on_the_same_data_only() -> None:
    with pytest.raises(ValueError, match="different data"):
        compare([evaluate_pairs(NUMBER, PAIRS), evaluate_pairs(NUMBER, PAIRS[:2])])
    with pytest.raises(ValueError, match="two"):
        compare([evaluate_pairs(NUMBER, PAIRS)])


def test_a_constant_model_ties_everywhere() -> None:
    found = evaluate_pairs(Scripted("constant", lambda prompt, text: 1.0), PAIRS)
    assert found.accuracy.value == 0.5 and found.ties == 4
    assert math.isnan(found.length["spearman"].value)
