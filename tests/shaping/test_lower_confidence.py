"""r - k std, for rewards that know how sure they are."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.evaluation import best_of_n
from rewardsmith.functions import from_function
from rewardsmith.reward import Reward, Scores
from rewardsmith.shaping import ShapedReward, parse_transforms
from rewardsmith.shaping.transforms import LowerConfidence


class Known(Reward):
    """Completions are `value std`; without a number, there is none."""

    def score(self, batch) -> Scores:
        numbers = [[float(part) for part in text.split()] for text in batch["completion"]]
        return Scores(np.array([row[0] for row in numbers]), std=np.array([row[1] for row in numbers]))


def test_subtracts_the_std():
    shaped = ShapedReward(Known(), LowerConfidence(2.0))
    scores = shaped.score({"prompt": ["q"] * 3, "completion": ["3 1", "2 0", "nan 1"]})
    assert scores.to_list() == [1.0, 2.0, None]
    assert scores.parts["raw"][:2].tolist() == [3.0, 2.0]
    assert ShapedReward(Known(), LowerConfidence(0.0))(["q"], ["3 1"]) == [3.0]


def test_a_score_without_its_std_is_a_failure():
    scores = ShapedReward(Known(), LowerConfidence()).score({"prompt": ["q"] * 2, "completion": ["3 nan", "2 1"]})
    assert scores.to_list() == [None, 1.0] and scores.failures[0].kind == "no_std"


def test_a_reward_without_std_is_refused():
    plain = from_function(lambda prompts, completions, **_: [1.0 for _ in completions])
    with pytest.raises(ValueError, match=r"tells none \(Scores.std\): train an ensemble"):
        ShapedReward(plain, LowerConfidence())(["q"], ["a"])
    with pytest.raises(ValueError, match="k must be >= 0, got -1"):
        LowerConfidence(-1)


def test_as_the_command_line_writes_it():
    (transform,) = parse_transforms("lcb:0.5")
    assert isinstance(transform, LowerConfidence) and transform.k == 0.5
    assert parse_transforms("lcb+squashed")[0].name == "lcb"
    with pytest.raises(ValueError, match="'much' is not a number"):
        parse_transforms("lcb:much")


def test_best_of_n_prefers_what_is_sure():
    data = {"prompt": ["q"], "candidates": [["3 2.5", "2 0.1", "1 0"]]}
    assert best_of_n(Known(), data).picks[0]["completion"] == "3 2.5"
    assert best_of_n(ShapedReward(Known(), *parse_transforms("lcb:1")), data).picks[0]["completion"] == "2 0.1"
