"""SIRL: the loss by hand and its invariances, distractors that are forgotten, noise, and rewards on the embedding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_llama

from rewardsmith.data.similarity import draw_triples, similarity_rows
from rewardsmith.evaluation.representations import feature_prediction_error
from rewardsmith.models import load_model, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.hashed import HashedBackbone
from rewardsmith.models.similarity import SimilarityHead, embed, similarity_loss, triplet_loss
from rewardsmith.worlds.trajectories import choices, distractors, odd_ones


def points(*rows):
    return torch.tensor([rows], dtype=torch.double).unbind(1)


def test_loss_by_hand():
    a, b, odd = points((0.0, 0.0), (1.0, 0.0), (2.0, 0.0))
    assert triplet_loss(a, b, odd).item() == 0.0  # 1 - 4 + 1 < 0
    assert triplet_loss(b, a, odd).item() == 1.0  # 1 - 1 + 1
    assert similarity_loss(a, b, odd).item() == 1.0 == similarity_loss(b, a, odd).item()


def test_rotations_and_shifts_change_nothing():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(3, 50, 6, generator=rng, dtype=torch.double)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=rng, dtype=torch.double))
    shift = torch.randn(6, generator=rng, dtype=torch.double)
    torch.testing.assert_close(similarity_loss(*(x @ turn + shift)), similarity_loss(*x), atol=1e-6, rtol=0)


def test_no_gradient_where_both_hinges_are_met():
    a, b, odd = (x.requires_grad_() for x in points((0.0, 0.0), (0.5, 0.0), (9.0, 0.0)))
    similarity_loss(a, b, odd).sum().backward()
    assert not a.grad.any() and not b.grad.any() and not odd.grad.any()


def learned(world, answers):
    """The embedding (N, 3) of a linear encoder from a thousand triples of the first half."""
    rng = np.random.default_rng(1)
    half = len(world) // 2
    triples = draw_triples(world.raw[:half], 1000, seed=1)
    rows = similarity_rows(world.raw, triples, odd_ones(world.features[triples], rng, **answers))
    torch.manual_seed(0)
    model = train(rows, ArrayBackbone(20, hidden_size=3), head="similarity", learning_rate=0.02, epochs=25)
    vectors = embed(model.model, world.raw.tolist())
    return feature_prediction_error(vectors, world.features, np.arange(len(world)) < half).relative, model


def test_noisy_answers_still_teach_and_random_ones_do_not():
    world = distractors(np.random.default_rng(0), 1000)
    error, result = learned(world, {"random_share": 0.1})
    assert error <= 0.03
    assert result.history[-1]["accuracy"] > 0.85
    error, _ = learned(world, {"random_share": 1.0})
    assert error >= 0.55


def test_a_reward_on_the_embedding(tmp_path):
    rng = np.random.default_rng(0)
    world = distractors(rng, 400, nuisance=5)
    triples = draw_triples(world.raw, 300, seed=0)
    rows = similarity_rows(world.raw, triples, odd_ones(world.features[triples], rng))
    torch.manual_seed(0)
    first = train(rows, ArrayBackbone(8, hidden_size=3), head="similarity", learning_rate=0.02, epochs=60)
    with pytest.raises(ValueError, match="similarities alone"):
        first.model.score({"completion": world.raw[:2].tolist()})
    before = embed(first.model, world.raw.tolist())

    returns = world.features @ np.array([1.0, -1.0, 0.5])
    a, b = rng.choice(400, (2, 60))
    won = choices(returns[a] - returns[b], rng)
    pairs = {"chosen": world.raw[np.where(won, a, b)].tolist(), "rejected": world.raw[np.where(won, b, a)].tolist()}
    second = train(pairs, first.model.backbone, head=first.model.head, output_dir=tmp_path / "m").model
    np.testing.assert_array_equal(embed(second, world.raw.tolist()), before)  # the encoder is left as it is
    scores = second.score({"completion": world.raw.tolist()}).values
    assert np.corrcoef(scores, returns)[0, 1] > 0.9
    again = load_model(tmp_path / "m")
    np.testing.assert_allclose(again.score({"completion": world.raw.tolist()}).values, scores, rtol=1e-6)


def test_preferences_may_move_the_encoder():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2, 4))
    pairs = {"chosen": x[:, 0].tolist(), "rejected": x[:, 1].tolist()}
    for tune in (False, True):
        backbone = ArrayBackbone(4, hidden_size=2)
        before = backbone.encoder[0].weight.detach().clone()
        train(pairs, backbone, head=SimilarityHead(2, layers=(8,), tune=tune), epochs=2)
        assert torch.equal(before, backbone.encoder[0].weight) != tune


def test_equal_vectors_teach_nothing():
    rows = {"candidates": [["a b", "a c", "d e"]], "odd": [2]}
    with pytest.raises(ValueError, match="the same vector"):
        train(rows, HashedBackbone(4), head="similarity")


def test_on_a_transformer(tmp_path):
    rows = {
        "prompt": ["Name a color."] * 4,
        "candidates": [["Blue.", "A deep blue.", "Bread."], ["Rain.", "Paris.", "The rain falls."]] * 2,
        "odd": [2, 1] * 2,
    }
    backbone = tiny_llama()
    first = train(rows, backbone, head=SimilarityHead(backbone.hidden_size, dim=4), epochs=1, batch_size=2).model
    assert embed(first, ["Blue.", "Bread."], ["Name a color."] * 2).shape == (2, 4)
    pairs = {"prompt": ["Name a color."], "chosen": ["Blue."], "rejected": ["Bread."]}
    model = train(pairs, first.backbone, head=first.head, epochs=2, output_dir=tmp_path / "m").model
    ask = {"prompt": ["Name a color."] * 2, "completion": ["Blue.", "Bread."]}
    np.testing.assert_allclose(load_model(tmp_path / "m").score(ask).values, model.score(ask).values, atol=1e-5)
