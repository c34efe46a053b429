"""What personal models share: the reward of a user, many users in one pass, the next question."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from personal_head import OneOfTwo
from tiny import tiny_gpt2

from rewardsmith.data import with_histories
from rewardsmith.models import train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.personal import PersonalModel


def model():
    return PersonalModel(ArrayBackbone(2), OneOfTwo())


FIRST = [{"prompt": "", "chosen": [9.0, 0.0], "rejected": [0.0, 9.0]}]


def test_a_user_is_known_by_her_choices():
    batch = {"completion": [[1.0, 5.0], [2.0, 0.0]]}
    nobody, first = model().for_user([]), model().for_user(FIRST)
    assert nobody.score(batch).values.tolist() == [3.0, 1.0] and nobody.score(batch).std.tolist() == [2.0, 1.0]
    assert first.score(batch).values == pytest.approx([1.0, 2.0], abs=1e-2)
    assert first(prompts=[""] * 2, completions=batch["completion"]) == pytest.approx([1.0, 2.0], abs=1e-2)
    assert first.preference([""], [[2.0, 0.0]], [[1.0, 5.0]]) == pytest.approx([1.0], abs=1e-2)
    # Both states agree that the first is better by 1: nothing is uncertain about that difference.
    assert nobody.preference_std([""], [[2.0, 6.0]], [[1.0, 5.0]]).tolist() == [0.0]
    assert nobody.preference_std([""], [[2.0, 0.0]], [[1.0, 5.0]]).tolist() == [3.0]


def test_many_users_take_one_pass():
    personal, passes = model(), []
    personal.backbone.register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
    batch = {"completion": [[1.0, 5.0], [2.0, 0.0], "no array"]}
    scores = personal.score_users(batch, [[], FIRST, []])
    assert scores.shape == (3, 3) and np.isnan(scores[:, 2]).all()
    assert scores[1, :2] == pytest.approx([1.0, 2.0], abs=1e-2)
    assert passes == [2, 2]  # both completions once, both sides of the one choice once


def test_the_question_is_the_one_that_divides():
    candidates = [
        {"prompt": "", "chosen": [1.0, 1.0], "rejected": [0.0, 0.0]},
        {"prompt": "", "chosen": [4.0, 0.0], "rejected": [0.0, 4.0]},
        {"prompt": "", "chosen": [0.1, 0.0], "rejected": [0.0, 0.1]},
    ]
    assert model().ask(candidates) == 1
    gains = OneOfTwo().information_gain(
        torch.tensor([[1.0, 1.0], [40.0, 0.0]]), torch.zeros(2, 2) + torch.tensor([[0.0, 0.0], [0.0, 40.0]]),
        torch.zeros(0, 2, 2),
    )  # fmt: skip
    assert gains.tolist() == pytest.approx([0.0, np.log(2)], abs=1e-4)  # a certain answer tells all there is
    with pytest.raises(ValueError, match="no candidate"):
        model().ask([])


def test_histories_are_read_row_by_row():
    rows = [
        {"prompt": "", "chosen": [1.0, 0.0], "rejected": [0.0, 1.0], "user": "a"},
        {"prompt": "", "chosen": [3.0, 0.0], "rejected": [0.0, 3.0], "user": "a"},
        {"prompt": "", "chosen": [0.0, 5.0], "rejected": [5.0, 0.0], "user": "b"},
    ]
    made = with_histories(rows, size=2)
    personal = model()
    logits = personal.preference(
        [""] * 3, [row["chosen"] for row in made], [row["rejected"] for row in made],
        history=[row["history"] for row in made],
    )  # fmt: skip
    assert logits == pytest.approx([np.tanh(1.5), 3 * np.tanh(0.5), 0.0], abs=1e-5)
    # The trainer reads the same.
    result = train(made, ArrayBackbone(2, [], 3), head=OneOfTwo(), epochs=1, eval_data=made)
    assert isinstance(result.model, PersonalModel) and "eval_accuracy" in result.history[-1]


def test_bad_histories_and_unknown_users_are_named():
    with pytest.raises(ValueError, match="choice in the history cannot be read: must be numbers"):
        model().for_user([{"prompt": "", "chosen": "x", "rejected": [1.0, 2.0]}])
    with pytest.raises(ValueError, match="knows no users by name: give 'ann'"):
        model().for_user("ann")
    with pytest.raises(ValueError, match="choice 0 must have"):
        model().for_user([{"prompt": "p"}])


def test_with_a_transformer_a_users_choices_are_read_once_and_take_no_gradient():
    backbone = tiny_gpt2()
    rows = [{"prompt": "Hi.", "chosen": f"yes {i}", "rejected": f"no {i}", "user": i % 2} for i in range(6)]
    result = train(with_histories(rows, size=2), backbone, head=OneOfTwo(), epochs=1, batch_size=3)
    reward = result.model.for_user(rows[:2])
    scores = reward.score({"prompt": ["Hi."], "completion": ["yes"]})
    assert scores.ok.all() and scores.std is not None
