"""Judges end to end: the real prompt, order, parser and vote, with a function in the place of the language model."""

from __future__ import annotations

import math

import numpy as np
import pytest
from judge_scripts import Script, shown, yes_no

from rewardsmith.chat.cache import CachedModel
from rewardsmith.chat.protocol import Answer, TokenLogprob
from rewardsmith.evaluation import best_of_n, evaluate_pairs
from rewardsmith.judges import Judge, ListwiseJudge, PairwiseJudge, make_judge
from rewardsmith.judges.asking import balanced_orders
from rewardsmith.judges.prompting import read_prompt
from rewardsmith.reward import Reward, Scores


def quality(text: str) -> int:
    return int(text.split()[-1])


def scores_of(text: str, i: int = 0) -> str:
    return f"principles and critique\n\\boxed{{{', '.join(str(quality(t)) for t in shown(text))}}}"


def better_of(text: str, i: int = 0) -> str:
    a, b = map(quality, shown(text))
    return f"compared\n<answer>[[{'A' if a > b else 'B'}]]</answer>"


def always_first(text: str, i: int = 0) -> str:
    return "<answer>[[A]]</answer>"


def graded(text: str, i: int = 0) -> str:
    return f"fine <score>{quality(shown(text)[0])}</score>"


PAIRS = {
    "prompt": ["p", "p", "q"],
    "chosen": ["text 7", "text 8", "text 3"],
    "rejected": ["text 2", "text 7", "text 1"],
}
SETS = {"prompt": ["p", "q"], "candidates": [["a 1", "b 9", "c 4"], ["d 8", "e 2"]], "gold": [[1, 9, 4], [8, 2]]}


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("pointwise", graded),
        ("pairwise", better_of),
        ("chain_of_rubrics", better_of),
        ("listwise", scores_of),
    ],
)
@pytest.mark.parametrize("votes", [1, 4])
def test_judges_are_evaluated_and_pick_as_any_reward(prompt, answer, votes):
    judge = make_judge(Script(answer), prompt, votes=votes)
    found = evaluate_pairs(judge, PAIRS, resamples=50)
    assert found.accuracy.value == 1.0 and found.nan == 0
    assert found.card["model"]["prompt"]["name"] == prompt
    picked = best_of_n(judge, SETS, gold="gold", ns=(1, 2), resamples=50)
    assert [pick["completion"] for pick in picked.picks] == ["b 9", "d 8"]
    assert judge.report.unparsed == 0
    assert isinstance(judge, Reward) == (prompt == "pointwise")


def test_a_batch_is_one_call():
    for prompt, answer, questions in (("pointwise", graded, 6), ("pairwise", better_of, 6), ("listwise", scores_of, 6)):
        model = Script(answer)
        evaluate_pairs(make_judge(model, prompt, votes=4), PAIRS, resamples=10)
        # Both orders of a pair are two questions, with the samples shared between them.
        assert model.calls == [(questions, 2 if prompt == "listwise" else 4)]


def test_equal_questions_are_asked_once_with_several_samples():
    model = Script(scores_of)
    ListwiseJudge(model, votes=7).preference(["p"], ["x 3"], ["y 4"])
    assert sorted(model.calls) == [(1, 3), (1, 4)]
    assert len({str(messages) for messages in model.asked}) == 2


# Pointwise


def test_pointwise_votes_give_a_mean_a_spread_and_failures():
    def answer(text: str, i: int) -> str | Answer:
        name = shown(text)[0]
        if name == "silent":
            return Answer("", "error", error="503 from the server")
        if name == "vague":
            return "rather good"
        return "cut" if name == "some" and i == 3 else f"<score>{4 + i}</score>"

    judge = Judge(Script(answer), votes=4)
    scores = judge.score({"prompt": ["q"] * 4, "completion": ["all", "some", "vague", "silent"]})
    np.testing.assert_allclose(scores.values[:2], [5.5, 5.0])
    np.testing.assert_allclose(scores.std[:2], [math.sqrt(5 / 3), 1.0])
    assert np.isnan(scores.values[2:]).all() and np.isnan(scores.std[2:]).all()
    np.testing.assert_array_equal(scores.parts["votes_parsed"], [1, 0.75, 0, 0])
    assert (scores.failures[2].kind, scores.failures[3].kind) == ("unparsed", "chat")
    assert "503" in scores.failures[3].reason and "4 of 4" in scores.failures[3].reason
    assert scores.details[1]["problems"] == [None, None, None, "unparsed: no <score> in the answer"]
    report = judge.report.to_dict()
    assert (report["answers"], report["unparsed"], report["failed"]) == (16, 5, 4)
    assert report["unparsed_share"] == 5 / 12
    assert judge(["q"] * 2, ["all", "vague"]) == [5.5, None]


