"""How judges are trained: the rule, rejective fine-tuning, two teachers, spurious cues, and the meta reward."""

from __future__ import annotations

import re

import numpy as np
import pytest
from judge_scripts import Script, shown

from rewardsmith.evaluation.metrics import correctness
from rewardsmith.judges import (
    JudgeCorrectness,
    ListwiseJudge,
    distilled,
    is_correct,
    judging_tasks,
    labeled_critiques,
    reject_sampled,
    spurious_token_report,
    train_meta,
)
from rewardsmith.judges.distilling import keep_trajectories
from rewardsmith.judges.voting import keep_votes, sum_votes

A, B = "<answer>[[A]]</answer>", "<answer>[[B]]</answer>"


@pytest.mark.parametrize(
    ("scores", "ratings", "right"),
    [
        ((7, 5, 5), (1, 0, 0), True),
        ((7, 7, 3), (1, 0, 0), False),  # a tie with the best is wrong
        ((5, 7, 7), (1, 0.5, 0), False),
        ((7, 6, 6), (0.9, 0.1, 0.5), True),
        ((1,), (1,), True),
        ((0,), (1,), False),
        ((0,), (0,), True),
        ((7, 5), (1, 0, 0), False),
        (None, (1, 0), False),
        ((float("nan"), 1), (0, 1), False),
    ],
)
def test_rule(scores, ratings, right):
    assert is_correct(scores, ratings) is right


def test_two_best_responses_are_refused():
    with pytest.raises(ValueError, match="no single best"):
        is_correct((1, 2, 3), (1, 1, 0))
    with pytest.raises(ValueError, match="row 1, column 'ratings'"):
        JudgeCorrectness()(["q"] * 2, [A, A], ratings=[[1, 0], [1, 1]])


@pytest.mark.parametrize(
    ("text", "ratings", "reward", "cold"),
    [
        (f"A is right.\n{A}", [1, 0], 1, 2),
        (f"A is right.\n{A}", [0, 1], -1, 1),
        (f"{B} no, {A}", [1, 0], -1, 0),
        (A + "x" * 80, [1, 0], -1, 0),
        ("", [1, 0], -1, 0),
        ("A", [1, 0], -1, 0),
    ],
)
def test_verdict_reward(text, ratings, reward, cold):
    assert JudgeCorrectness("chain_of_rubrics")(["q"], [text], ratings=[ratings]) == [reward]
    assert JudgeCorrectness("chain_of_rubrics", cold_start=True)(["q"], [text], ratings=[ratings]) == [cold]
    message = [{"role": "assistant", "content": text}]
    assert JudgeCorrectness("chain_of_rubrics")(["q"], [message], ratings=[ratings]) == [reward]


def test_reward_of_scores_says_what_could_be_read():
    texts = ["\\boxed{7, 5, 5}", "\\boxed{7, 7, 3}", "\\boxed{7, 5}", "none"]
    scores = JudgeCorrectness("listwise").score({"completion": texts, "ratings": [[3, 1, 2]] * 4})
    np.testing.assert_array_equal(scores.values, [1, -1, -1, -1])
    np.testing.assert_array_equal(scores.parts["parsed"], [1, 1, 0, 0])
    with pytest.raises(ValueError, match="no column 'ratings'"):
        JudgeCorrectness().score({"completion": texts})


def pairs(count: int) -> dict[str, list[str]]:
    return {
        "prompt": [f"q{i}" for i in range(count)],
        "chosen": [f"good {i}" for i in range(count)],
        "rejected": [f"bad {i}" for i in range(count)],
    }


