"""Two steps: votes and utilities by hand, Bayes' rule, and users who are found by their choices."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_llama

from rewardsmith.chat import ScriptedModel
from rewardsmith.data.contexts import split_context, with_context
from rewardsmith.judges import PairwiseJudge
from rewardsmith.models import load_model, train
from rewardsmith.models.two_step import TwoStep, context_posterior, vote_logits
from rewardsmith.reward import PreferenceModel


def logit(p):
    return np.log(p) - np.log1p(-p)


class Tastes(PreferenceModel):
    """In context `long` the longer answer wins with this logit per character, in `short` the shorter one."""

    __name__ = "tastes"

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength

    def preference(self, prompts, a, b, **columns):
        contexts = columns.get("context") or [split_context(prompt)[1] for prompt in prompts]
        sign = np.array([{"long": 1.0, "short": -1.0}[context] for context in contexts])
        return self.strength * sign * (np.array([len(x) for x in a]) - np.array([len(x) for x in b]))


def test_votes_and_utilities_by_hand():
    logits = np.array([[logit(0.9)], [logit(0.1)]])
    assert vote_logits(logits, np.array([0.5, 0.5])) == pytest.approx([0.0], abs=1e-12)
    assert vote_logits(logits, np.array([0.8, 0.2])) == pytest.approx([logit(0.74)])
    assert vote_logits(np.array([[800.0], [-900.0]]), np.array([1.0, 0.0])) == pytest.approx([800.0])
    votes = TwoStep(Tastes(), ["long", "short"], [0.75, 0.25])
    utility = TwoStep(Tastes(), ["long", "short"], [0.75, 0.25], aggregate="utility")
    p = 0.75 / (1 + np.exp(-2)) + 0.25 / (1 + np.exp(2))
    assert votes.preference(["q"], ["abc"], ["a"]) == pytest.approx([logit(p)])
    assert utility.preference(["q"], ["abc"], ["a"]) == pytest.approx([0.75 * 2 - 0.25 * 2])
    column = TwoStep(Tastes(), ["long", "short"], [0.75, 0.25], place="column")
    assert column.preference(["q"], ["abc"], ["a"]) == votes.preference(["q"], ["abc"], ["a"])
    assert column.given(["q", "q"], ["abc", "a"], ["a", "ab"]).tolist() == [[2.0, -1.0], [-2.0, 1.0]]


def test_a_prior_of_the_prompt():
    def of_prompt(prompts):
        return np.array([[1.0, 0.0] if "essay" in prompt else [0.0, 1.0] for prompt in prompts])

    model = TwoStep(Tastes(), ["long", "short"], of_prompt)
    assert model.preference(["an essay", "a note"], ["abc", "abc"], ["a", "a"]) == pytest.approx([2.0, -2.0])
    with pytest.raises(ValueError, match="depends on the prompt"):
        model.for_user([])


def test_bayes_rule_by_hand():
    p = context_posterior(np.array([0.7, 0.3]), np.array([[logit(0.2)], [logit(0.9)]]))
    assert p == pytest.approx([0.14 / 0.41, 0.27 / 0.41])
    assert context_posterior(np.array([0.7, 0.3]), np.empty((2, 0))) == pytest.approx([0.7, 0.3])
    assert context_posterior(np.array([0.7, 0.3]), np.array([[np.nan], [1.0]])) == pytest.approx([0.7, 0.3])


def test_choices_find_the_minority():
    model = TwoStep(Tastes(), ["long", "short"], [0.9, 0.1])
    assert model.preference(["q"], ["abcd"], ["a"])[0] > 0
    user = model.for_user([{"prompt": "q", "chosen": "a", "rejected": "abcd"}] * 2)
    assert user.prior == pytest.approx([0.9 / (0.9 + 0.1 * np.exp(6)), 1 - 0.9 / (0.9 + 0.1 * np.exp(6))])
    assert user.preference(["q"], ["abcd"], ["a"])[0] < 0
    assert model.for_user([]).prior.tolist() == [0.9, 0.1]


def test_a_judge_in_context():
    def answers(messages, sample):
        text = str(messages)
        first = text.index("soup") < text.index("duck")
        wanted = "A" if first == ("Context: cheap" in text) else "B"
        return f"<answer>[[{wanted}]]</answer>"

    judge = PairwiseJudge(ScriptedModel(answers), "in_context")
    model = TwoStep(judge, ["cheap", "grand"], place="column")
    given = model.given(["Dinner?"], ["soup"], ["duck"])
    assert given[0, 0] > 0 > given[1, 0]
    assert model.preference(["Dinner?"], ["soup"], ["duck"]) == pytest.approx([0.0])


@pytest.mark.parametrize(("prior", "problem"), [([0.5, 0.4], "sum to 1"), ([1.0], "shape"), ([1.5, -0.5], "sum to 1")])
def test_priors_are_checked(prior, problem):
    with pytest.raises(ValueError, match=problem):
        TwoStep(Tastes(), ["long", "short"], prior)


def test_on_a_transformer(tmp_path):
    rows = [
        {"prompt": "Name a color.", "chosen": "Blue.", "rejected": "A deep blue.", "context": "short"},
        {"prompt": "Name a color.", "chosen": "A deep blue.", "rejected": "Blue.", "context": "long"},
    ]
    network = train(with_context(rows), tiny_llama(), epochs=1, batch_size=2, output_dir=tmp_path / "m").model
    model = TwoStep(network, ["short", "long"])
    ask = (["Name a color."], ["Blue."], ["A deep blue."])
    short, long = model.given(*ask)[:, 0]
    assert np.isfinite([short, long]).all() and short != long
    again = TwoStep(load_model(tmp_path / "m"), ["short", "long"])
    np.testing.assert_allclose(again.preference(*ask), model.preference(*ask), atol=1e-5)