def test_texts_and_columns_fill_placeholders():
    model = Script(lambda text, i: "<score>5</score>")
    judge = Judge(model, "rubric", texts={"rubric": "one point for each fact"})
    assert judge(["q"], ["x"]) == [5.0]
    assert "one point for each fact" in model.asked[-1][-1]["content"]
    judge.texts["rubric"] = "be strict"
    judge(["q"], ["x"])
    assert "be strict" in model.asked[-1][-1]["content"]
    judge(["q"], ["x"], rubric=["of the row"])
    assert "of the row" in model.asked[-1][-1]["content"]
    with pytest.raises(ValueError, match="rubric"):
        Judge(model, "rubric").score({"prompt": ["q"], "completion": ["x"]})


def test_answers_that_do_not_come_at_all_are_failures():
    class Short(Script):
        def generate(self, prompts, n=1, **options):
            yield from list(super().generate(prompts, n, **options))[:1]

    scores = Judge(Short(graded)).score({"prompt": ["q"] * 2, "completion": ["x 3", "y 4"]})
    assert scores.values[0] == 3 and scores.failures[1].kind == "chat"


# Pairwise


def test_a_judge_that_always_says_first_decides_nothing_and_is_reported():
    judge = PairwiseJudge(Script(always_first))
    np.testing.assert_array_equal(judge.preference(["p"] * 5, ["x"] * 5, ["y"] * 5), 0.0)
    assert judge.report.position_bias == 0.5
    assert judge.report.order_agreement == 0.0
    single = PairwiseJudge(Script(always_first), orders="first")
    assert (single.preference(["p"] * 5, ["x"] * 5, ["y"] * 5) > 1).all()
    assert single.report.position_bias == 0.5 and math.isnan(single.report.order_agreement)
    honest = PairwiseJudge(Script(better_of))
    assert honest.preference(["p"], ["x 3"], ["y 2"])[0] == pytest.approx(math.log(5))
    assert (honest.report.position_bias, honest.report.order_agreement) == (0.0, 1.0)


@pytest.mark.parametrize("orders", ["both", "random"])
def test_preference_is_antisymmetric(orders):
    judge = PairwiseJudge(
        Script(lambda text, i: always_first(text) if i % 3 else better_of(text)), votes=5, orders=orders
    )
    texts = [f"text {i}" for i in range(12)]
    forward = judge.preference(["p"] * 11, texts[:-1], texts[1:])
    backward = judge.preference(["p"] * 11, texts[1:], texts[:-1])
    np.testing.assert_allclose(forward, -backward, atol=1e-12)


def test_random_orders_show_either_first_as_often_and_do_not_depend_on_the_batch():
    judge = PairwiseJudge(Script(always_first), orders="random")
    prompts = [f"p{i}" for i in range(400)]
    whole = judge.preference(prompts, ["x"] * 400, ["y"] * 400)
    assert abs((whole > 0).mean() - 0.5) < 0.08
    np.testing.assert_array_equal(judge.preference(prompts[7:9], ["x"] * 2, ["y"] * 2), whole[7:9])


def test_an_order_that_was_lost_leaves_no_answer():
    def answer(text: str, i: int) -> str:
        return "?" if quality(shown(text)[0]) == 2 else "<answer>[[A]]</answer>"

    judge = PairwiseJudge(Script(answer), votes=3)
    assert np.isnan(judge.preference(["p"], ["x 1"], ["y 2"])).all()
    assert judge.report.unparsed == 3


