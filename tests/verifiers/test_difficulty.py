"""Selection by difficulty, mixed units, and the format of reasoning (paper 04)."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from rewardsmith.functions import ColumnReward, from_function
from rewardsmith.verifiers.difficulty import select_by_difficulty
from rewardsmith.verifiers.overlap import BLEU
from rewardsmith.verifiers.reasoning import ReasoningFormat, answer_text
from rewardsmith.verifiers.standardized import StandardizedMean, grouped_z_scores


@pytest.fixture
def pool():
    """40 prompts; the base model's answer has the first k words of 8 right, k = 0..8."""
    rng = np.random.default_rng(0)
    right = [[f"a{i}{j}" for j in range(8)] for i in range(40)]
    known = rng.integers(0, 9, 40)
    answers = [" ".join(words[:k] + ["wrong"] * (8 - k)) for words, k in zip(right, known)]
    data = {"prompt": [f"q{i}" for i in range(40)], "references": [[" ".join(words)] for words in right]}
    return data, answers, known


def test_hard_is_below_medium_is_below_easy(pool):
    data, answers, known = pool
    means = {}
    for mode in ("hard", "medium", "easy", "random"):
        found = select_by_difficulty(data, answers, BLEU(), 15, mode)
        assert len(found.data["prompt"]) == len(set(found.rows.tolist())) == 15
        assert found.data["prompt"] == [data["prompt"][row] for row in found.rows]
        means[mode] = found.scores[found.rows].mean()
    assert means["hard"] < means["medium"] < means["easy"]
    assert means["hard"] < means["random"] < means["easy"]
    hard = select_by_difficulty(data, answers, BLEU(), 15, "hard")
    assert known[hard.rows].max() <= np.delete(known, hard.rows).min()


def test_a_dataset_stays_one_and_failures_are_counted_never_picked(pool):
    data, answers, _ = pool
    scores = [None if i % 4 == 0 else float(i) for i in range(40)]
    found = select_by_difficulty(Dataset.from_dict({**data, "s": scores}), answers, ColumnReward("s"), 10)
    assert isinstance(found.data, Dataset) and found.failed == 10
    assert found.data["prompt"] == [f"q{i}" for i in range(40) if i % 4][:10]
    with pytest.raises(ValueError, match="between 1 and the 30 prompts"):
        select_by_difficulty({**data, "s": scores}, answers, ColumnReward("s"), 31)
    with pytest.raises(ValueError, match="mode must be one of"):
        select_by_difficulty(data, answers, BLEU(), 3, "harder")
    with pytest.raises(ValueError, match="40 prompts but 3 completions"):
        select_by_difficulty(data, answers[:3], BLEU(), 3)


def test_z_scores_by_hand_in_true_groups():
    values = np.array([1.0, 3.0, 10.0, 10.0, np.nan, 7.0])
    z = grouped_z_scores(values, np.array([0, 0, 1, 1, 0, 2]), eps=0.0 + 1e-12)
    np.testing.assert_allclose(z, [-1 / np.sqrt(2), 1 / np.sqrt(2), 0, 0, np.nan, 0], atol=1e-9)


def test_the_mean_of_z_scores_does_not_see_units_and_keeps_prompts_apart():
    rows = {"prompt": ["p", "p", "p", "q", "q", "q"], "completion": list("abcdef"),
            "u": [0.1, 0.2, 0.4, 5.0, 4.0, 4.5], "v": [3.0, 1.0, 2.0, -1.0, 0.0, 1.0]}  # fmt: skip
    both = StandardizedMean([ColumnReward("u"), ColumnReward("v")])
    plain = both.score(rows)
    scaled = {**rows, "u": [1000 * u + (7 if p == "q" else 0) for u, p in zip(rows["u"], rows["prompt"])]}
    np.testing.assert_allclose(both.score(scaled).values, plain.values, atol=1e-3)
    assert plain.values[:3].sum() == pytest.approx(0, abs=1e-9) and set(plain.parts) == {"u", "v"}
    failing = StandardizedMean([ColumnReward("u"), from_function(lambda completion: None, name="rm")]).score(rows)
    assert np.isnan(failing.values).all() and failing.failures[0].reason.startswith("rm: ")


def test_reasoning_format_and_answer():
    good = "<think>a\nb</think><answer>c\nd</answer>"
    bad = ["", good + " ", "x" + good, good + good, "<answer>c</answer><think>a</think>", "<think>a</think>c", None]
    assert ReasoningFormat()(["q"] * 8, [good, *bad]) == [1.0] + [0.0] * 7
    details = ReasoningFormat().score({"completion": [good, *bad]}).details
    assert details[0]["problem"] is None and all(detail["problem"] for detail in details[1:])
    assert [answer_text(t) for t in (good, "<answer> c", "c", "a<answer>b</answer>c")] == ["c\nd", "c", "c", "b"]
