"""Crossed words: exact products, the dictionary of training data, and contexts that turn verdicts around."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardsmith.data.contexts import insert_context, with_context
from rewardsmith.evaluation.contexts import evaluate_contexts
from rewardsmith.models import load_model, train
from rewardsmith.models.crossed import CrossedBackbone


def rows(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        a = " ".join(rng.permutation(["soup", *rng.choice(["with", "some", "more", "of", "it"], 3)]))
        b = " ".join(rng.permutation(["duck", *rng.choice(["with", "some", "more", "of", "it"], 3)]))
        out += [
            {"prompt": f"q{i}", "chosen": a, "rejected": b, "context": str(rng.choice(["be cheap", "keep it cheap"]))},
            {"prompt": f"q{i}", "chosen": b, "rejected": a, "context": str(rng.choice(["be grand", "keep it grand"]))},
        ]
    return out


def test_products_by_hand():
    backbone = CrossedBackbone()
    prompt = insert_context("ignored words", "Be cheap, be quick")  # three words of norm 1
    items = backbone.encode([prompt, "ignored words"], ["soup soup", "soup"]).items
    backbone.fit(items)
    # Pairs of soup: alone, and with be, cheap, quick.
    assert len(backbone.keys) == 4
    double = 1 + np.log(2)
    norms = [double * np.sqrt(2), 1.0]
    assert float(backbone.factor) == pytest.approx(1 / np.mean(norms), rel=1e-5)
    with torch.no_grad():
        backbone.table.fill_(1.0)
    found = backbone(items)[:, 0].detach().numpy() * np.mean(norms)
    np.testing.assert_allclose(found, [double * (1 + 3 / np.sqrt(3)), 1.0], rtol=1e-5)


def test_words_that_training_lacks_count_nothing():
    backbone = CrossedBackbone()
    backbone.fit(backbone.encode([insert_context("", "cheap")], ["soup"]).items)
    with torch.no_grad():
        backbone.table.fill_(1.0)
    known, new, alone = backbone(
        backbone.encode([insert_context("", "cheap"), insert_context("", "grand"), ""], ["soup", "soup", "duck"]).items
    )[:, 0].tolist()
    assert known == pytest.approx(2 * new) and alone == 0.0
    assert backbone.encode(["", ""], ["  ", "soup"]).failures.keys() == {0}


def test_contexts_turn_verdicts_and_survive_saving(tmp_path):
    model = train(
        with_context(rows(60)), CrossedBackbone(), epochs=5, learning_rate=10.0, batch_size=16, optim="sgd",
        output_dir=tmp_path / "m",
    ).model  # fmt: skip
    found = evaluate_contexts(model, rows(30, seed=1), resamples=50)
    assert found.accuracy.value == 1.0 and found.flips.value == 1.0 and found.both_right.value == 1.0
    assert found.without.value == 0.5
    test = with_context(rows(5, seed=2))
    ask = [[row[name] for row in test] for name in ("prompt", "chosen", "rejected")]
    np.testing.assert_allclose(load_model(tmp_path / "m").preference(*ask), model.preference(*ask), rtol=1e-6)
