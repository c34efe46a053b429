"""Ratings and preferences in one head: the losses by hand, what is masked, two stages, and a checkpoint of a model."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from test_trainer import accuracy, rows
from tiny import tiny_llama

from rewardsmith.data.records import RecordError
from rewardsmith.data.strengths import prefer_by_strength
from rewardsmith.models import load_model, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.averaging import extrapolate
from rewardsmith.models.ratings import RatingsHead, masked_regression

FULL = {"batch_size": 1000, "optim": "sgd", "lr_scheduler": "constant", "weight_decay": 0.0}


class Watch:
    """The mean loss of one full-batch step at a learning rate of nearly nothing."""

    @staticmethod
    def loss(records, head, **options):
        result = train(records, ArrayBackbone(1), head=head, epochs=1, learning_rate=1e-12, **FULL, **options)
        return result.history[0]["loss"]


def unit_head() -> RatingsHead:
    """The reward of x is x."""
    head = RatingsHead(1, ["helpfulness", "verbosity"])
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0], [0.5]]))
    return head


def comparison(strength, first=0.0, second=1.0):
    return {"prompt": "", "response_1": [first], "response_2": [second], "preference_strength": strength}


@pytest.mark.parametrize(("use", "expected"), [("plain", 0.313262), ("margin", 1.313262), ("weight", 0.626523)])
@pytest.mark.parametrize("exchanged", [False, True])
def test_losses_of_a_pair_one_apart_with_strength_two(use, expected, exchanged):
    row = comparison(-2, 1.0, 0.0) if exchanged else comparison(2)
    pairs, _ = prefer_by_strength([row], use)
    assert Watch.loss(pairs, unit_head(), use_margin=use == "margin") == pytest.approx(expected, abs=1e-6)


def test_the_gradient_of_a_weighted_pair_is_that_of_the_pair_taken_so_often():
    (pair,), _ = prefer_by_strength([comparison(2)])
    stepped = train([pair], ArrayBackbone(1), head=unit_head(), epochs=1, learning_rate=1.0, **FULL).model
    # d loss / d r_chosen = -m (1 - sigmoid(1)), and r_chosen - r_rejected = w
    assert stepped.head.linear.weight[0].item() == pytest.approx(1 + 2 * (1 - 1 / (1 + math.exp(-1))), abs=1e-6)
    assert 2 * (1 - 1 / (1 + math.exp(-1))) == pytest.approx(0.537883, abs=1e-6)
    assert stepped.head.linear.weight[1].item() == 0.5  # the other attribute stays as it is
    # twice the pair at weight 1 has the same mean gradient at half of its share
    plain = [{**pair, "weight": 1.0}] * 2
    again = train(plain, ArrayBackbone(1), head=unit_head(), epochs=1, learning_rate=2.0, **FULL).model
    assert again.head.linear.weight[0].item() == pytest.approx(stepped.head.linear.weight[0].item(), abs=1e-6)


def test_regression_is_over_the_ratings_that_are_there():
    outputs = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], requires_grad=True)
    ratings = torch.tensor([[2.0, math.nan, 1.0], [math.nan, 3.0, math.nan]])
    losses = masked_regression(outputs, ratings)
    assert losses.mean().item() == pytest.approx((1 + 4 + 9) / 3)
    losses.mean().backward()
    assert torch.equal(outputs.grad == 0, torch.isnan(ratings))
    assert torch.isfinite(outputs.grad).all()
    with pytest.raises(ValueError, match="row 1 has no rating"):
        masked_regression(torch.zeros(2, 1), torch.tensor([[1.0], [math.nan]]))


def test_attributes_are_learned_and_the_missing_ones_left_alone():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = x @ np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) + 1
    records = [
        {"completion": a.tolist(), "attributes": {"good": b[0], "long": b[1] if row % 2 else None, "odd": None}}
        for row, (a, b) in enumerate(zip(x, y))
    ]
    head = RatingsHead(3, ["good", "long", "odd"])
    before = copy.deepcopy(head.state_dict())
    model = train(records, ArrayBackbone(3), head=head, epochs=100, learning_rate=0.2, **FULL).model
    scores = model.score({"completion": x.tolist()})
    np.testing.assert_allclose(scores.values, y[:, 0], atol=1e-3)
    np.testing.assert_allclose(scores.parts["long"], y[:, 1], atol=1e-3)
    assert list(scores.parts) == ["good", "long", "odd"]
    np.testing.assert_array_equal(scores.parts["good"], scores.values)
    assert torch.equal(model.head.linear.weight[2], before["linear.weight"][2])
    with pytest.raises(RecordError, match="has none of"):
        train([{"completion": [0.0], "attributes": {"other": 1.0}}], ArrayBackbone(1), head=unit_head())


def test_the_reward_may_be_another_attribute():
    head = RatingsHead(1, ["long", "good"], reward_attribute="good")
    hidden = torch.randn(4, 1)
    assert torch.equal(head.reward(hidden), head.parts(hidden)["good"])
    with pytest.raises(ValueError, match="must be one of long, good"):
        RatingsHead(1, ["long", "good"], reward_attribute="kind")
    with pytest.raises(ValueError, match="different names"):
        RatingsHead(1, ["long", "long"])


def test_a_transformer_learns_ratings_then_preferences_and_loads_again(tmp_path):
    pairs = rows(48)
    rated = [
        {"prompt": row["prompt"], "completion": row[name], "attributes": {"helpfulness": rating, "verbosity": None}}
        for row in pairs
        for name, rating in (("chosen", 4.0), ("rejected", 0.0))
    ]
    backbone = tiny_llama()
    head = RatingsHead(backbone.hidden_size, ["helpfulness", "verbosity"])
    options = {"learning_rate": 1e-2, "batch_size": 16}
    first = train(rated, backbone, head=head, epochs=3, **options)
    assert [row["error"] for row in first.history][-1] < first.history[0]["error"]
    start = copy.deepcopy(first.model)
    weighted = [{**row, "weight": 2.0} for row in pairs]
    second = train(
        weighted, first.model.backbone, head=first.model.head, epochs=1, output_dir=tmp_path / "m", **options
    )
    assert second.model.head is first.model.head  # it went on from there
    assert accuracy(second.model, rows(40, seed=1)) > 0.9
    loaded, texts = load_model(tmp_path / "m"), {"prompt": ["q"] * 2, "completion": [" kind and clear", " rude"]}
    np.testing.assert_allclose(loaded.score(texts).values, second.model.score(texts).values, atol=1e-5)
    assert loaded.head.attributes == ("helpfulness", "verbosity")

    def weights(model):
        return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}

    ends = [weights(start), weights(second.model)]
    for alpha, end in ((-1.0, ends[0]), (0.0, ends[1])):
        made = weights(extrapolate(start, second.model, alpha))
        assert all(torch.equal(made[name], end[name]) for name in made)
    beyond = weights(extrapolate(start, second.model, 0.5))["head.linear.weight"]
    line = ends[1]["head.linear.weight"] * 1.5 - ends[0]["head.linear.weight"] * 0.5
    torch.testing.assert_close(beyond, line)
    assert all(torch.equal(a, b) for a, b in zip(weights(start).values(), ends[0].values()))