def test_token_probabilities_of_both_orders_cancel_a_liking_for_a_place():
    """Logit 0.7 for the first response and 1.3 for the first place: p = 0.6175704 (Xu et al. 2025)."""

    def answer(text: str, i: int) -> Answer:
        first, second = map(quality, shown(text))
        return yes_no(0.7 * (first - second) + 1.3)

    judge = PairwiseJudge(Script(answer), "yes_no", from_logprobs=True)
    logits = judge.preference(["p"] * 3, ["x 1", "x 0", "x 1"], ["y 0", "y 1", "y 1"])
    p = 1 / (1 + np.exp(-logits))
    expected = (1 / (1 + math.exp(-2.0)) + 1 - 1 / (1 + math.exp(-0.6))) / 2
    np.testing.assert_allclose(p, [expected, 1 - expected, 0.5], atol=1e-9)
    assert expected == pytest.approx(0.6175704, abs=1e-6)


def test_token_probabilities_need_a_verdict():
    unsure = TokenLogprob("Maybe", -0.1, (("Maybe", -0.1),))
    for answer in (Answer("YES"), Answer("Maybe", logprobs=(unsure,))):
        judge = PairwiseJudge(Script(lambda text, i, answer=answer: answer), "yes_no", from_logprobs=True)
        assert np.isnan(judge.preference(["p"], ["x"], ["y"])).all()
        assert judge.report.unparsed == 2
    with pytest.raises(ValueError, match="no single token"):
        make_judge(Script(better_of), scored_pair(), from_logprobs=True)


def scored_pair():
    return read_prompt("kind: pairwise\nanswer: boxed_numbers\nscale: 0 10\n[user]\n{mark} {prompt} {responses}")


def test_scores_of_two_count_as_verdicts_and_single_conditions_can_be_read():
    """Who wins in every condition, both orders times samples, as pairwise rewards for writing need it."""
    judge = make_judge(Script(lambda text, i: "\\boxed{6.5, 6.0}" if i else "\\boxed{6, 6}"), scored_pair(), votes=2)
    judged = judge.judge_pairs(["p"], ["x"], ["y"])
    np.testing.assert_array_equal(judged.scores[0], [[6, 6], [6.5, 6], [6, 6], [6, 6.5]])
    assert judge.preference(["p"], ["x"], ["y"])[0] == 0.0


# Listwise


def test_an_order_blind_judge_gives_the_same_sums_in_any_order():
    candidates = [f"text {i}" for i in (3, 9, 1, 5)]
    judge = ListwiseJudge(Script(scores_of), votes=8)
    (sums,) = judge.score_sets(["p"], [candidates])
    np.testing.assert_array_equal(sums, [24, 72, 8, 40])
    (turned,) = judge.score_sets(["p"], [candidates[::-1]])
    np.testing.assert_array_equal(turned[::-1], sums)


def test_a_liking_for_a_place_cancels():
    """A judge with two points for the first place: no bias over 2000 rows of one vote, none at all over two votes."""

    def answer(text: str, i: int) -> str:
        return "\\boxed{7, 5}" if len(shown(text)) == 2 else ""

    judge = ListwiseJudge(Script(answer))
    gaps = judge.preference([f"p{i}" for i in range(2000)], ["x"] * 2000, ["y"] * 2000)
    assert set(np.abs(gaps).tolist()) == {2.0}
    assert abs(gaps.mean()) < 0.05 * gaps.std()
    assert judge.report.position_bias == 0.5
    judge = ListwiseJudge(Script(answer), votes=2)
    np.testing.assert_array_equal(judge.preference(["p", "q"], ["x", "x"], ["y", "y"]), 0.0)


