"""ODIN: the penalties by hand, and quality apart from length on data in which longer answers win."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardsmith.models import HashedBackbone, load_model, train
from rewardsmith.models.losses import bradley_terry, preference_loss
from rewardsmith.models.odin import QualityLengthHead, correlation


def test_correlation():
    x = torch.tensor([1.0, 2.0, 4.0])
    assert correlation(x, 3 - 2 * x).item() == pytest.approx(-1.0)
    assert correlation(x, torch.ones(3)).item() == 0.0
    y = torch.tensor([0.3, -1.0, 2.0])
    assert correlation(x, y).item() == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


def test_loss_by_hand():
    head = QualityLengthHead(2)
    with torch.no_grad():
        head.quality.weight.copy_(torch.tensor([[1.0, 0.0]]))
        head.length.weight.copy_(torch.tensor([[1.0, 1.0]]))
    chosen, rejected = torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 0.0]])
    losses, logits = head.loss(chosen, rejected, length=torch.tensor([[30.0, 10.0]]))
    assert logits.tolist() == [5.0]  # (2 + 3) - 0
    expected = preference_loss(torch.tensor([5.0])) + (1.0 - 1.0) + 1 / 2**0.5
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
    assert head.reward(chosen).tolist() == [2.0] and head.preference(chosen, rejected).tolist() == [2.0]


def test_l2_keeps_rewards_small():
    plain, held = (bradley_terry(torch.tensor([3.0]), torch.tensor([1.0]), l2=weight) for weight in (0.0, 0.005))
    assert (held - plain).item() == pytest.approx(0.005 * 10.0)


def world(rows: int, seed: int):
    """The better of two answers has more good words; it is also longer in four of five pairs."""
    rng = np.random.default_rng(seed)
    good, filler = ["clear", "exact", "useful", "right"], [f"filler{i}" for i in range(12)]

    def answer(quality: int, length: int) -> str:
        return " ".join(rng.permutation([*rng.choice(good, quality), *rng.choice(filler, length - quality)]))

    chosen, rejected = [], []
    for _ in range(rows):
        long, short = rng.integers(16, 24), rng.integers(6, 12)
        first, second = (long, short) if rng.random() < 0.8 else (short, long)
        chosen.append(answer(3, int(first)))
        rejected.append(answer(1, int(second)))
    return {"prompt": ["q"] * rows, "chosen": chosen, "rejected": rejected}


def test_quality_is_learned_apart_from_length(tmp_path):
    data, test = world(600, 0), world(200, 1)
    plain = train(data, HashedBackbone(16), seed=0).model
    apart = train(data, HashedBackbone(16), head="odin", batch_size=128, epochs=20, seed=0, output_dir=tmp_path).model
    texts = [*test["chosen"], *test["rejected"]]
    lengths = np.array([len(text) for text in texts])
    by_length = {}
    for name, model in (("plain", plain), ("odin", apart)):
        scores = np.array(model(["q"] * len(texts), texts))
        by_length[name] = abs(np.corrcoef(scores, lengths)[0, 1])
        assert (scores[:200] > scores[200:]).mean() > 0.6  # quality and length go together, so some accuracy is lost
    assert by_length["odin"] < 0.5 * by_length["plain"]
    again = load_model(tmp_path)
    np.testing.assert_allclose(again(["q"] * 3, texts[:3]), apart(["q"] * 3, texts[:3]), atol=1e-6)
