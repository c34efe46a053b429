"""Numbers in place of text, and the three kinds of evidence that the trainer takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rewardsmith.data import RecordError
from rewardsmith.models import ScalarHead, load_model, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.examples import encode_examples
from rewardsmith.models.heads import Head

GENERATOR = np.random.default_rng(0)
GOLD = np.array([1.0, -2.0, 0.5])


def pairs(count=400):
    a, b = GENERATOR.normal(size=(2, count, 3))
    better = (a - b) @ GOLD > 0
    return [
        {"chosen": (x if first else y).tolist(), "rejected": (y if first else x).tolist()}
        for x, y, first in zip(a, b, better)
    ]


class Alike(Head):
    """The pair of three that is closer after a linear map."""

    def __init__(self, hidden_size):
        super().__init__()
        self.map = nn.Linear(hidden_size, 2, bias=False)

    def preference(self, a, b, **inputs):
        return (self.map(a) - self.map(b)).sum(-1)

    def similarity_loss(self, a, b, odd, **inputs):
        near, far = ((self.map(a) - self.map(x)).square().sum(-1) for x in (b, odd))
        return torch.relu(near - far + 1), far - near

    def config(self):
        return {}


def test_the_vector_of_a_trajectory_is_the_sum_over_its_states():
    backbone = ArrayBackbone(2, layers=[4], hidden_size=3, activation="tanh")
    states = [[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]
    whole, *parts = backbone(backbone.encode([""] * 4, [states, *([s] for s in states)]).items)
    assert whole.tolist() == pytest.approx(sum(parts).tolist(), abs=1e-6)
    identity = ArrayBackbone(2)
    assert not identity.trainable and identity(identity.encode([""], [states]).items).tolist() == [[4.0, 7.0]]


def test_what_is_no_array_of_that_size_fails_by_row():
    encoded = ArrayBackbone(2).encode([""] * 4, [[1.0, 2.0], [1.0], "text", [float("nan"), 0.0]])
    assert [encoded.failures[row].kind for row in (1, 2, 3)] == ["wrong_shape", "wrong_shape", "nonfinite"]
    assert 0 not in encoded.failures


def test_preferences_of_vectors_are_learned_saved_and_loaded(tmp_path):
    result = train(pairs(), ArrayBackbone(3), output_dir=tmp_path / "m", learning_rate=0.05, weight_decay=0.0)
    weights = result.model.head.linear.weight.detach().numpy()[0]
    assert np.corrcoef(weights, GOLD)[0, 1] > 0.98
    loaded = load_model(tmp_path / "m")
    batch = {"completion": [row["chosen"] for row in pairs(5)]}
    assert loaded.score(batch).values == pytest.approx(result.model.score(batch).values)
    deep = train(pairs(), ArrayBackbone(3, [8], 4), output_dir=tmp_path / "d", epochs=1)
    assert load_model(tmp_path / "d").score(batch).values == pytest.approx(deep.model.score(batch).values)


def test_a_frozen_encoder_stays_as_it_is():
    backbone = ArrayBackbone(3, [8], 4)
    backbone.trainable = False
    before = [p.clone() for p in backbone.parameters()]
    train(pairs(), backbone, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters()))


def test_ratings_are_regressed():
    x = GENERATOR.normal(size=(300, 3))
    rows = [{"completion": row.tolist(), "rating": float(row @ GOLD + 1)} for row in x]
    result = train(rows, ArrayBackbone(3), learning_rate=0.05, weight_decay=0.0, epochs=30, eval_data=rows[:50])
    assert result.model.head.linear.weight[0].tolist() == pytest.approx(GOLD.tolist(), abs=0.02)
    assert result.model.head.linear.bias.item() == pytest.approx(1.0, abs=0.02)
    assert result.history[-1]["error"] < 0.02 and result.history[-1]["eval_error"] < 0.02
    with pytest.raises(ValueError, match="label_smoothing is for preferences"):
        train(rows, ArrayBackbone(3), label_smoothing=0.1)


def test_similarities_are_learned():
    x = GENERATOR.normal(size=(500, 3, 3)) * [1, 1, 8]  # the last number does not count, and is the loudest
    close = np.stack([((x[:, i, :2] - x[:, j, :2]) ** 2).sum(1) for i, j in ((1, 2), (0, 2), (0, 1))], 1)
    rows = [{"candidates": three.tolist(), "odd": int(odd)} for three, odd in zip(x, close.argmin(1))]
    result = train(rows, ArrayBackbone(3), head=Alike(3), learning_rate=0.02, weight_decay=0.0, epochs=30)
    assert result.history[0]["accuracy"] < 0.8 < result.history[-1]["accuracy"]
    size = result.model.head.map.weight.abs().mean(0)
    assert size[2] < 0.1 * size[:2].min()


def test_a_weight_multiplies_the_loss_of_its_row():
    rows = pairs(40)
    doubled = [{**row, "weight": 2.0 if at < 10 else 1.0} for at, row in enumerate(rows)]
    torch.manual_seed(0)
    options = {"epochs": 1, "batch_size": 64, "learning_rate": 0.1, "optim": "sgd", "lr_scheduler": "constant"}
    heads = [ScalarHead(3) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    a = train(doubled, ArrayBackbone(3), head=heads[0], weight_decay=0.0, **options)
    b = train([*rows, *rows[:10]], ArrayBackbone(3), head=heads[1], weight_decay=0.0, **options)
    # the mean goes over rows, not weights: 50 rows at lr 0.1 step as far as 40 weighted ones at 0.08
    assert a.history[0]["loss"] * 40 == pytest.approx(b.history[0]["loss"] * 50, rel=1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"completion": [1.0, 2.0, 3.0]}], "no column 'chosen'; rows are preferences"),
        ([{"completion": [1.0, 2.0, 3.0], "rating": "good"}], "row 0, column 'rating'.*finite number"),
        ([{"candidates": [[1.0]] * 2, "odd": 0}], "row 0, column 'candidates'.*list of three"),
        ([{"candidates": [[1.0]] * 3, "odd": 5}], "row 0, column 'odd'.*0, 1 or 2"),
        ([{"chosen": [1.0], "rejected": [2.0], "weight": -1.0}], "row 0, column 'weight'"),
        ([{"completion": [1.0], "rating": 1.0, "target_prob": 0.5}], "'target_prob' is about preferences"),
    ],
)
def test_rows_that_say_nothing_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        encode_examples(rows, ArrayBackbone(1))


def test_a_head_says_what_it_does_not_learn_from():
    with pytest.raises(TypeError, match=r"ScalarHead learns from preferences.*not from similarities"):
        train([{"candidates": [[1.0]] * 3, "odd": 0}], ArrayBackbone(1))
    with pytest.raises(RecordError, match="choice 0 must have prompt, chosen"):
        head = Alike(1)
        head.reads_history = True
        encode_examples([{"chosen": [1.0], "rejected": [2.0], "history": [{"chosen": [1.0]}]}], ArrayBackbone(1), head)


def test_parts_of_a_head_learn_at_rates_of_their_own():
    class Two(ScalarHead):
        rates = {"linear.bias": 0.0}  # noqa: RUF012
        recipe = {"weight_decay": 0.0, "learning_rate": 0.05}  # noqa: RUF012

    head = Two(3)
    torch.nn.init.ones_(head.linear.bias)
    rows = [{"completion": row.tolist(), "rating": float(row @ GOLD)} for row in GENERATOR.normal(size=(200, 3))]
    result = train(rows, ArrayBackbone(3), head=head)
    assert head.linear.bias.item() == 1.0 and head.linear.weight[0].tolist() == pytest.approx(GOLD.tolist(), abs=0.1)
    assert result.history[0]["learning_rate"] == pytest.approx(0.05, rel=0.02)