def test_tasks_place_winners_evenly_and_say_where_they_are():
    tasks = judging_tasks(pairs(101), "pairwise", seed=1)
    first = [shown(messages[-1]["content"])[0].startswith("good") for messages in tasks["prompt"]]
    assert sum(first) in (50, 51)
    assert [ratings == [1, 0] for ratings in tasks["ratings"]] == first
    both = judging_tasks(pairs(5), "pairwise", both_orders=True)
    assert both["row"] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert np.sum(both["ratings"], axis=0).tolist() == [5, 5]
    sets = {"prompt": ["q"], "candidates": [["x", "y", "z"]], "ratings": [[0.1, 0.9, 0.5]]}
    tasks = judging_tasks(sets, "listwise", seed=4)
    rating = dict(zip(sets["candidates"][0], sets["ratings"][0]))
    assert [rating[text] for text in shown(tasks["prompt"][0][-1]["content"])] == tasks["ratings"][0]


def verdict(text: str, right: bool) -> str:
    return f"trace\n{A if shown(text)[0].startswith('good') == right else B}"


# Rejective fine-tuning


def test_what_is_kept_has_the_expected_number():
    rng = np.random.default_rng(0)
    for p in (0.2, 0.5, 0.9):
        kept = keep_trajectories(rng.random((200_000, 3)) < p)
        assert kept.sum(1).max() <= 2
        assert kept.sum(1).mean() == pytest.approx(3 * p - 3 * p**3, abs=0.01)


def test_right_answers_of_hard_tasks_are_kept_and_hints_are_not():
    tasks = judging_tasks(pairs(300), "pairwise", seed=2)
    chances = np.random.default_rng(3).uniform(0, 1, 300)

    def answer(text: str, i: int) -> str:
        row = int(re.search(r"q(\d+)", text)[1])
        if row % 10 == 0 and "Hint: the best response is the one shown in place" not in text:
            return verdict(text, False)
        if row % 10 == 0:
            told = int(re.search(r"shown in place (\d)", text)[1])
            return "?" if row % 20 else f"trace\n{(A, B)[told - 1]}"
        return verdict(text, np.random.default_rng([row, i]).random() < chances[row])

    lessons = reject_sampled(tasks, Script(answer), "pairwise")
    counts = lessons.counts
    assert counts["kept"] == len(lessons.rows["prompt"]) and counts["failed"] == 0
    assert counts["hinted"] >= 15  # the tasks 0, 20, 40 ... that are right with a hint alone
    assert not any("Hint" in messages[-1]["content"] for messages in lessons.rows["prompt"])
    assert all(messages in tasks["prompt"] for messages in lessons.rows["prompt"])
    completions = [messages[0]["content"] for messages in lessons.rows["completion"]]
    assert JudgeCorrectness()(completions, completions, ratings=lessons.rows["ratings"]) == [1.0] * counts["kept"]
    easy = counts["too_easy"]
    assert 0 < easy < 150
    kept_rows = {messages[-1]["content"] for messages in lessons.rows["prompt"]}
    assert len(kept_rows) <= 300 - easy
    unhinted = reject_sampled(tasks, Script(answer), "pairwise", hint=None).counts
    assert unhinted["hinted"] == 0 and unhinted["kept"] == counts["kept"] - counts["hinted"]


# Two teachers


def test_two_teachers_leave_no_wrong_lesson():
    tasks = judging_tasks(pairs(400), "chain_of_rubrics", seed=5)
    first = Script(lambda text, i: verdict(text, int(re.search(r"q(\d+)", text)[1]) % 4 != 0))

    def correct(text: str, i: int) -> str:
        assert "This is a wrong answer" in text and "trace" in text
        told = int(re.search(r"shown in place (\d)", text)[1])
        return f"corrected trace\n{(A, B)[told - 1]}"

    lessons = distilled(tasks, first, Script(correct), "chain_of_rubrics")
    assert lessons.counts == {"tasks": 400, "right": 300, "corrected": 100, "still_wrong": 0, "kept": 400}
    texts = [messages[0]["content"] for messages in lessons.rows["completion"]]
    assert JudgeCorrectness("chain_of_rubrics")(texts, texts, ratings=lessons.rows["ratings"]) == [1.0] * 400
    assert abs(np.mean([A in text for text in texts]) - 0.5) <= 0.03
    assert all("wrong answer" not in messages[-1]["content"] for messages in lessons.rows["prompt"])
    stubborn = distilled(tasks, first, Script(lambda text, i: "I cannot"), "chain_of_rubrics")
    assert stubborn.counts["still_wrong"] == 100 and stubborn.counts["kept"] == 300