@pytest.mark.parametrize(("n", "votes"), [(2, 8), (3, 6), (4, 8)])
def test_every_response_is_shown_in_every_place_equally_often(n, votes):
    orders = balanced_orders([f"t{i}" for i in range(n)], votes, seed=3, prompt="p")
    for place in range(n):
        assert np.bincount(orders[:, place], minlength=n).tolist() == [votes // n] * n
    assert (np.sort(orders, axis=1) == np.arange(n)).all()


def test_sets_of_one_and_of_none():
    judge = ListwiseJudge(Script(scores_of))
    sums = judge.score_sets(["p"], [["x 4"]])
    np.testing.assert_array_equal(sums[0], [4])
    with pytest.raises(ValueError, match="some"):
        judge.score_sets(["p"], [[]])


def test_a_majority_is_the_baseline():
    samples = [(6, 5), (4, 8), (7, 6)]

    def answer(text: str, i: int) -> str:
        first = shown(text)[0]
        # Three samples: two in one order, one in the other; the fixed scores belong to the texts.
        values = samples[state["at"]]
        state["at"] += 1
        return f"\\boxed{{{', '.join(map(str, values if first == 'x' else values[::-1]))}}}"

    state = {"at": 0}
    assert ListwiseJudge(Script(answer), votes=3).preference(["p"], ["x"], ["y"])[0] == -2
    state["at"] = 0
    majority = ListwiseJudge(Script(answer), votes=3, combine="majority")
    assert majority.preference(["p"], ["x"], ["y"])[0] == 1


class Loudness(Reward):
    """A meta reward for tests: the number of exclamation marks of a critique."""

    __name__ = "loudness"

    def score(self, batch):
        assert all(prompt.startswith("p\n\nResponse 1:\n") for prompt in batch["prompt"])
        return Scores([text.count("!") for text in batch["completion"]])


def test_a_meta_reward_says_who_votes():
    def answer(text: str, i: int) -> str:
        good = i % 2 == 0
        first, _ = shown(text)
        values = (9, 2) if (first == "x") == good else (2, 9)
        return f"{'sure!' if good else 'hm'}\n\\boxed{{{values[0]}, {values[1]}}}"

    model = Script(answer)
    ask = (["p"], ["x"], ["y"])
    assert ListwiseJudge(model, votes=8).preference(*ask)[0] == 0
    guided = ListwiseJudge(model, votes=8, meta=Loudness())
    assert guided.k_meta == 4 and guided.preference(*ask)[0] == 4 * 7
    everyone = ListwiseJudge(model, votes=8, meta=Loudness(), k_meta=8)
    assert everyone.preference(*ask)[0] == 0
    assert guided.fingerprint()["meta"] == "loudness"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda m: Judge(m, "pairwise"), "takes a prompt that is pointwise"),
        (lambda m: PairwiseJudge(m, votes=0), "votes"),
        (lambda m: PairwiseJudge(m, votes=3, temperature=0), "all be the same"),
        (lambda m: PairwiseJudge(m, orders="twice"), "orders"),
        (lambda m: PairwiseJudge(m, smoothing=0), "smoothing"),
        (lambda m: ListwiseJudge(m, combine="mean"), "combine"),
        (lambda m: ListwiseJudge(m, votes=4, k_meta=5), "k_meta"),
    ],
)
def test_arguments_out_of_range(make, problem):
    with pytest.raises(ValueError, match=problem):
        make(Script(graded))


def test_no_rows():
    assert len(PairwiseJudge(Script(better_of)).preference([], [], [])) == 0
    assert len(ListwiseJudge(Script(scores_of)).preference([], [], [])) == 0
    assert len(Judge(Script(graded)).score({"prompt": [], "completion": []})) == 0


def test_a_cache_gives_every_sample_its_own_answer_and_a_second_run_asks_nothing(tmp_path):
    def answer(text: str, i: int) -> str:
        return f"\\boxed{{{5 + i % 3}, 5}}"

    def judged(model: Script) -> np.ndarray:
        judge = ListwiseJudge(CachedModel(model, tmp_path), votes=6)
        return judge.judge_sets(["p"], [["x", "y"]]).scores[0]

    first = judged(Script(answer))
    assert len(np.unique(first, axis=0)) > 2
    again = Script(answer)
    np.testing.assert_array_equal(judged(again), first)
    assert again.usage.requests == 0
