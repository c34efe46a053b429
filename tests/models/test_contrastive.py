"""Contrastive terms: closed forms, codes that are balanced, and heads that train, save and load."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import tiny_llama

from rewardsmith.models import HashedBackbone, load_model, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.contrastive import WEIGHTS, ContrastiveHead, simcse, sinkhorn, swav
from rewardsmith.models.losses import bradley_terry

KINDS = list(WEIGHTS)


def test_simcse_of_vectors_that_are_all_the_same_is_the_log_of_their_number():
    same = torch.ones(8, 5)
    assert torch.allclose(simcse(same, same), torch.full((8,), math.log(8)))


def test_simcse_of_orthogonal_vectors_by_hand():
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))  # cos 1 and 0, 0, over a temperature of 0.5
    losses = simcse(torch.eye(3), 7 * torch.eye(3), temperature=0.5)
    assert torch.allclose(losses, torch.full((3,), expected))


def test_codes_have_rows_of_one_and_use_prototypes_evenly():
    scores = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for iterations in (3, 200):
        codes = sinkhorn(scores, iterations=iterations)
        assert torch.allclose(codes.sum(1), torch.ones(40), atol=1e-5)
    assert torch.allclose(codes.sum(0), torch.full((8,), 5.0), atol=1e-3)
    # What a softmax would do with one favorite prototype, and three iterations do not.
    favorite = 0.2 * scores
    favorite[:, 0] += 1
    assert torch.softmax(favorite / 0.05, 1).sum(0)[0] > 35
    assert sinkhorn(favorite).sum(0)[0] < 10


def test_codes_of_small_epsilon_do_not_overflow():
    codes = sinkhorn(torch.randn(16, 4), epsilon=1e-4)
    assert torch.isfinite(codes).all()


def test_swav_of_two_clusters_by_hand():
    """Two vectors on two prototypes: codes are nearly one-hot, p is softmax of (1, 0) / temperature."""
    z = torch.eye(2)
    expected = 2 * math.log(1 + math.exp(-10))
    assert torch.allclose(swav(z, z, torch.eye(2), temperature=0.1), torch.full((2,), expected), atol=1e-4)
    crossed = swav(z, z.flip(0), torch.eye(2), temperature=0.1)
    assert (crossed > 19).all()  # each view is in the other's cluster


def test_no_gradient_flows_through_codes():
    z = torch.randn(6, 4, requires_grad=True)
    assert not sinkhorn(z).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_the_term_is_added_in_training_alone(kind):
    torch.manual_seed(0)
    head = ContrastiveHead(12, kind=kind, weight=0.5, prototypes=4)
    chosen, rejected = torch.randn(6, 12), torch.randn(6, 12)
    plain = bradley_terry(head.reward(chosen), head.reward(rejected))
    head.eval()
    assert torch.equal(head.loss(chosen, rejected)[0], plain)
    head.train()
    torch.manual_seed(1)
    term = head.contrast(chosen, rejected)
    torch.manual_seed(1)
    losses, logits = head.loss(chosen, rejected)
    assert term.shape == (6,) and (term > 0).all()
    assert torch.allclose(losses, plain + 0.5 * term)
    assert torch.equal(logits, head.preference(chosen, rejected))


def test_the_diff_variants_read_differences_alone():
    head = ContrastiveHead(12, kind="simcse-diff")
    chosen, rejected, shift = torch.randn(6, 12), torch.randn(6, 12), torch.randn(6, 12)
    torch.manual_seed(1)
    one = head.contrast(chosen, rejected)
    torch.manual_seed(1)
    assert torch.allclose(head.contrast(chosen + shift, rejected + shift), one, atol=1e-4)


def test_the_term_keeps_hidden_vectors_apart():
    """One direction decides the preferences; without the term the hidden vectors draw near to a line."""
    rng = np.random.default_rng(0)
    two = rng.normal(size=(200, 2, 8))
    best = two[:, :, 0].argmax(1)
    rows = np.arange(200)
    data = {"chosen": two[rows, best].tolist(), "rejected": two[rows, 1 - best].tolist()}
    spread = {}
    for kind in (None, "simcse"):
        torch.manual_seed(0)
        backbone = ArrayBackbone(8, layers=(16,), hidden_size=8)
        head = "scalar" if kind is None else ContrastiveHead.build(backbone, kind=kind)
        model = train(data, backbone, head=head, epochs=30, batch_size=32, learning_rate=1e-2).model
        hidden, _, _ = model.network.hidden([""] * 200, data["chosen"])
        unit = torch.nn.functional.normalize(hidden, dim=-1)
        spread[kind] = float((unit @ unit.T).square().mean())  # 1 where all are on one line
        logits = model.preference([""] * 200, data["chosen"], data["rejected"])
        assert (logits > 0).mean() > 0.9
    assert spread["simcse"] < 0.7 * spread[None]


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="kind must be one of simcse"):
        ContrastiveHead(4, kind="moco")
    with pytest.raises(ValueError, match="dropout"):
        ContrastiveHead(4, dropout=0.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        ContrastiveHead(4, temperature=0.0)
    with pytest.raises(ValueError, match="'arrays' is frozen"):
        ContrastiveHead.build(ArrayBackbone(4))


@pytest.mark.parametrize("kind", ["simcse", "swav-diff"])
def test_hashed_and_transformer_train_save_and_load(kind, tmp_path):
    rows = {"prompt": ["Name a color."] * 4, "chosen": ["Blue.", "Red is one."] * 2, "rejected": ["No.", "Rain."] * 2}
    for number, backbone in enumerate((HashedBackbone(8), tiny_llama())):
        head = ContrastiveHead.build(backbone, kind=kind, prototypes=3)
        folder = tmp_path / str(number)
        model = train(rows, backbone, head=head, epochs=1, batch_size=4, output_dir=folder).model
        loaded = load_model(folder)
        assert loaded.head.config() == head.config()
        batch = {"prompt": rows["prompt"], "completion": rows["chosen"]}
        assert np.allclose(loaded.score(batch).values, model.score(batch).values, atol=1e-6)


def test_the_name_of_the_head():
    rows = {"prompt": ["a"] * 3, "chosen": ["good one", "well done", "fine"], "rejected": ["bad", "poor", "awful"]}
    assert isinstance(train(rows, "hashed", head="contrastive", epochs=1).model.head, ContrastiveHead)