# Cues


def test_an_injected_token_is_found_and_its_rule_falls_to_chance_without_it():
    rng = np.random.default_rng(0)
    words = np.array(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])

    def text() -> str:
        return " ".join(rng.choice(words, 6, replace=False))

    chosen, clean = [text() for _ in range(1000)], [text() for _ in range(1000)]
    marked = [t + " <|im_start|>" if rng.random() < 0.3 else t for t in clean]
    (cue,) = spurious_token_report(chosen, marked)
    assert cue.token == "<|im_start|>" and cue.chosen == 0
    assert cue.difference == pytest.approx(-0.3, abs=0.05)
    assert cue.accuracy == pytest.approx(0.5 + 0.5 * cue.rejected)
    assert spurious_token_report(chosen, clean) == []
    assert all(abs(c.accuracy - 0.5) < 0.03 for c in spurious_token_report(chosen, clean, threshold=1e-6))
    with pytest.raises(ValueError, match="as many"):
        spurious_token_report(chosen, clean[:-1])


# The meta reward


def test_a_meta_reward_learns_from_correctness_which_critiques_to_trust():
    """Half of the critiques are careful; they say so in words that only the labels give a meaning to."""

    def answer(text: str, i: int) -> str:
        first, _ = shown(text)
        rng = np.random.default_rng([int(re.search(r"q(\d+)", text)[1]), i, first.startswith("good")])
        careful = rng.random() < 0.5
        best = rng.integers(5, 8), rng.integers(4, 7)
        scores = (best if first.startswith("good") else best[::-1]) if careful else rng.integers(1, 11, 2)
        words = "each step was traced through" if careful else "overall impression and feeling"
        return f"{words}\n\\boxed{{{scores[0]}, {scores[1]}}}"

    def judged(data):
        candidates = list(zip(data["chosen"], data["rejected"]))
        judge = ListwiseJudge(Script(answer), votes=8)
        return data["prompt"], candidates, judge.judge_sets(data["prompt"], candidates)

    prompts, candidates, samples = judged(pairs(120))
    records = labeled_critiques(prompts, candidates, [[1, 0]] * 120, samples)
    assert len(records["label"]) == 120 * 8 and 0.5 < np.mean(records["label"]) < 0.7
    result = train_meta(records, learning_rate=0.02, seed=1)
    assert result.losses[-1] < result.losses[0] < 0.75
    trust = result.model(
        ["q"] * 2, ["each step was traced through\n\\boxed{7, 5}", "overall impression and feeling\n\\boxed{7, 5}"]
    )
    assert trust[0] > trust[1] + 0.3
    held = {name: [text.replace("q", "q9") for text in column] for name, column in pairs(150).items()}
    prompts, candidates, samples = judged(held)
    guided = ListwiseJudge(Script(answer), votes=8, meta=result.model)
    gaps = np.stack(guided.totals(prompts, candidates, samples)) @ [1, -1]
    plain = sum_votes(np.stack(samples.scores)) @ [1, -1]
    assert correctness(gaps).mean() > correctness(plain).mean() + 0.02
    again = train_meta(records, learning_rate=0.02, seed=1)
    assert again.losses == result.losses
    with pytest.raises(ValueError, match="right and others that are wrong"):
        train_meta({**records, "label": [True] * len(records["label"])})


def test_an_unlearned_choice_of_votes_is_worse_than_all_of_them():
    rng = np.random.default_rng(0)
    scores = np.round(np.clip(rng.normal([5.5, 5.0], 2.0, (40_000, 8, 2)), 1, 10))

    def accuracy(values):
        gap = values[:, 0] - values[:, 1]
        return float(((gap > 0) + 0.5 * (gap == 0)).mean())

    half = keep_votes(scores, rng.random(scores.shape[:2]), 4)
    assert accuracy(sum_votes(scores)) > accuracy(sum_votes(half)) + 0.02
