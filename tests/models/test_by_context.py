"""One linear reward per context: reversals that no single reward can order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rewardsmith.evaluation.contexts import evaluate_contexts
from rewardsmith.models import load_model, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.by_context import ContextHead

SIZE = 20


def reversal_world(records: int, attributes: np.ndarray, rng: np.random.Generator) -> list[dict]:
    """Pairs of answers, each the better one by some attribute (by more than 0.3)."""
    rows: list[dict] = []
    while len(rows) < 2 * records:
        a, b = rng.normal(size=(2, SIZE)) / np.sqrt(2)
        gaps = attributes @ (a - b)
        ahead, behind = np.flatnonzero(gaps > 0.3), np.flatnonzero(gaps < -0.3)
        if len(ahead) and len(behind):
            prompt = str(len(rows))
            for name, won, lost in ((rng.choice(ahead), a, b), (rng.choice(behind), b, a)):
                rows.append(
                    {
                        "prompt": prompt,
                        "chosen": won.tolist(),
                        "rejected": lost.tolist(),
                        "context": f"attribute {name}",
                    }
                )
    return rows


def test_reversals_need_the_context(tmp_path):
    rng = np.random.default_rng(0)
    attributes = rng.normal(size=(6, SIZE))
    rows, test = reversal_world(1500, attributes, rng), reversal_world(400, attributes, rng)
    options = {"epochs": 12, "learning_rate": 0.1, "batch_size": 250, "weight_decay": 0.0}
    aware = train(rows, ArrayBackbone(SIZE), head=ContextHead(SIZE), output_dir=tmp_path / "m", **options).model
    found = evaluate_contexts(aware, test, place="column", resamples=50)
    assert found.accuracy.value >= 0.97 and found.both_right.value >= 0.93
    blind = train(rows, ArrayBackbone(SIZE), **options).model
    ignored = evaluate_contexts(blind, test, place="column", resamples=50)
    assert ignored.accuracy.value == 0.5 and ignored.both_right.value == 0.0
    ask = {"prompt": [""], "completion": [test[0]["chosen"]], "context": [test[0]["context"]]}
    assert load_model(tmp_path / "m").score(ask).values == pytest.approx(aware.score(ask).values)


def test_contexts_by_hand():
    head = ContextHead(2, ["cheap", "grand"])
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    hidden = torch.tensor([[1.0, 2.0]] * 3)
    assert head.reward(hidden, context=["cheap", "grand", None]).tolist() == [1.0, 6.0, 3.5]
    assert head.preference(hidden, 0 * hidden, context=["cheap", "grand", None]).tolist() == [1.0, 6.0, 3.5]
    with pytest.raises(ValueError, match=r"unknown context 'odd'.*cheap, grand"):
        head.reward(hidden[:1], context=["odd"])
    assert head.config() == {"contexts": ["cheap", "grand"]}
