"""Transforms on scores, shaped rewards, conjunctions: what they need, what is missing, what is logged and saved."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import expit

from rewardsmith import from_function
from rewardsmith.chat.protocol import Answer, ChatModel
from rewardsmith.data.records import RecordError
from rewardsmith.functions import ColumnReward
from rewardsmith.reward import Failure, Reward, Scores
from rewardsmith.shaping import (
    References,
    ShapedReward,
    conjunction,
    log_sigmoid,
    par,
    parse_transforms,
    reference_rewards,
)
from rewardsmith.shaping.references import reference_matrix
from rewardsmith.shaping.transforms import Ceiling, Clip, LengthPenalty, MeanStd, MinMax


class Fixed(Reward):
    """Gives the numbers that it is told, NaN among them."""

    def __init__(self, values, name="fixed"):
        self.values, self.__name__ = values, name

    def score(self, batch):
        failures = {i: Failure("timeout", "too slow") for i, v in enumerate(self.values) if math.isnan(v)}
        return Scores(np.array(self.values), failures=failures)


def batch(n, **columns):
    return {"prompt": [f"p{i}" for i in range(n)], "completion": ["a b c"] * n, **columns}


def test_par_in_every_form_of_references():
    rows = [{"prompt": "p0", "ref_rewards": [1.0, 3.0]}, {"prompt": "p1", "ref_rewards": [1.0, None]}]
    by_column = par(Fixed([2.0, 1.0])).score(batch(2, ref_rewards=[row["ref_rewards"] for row in rows]))
    by_prompt = par(Fixed([2.0, 1.0]), References(rows)).score(batch(2))
    single = par(Fixed([2.0, 1.0]), "floor").score(batch(2, floor=[2.0, 1]))
    for scores in (by_column, by_prompt, single):
        np.testing.assert_allclose(scores.values, [0.5, 0.5])
        np.testing.assert_allclose(scores.parts["raw"], [2.0, 1.0])
    first = par(Fixed([2.0]), max_references=1).score(batch(1, ref_rewards=[[1.0, 3.0]]))
    assert first.values[0] == pytest.approx(expit(1.0))


def test_what_is_missing_is_nan_with_its_reason():
    scores = par(Fixed([2.0, math.nan, 1.0])).score(batch(3, ref_rewards=[[], [1.0], [1.0]]))
    assert np.isnan(scores.values).tolist() == [True, True, False]
    assert {row: failure.kind for row, failure in scores.failures.items()} == {0: "no_reference", 1: "timeout"}
    assert par(Fixed([1.0]), References([])).score(batch(1)).failures[0].kind == "no_reference"


def test_bad_references_name_row_and_column():
    with pytest.raises(ValueError, match="no column 'ref_rewards'"):
        par(Fixed([1.0])).score(batch(1))
    for bad in ("2.0", {"a": 1}, True, ["x"]):
        with pytest.raises(RecordError, match="row 1, column 'ref_rewards'"):
            par(Fixed([1.0, 1.0])).score(batch(2, ref_rewards=[[1.0], bad]))
    with pytest.raises(RecordError, match="row 0, column 'prompt'"):
        References([{"ref_rewards": [1.0]}])


def test_references_load_from_a_file(tmp_path):
    file = tmp_path / "references.jsonl"
    file.write_text(json.dumps({"prompt": "p0", "ref_rewards": [0.0, None]}) + "\n", encoding="utf-8")
    table = References.load(file)
    assert len(table) == 1 and table.lookup(["p0", "other"]) == [[0.0], []]
    assert reference_matrix(batch(2), table).shape == (2, 1)


class Script(ChatModel):
    """Answers with the prompt and a number; every third answer cannot be had."""

    def generate(self, prompts, n=1, **options):
        for prompt in prompts:
            yield [Answer("", error="no") if i % 3 == 2 else Answer(f"{prompt} {i}") for i in range(n)]

    def fingerprint(self):
        return {}


def test_the_pre_pass_samples_each_prompt_once_and_accounts_for_failures():
    reward = from_function(lambda completion: None if completion.endswith("4") else float(completion[-1]), name="last")
    rows = reference_rewards(reward, ["x", "y", "x"], Script(), n=5)
    assert [row["prompt"] for row in rows] == ["x", "y"]
    assert rows[0] == {
        "prompt": "x",
        "references": ["x 0", "x 1", None, "x 3", "x 4"],
        "ref_rewards": [0.0, 1.0, None, 3.0, None],
    }
    assert References(rows).lookup(["y"]) == [[0.0, 1.0, 3.0]]


def test_order_is_penalty_then_comparison_and_each_stage_is_kept():
    long = batch(1, ref_rewards=[[0.0]], completion_ids=[list(range(310))])
    shaped = par(Fixed([0.1]), max_length=300)
    scores = shaped.score(long)
    assert scores.values[0] == pytest.approx(0.5)
    assert scores.parts["raw"][0] == 0.1 and scores.parts["length_penalty"][0] == pytest.approx(0.0)
    assert shaped.names == list(scores.parts)
    words = ShapedReward(Fixed([1.0]), LengthPenalty(limit=2, cost=0.25)).score(batch(1))
    assert words.values[0] == 0.75  # three words, without token ids


def test_running_transforms_take_the_batch_in_first_and_their_state_goes_on():
    shaped = ShapedReward(Fixed([1.0, 3.0, math.nan]), MeanStd())
    np.testing.assert_allclose(shaped.score(batch(3)).values, [-1.0, 1.0, np.nan])
    state = json.loads(json.dumps(shaped.state_dict()))
    shaped.reward = Fixed([11.0, 5.0])
    after = shaped.score(batch(2)).values
    again = ShapedReward(Fixed([11.0, 5.0]), MeanStd())
    again.load_state_dict(state)
    np.testing.assert_allclose(again.score(batch(2)).values, after)
    np.testing.assert_allclose(after, (np.array([11.0, 5.0]) - 5.0) / np.std([1.0, 3.0, 11.0, 5.0]))
    again.training = False
    frozen = again.state_dict()
    again.score(batch(2))
    assert again.state_dict() == frozen
    with pytest.raises(ValueError, match="state is of"):
        par(Fixed([1.0])).load_state_dict(state)


def test_clip_min_max_and_ceiling():
    values = [0.0, 2.0, 10.0]
    mean, std = np.mean(values), np.std(values)
    np.testing.assert_allclose(
        ShapedReward(Fixed(values), Clip()).score(batch(3)).values, np.clip(values, mean - std, mean + std)
    )
    np.testing.assert_allclose(ShapedReward(Fixed(values), MinMax()).score(batch(3)).values, [0.0, 0.2, 1.0])
    assert ShapedReward(Fixed([7.0, 7.0]), MinMax()).score(batch(2)).values.tolist() == [0.0, 0.0]
    assert ShapedReward(Fixed([7.0, 7.0]), MeanStd()).score(batch(2)).values.tolist() == [0.0, 0.0]
    assert ShapedReward(Fixed(values), Ceiling(4)).score(batch(3)).values.tolist() == [0.0, 2.0, 4.0]


def test_a_conjunction_is_the_sum_of_log_sigmoids_with_every_component_logged():
    both = conjunction([Fixed([2.0, 0.0], "helpful"), Fixed([0.0, 9.0], "harmless")], q=None)
    columns = batch(2, ref_rewards_helpful=[[0.0], [0.0]], ref_rewards_harmless=[[0.0], []])
    scores = both.score(columns)
    assert scores.values[0] == pytest.approx(-0.820075, abs=1e-6)
    assert math.isnan(scores.values[1]) and scores.failures[1].reason.startswith("harmless: ")
    assert list(scores.parts) == ["helpful", "helpful/raw", "harmless", "harmless/raw"]
    assert both.names == ["helpful", "harmless"]
    weighted = conjunction([Fixed([2.0], "a"), Fixed([0.0], "b")], ["f", "g"], q=[None, None], weights=[1.0, 0.0])
    assert weighted.score(batch(1, f=[0.0], g=[0.0])).values[0] == pytest.approx(-0.126928, abs=1e-6)
    with pytest.raises(ValueError, match="as many references"):
        conjunction([Fixed([1.0]), Fixed([1.0])], ["one"])


def test_the_quantile_is_what_must_be_beaten():
    references = np.random.default_rng(0).normal(0, 1, 64).tolist()
    shaped = log_sigmoid(Fixed([np.quantile(references, 0.85)]), method="empirical")
    assert shaped.score(batch(1, ref_rewards=[references])).values[0] == pytest.approx(math.log(0.5), abs=1e-6)


def test_shaped_rewards_add_and_keep_their_failure_rule():
    inner = Fixed([1.0, math.nan])
    inner.on_failure = "group_mean"
    columns = {"prompt": ["p", "p"], "completion": ["a", "b"], "ref_rewards": [[1.0], [1.0]]}
    total = par(inner) + 2 * Fixed([1.0, 1.0], "other")
    assert total.score(columns).values.tolist() == [2.5, 2.5]


def test_transforms_by_name():
    assert [t.name for t in parse_transforms("length:100+par")] == ["length_penalty", "par"]
    assert parse_transforms("ceiling:4")[0].ceiling == 4.0
    for spec, message in (("parr", "no transform"), ("ceiling", "needs its number"), ("par:3", "takes no number"),
                          ("length:x", "not a number")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            parse_transforms(spec)


def test_scores_that_the_data_has():
    reward = ColumnReward("score")
    scores = reward.score(batch(3, score=[1, None, 2.5]))
    assert scores.to_list() == [1.0, None, 2.5] and scores.failures[1].kind == "missing"
    with pytest.raises(RecordError, match="row 0, column 'score'"):
        reward.score(batch(1, score=["high"]))
    with pytest.raises(ValueError, match="no column 'score'"):
        reward.score(batch(1))


def test_only_rewards_can_be_shaped():
    with pytest.raises(TypeError, match="from_function"):
        par(lambda completions: [0.0])
    with pytest.raises(ValueError, match="no transform"):
        ShapedReward(Fixed([1.0]))
