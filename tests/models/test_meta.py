"""MetaStep: the closed form of one step, weights put back, and runs that it must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import tiny_llama
from transformers import TrainerCallback

from rewardsmith.data.records import RecordError
from rewardsmith.models import ScalarHead, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.gpm import SkewHead
from rewardsmith.models.meta import MetaStep, separation

SIZE = 6


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def pairs(count: int = 32, seed: int = 0) -> dict[str, list]:
    two = np.random.default_rng(seed).normal(size=(count, 2, SIZE))
    return {"prompt": [""] * count, "chosen": two[:, 0].tolist(), "rejected": two[:, 1].tolist()}


def samples(count: int = 16, k: int = 3, seed: int = 1) -> dict[str, list]:
    drawn = np.random.default_rng(seed).normal(size=(count, k, SIZE)) + 2
    return {"prompt": [f"p{i}" for i in range(count)], "candidates": drawn.tolist()}


def linear(seed: int = 0) -> ScalarHead:
    torch.manual_seed(seed)
    return ScalarHead(SIZE)


def fit(meta: MetaStep | None, head: ScalarHead, **options) -> torch.Tensor:
    given = {"optim": "sgd", "lr_scheduler": "constant", "learning_rate": 0.1, "epochs": 1, "batch_size": 32, **options}
    given = {"weight_decay": 0.0, **given}
    result = train(pairs(), ArrayBackbone(SIZE), head=head, callbacks=[] if meta is None else [meta], **given)
    return torch.cat([p.detach().flatten() for p in result.model.network.parameters()])


def test_separation_by_hand():
    expected = 2 / 9 * (sigmoid(1) + sigmoid(3) + sigmoid(2))
    assert separation(torch.tensor([[0.0, 1.0, 3.0]])).item() == pytest.approx(expected, abs=1e-6)
    assert expected == pytest.approx(0.569873, abs=1e-6)


def test_separation_of_prompts_with_fewer_completions():
    rewards = torch.tensor([[0.0, 1.0, 3.0], [0.5, 2.0, 99.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    expected = (0.569873 + 0.5 * sigmoid(1.5)) / 2
    assert separation(rewards, mask).item() == pytest.approx(expected, abs=1e-6)


def test_equal_rewards_are_at_the_bottom_and_far_ones_at_twice_that():
    assert separation(torch.zeros(2, 4)).item() == pytest.approx(3 / 8)
    assert separation(torch.tensor([[0.0, 1e3, 2e3, 3e3]])).item() == pytest.approx(3 / 4)


def test_no_step_along_j_is_plain_training_to_the_bit():
    plain = fit(None, linear(), epochs=3, batch_size=8)
    assert torch.equal(fit(MetaStep(samples(), eta=0.0), linear(), epochs=3, batch_size=8), plain)
    assert not torch.equal(fit(MetaStep(samples(), eta=1.0), linear(), epochs=3, batch_size=8), plain)


def test_one_step_of_a_linear_reward_is_the_closed_form():
    eta, alpha = 0.7, 0.01  # small enough a gradient that it is not clipped
    meta = MetaStep(samples(), eta=eta, batch_size=16)
    start = linear()
    w = start.linear.weight.detach()[0].double().requires_grad_()
    data = {name: torch.tensor(column, dtype=torch.double) for name, column in pairs().items() if name != "prompt"}
    j = separation(torch.tensor(samples()["candidates"], dtype=torch.double) @ w)
    (ascent,) = torch.autograd.grad(j, w)
    shifted = (w + eta * ascent).detach().requires_grad_()
    loss = -torch.nn.functional.logsigmoid((data["chosen"] - data["rejected"]) @ shifted).mean()
    (descent,) = torch.autograd.grad(loss, shifted)
    expected = (w - alpha * descent / max(1.0, descent.norm().item() + 1e-6)).detach()
    found = fit(meta, start, learning_rate=alpha)
    assert torch.allclose(found[:SIZE].double(), expected, atol=1e-6)
    ((before, after),) = meta.history
    assert before == pytest.approx(j.item(), abs=1e-6)
    assert after > before


def test_the_shift_raises_j_in_every_step():
    meta = MetaStep(samples(), eta=0.05, batch_size=16)
    fit(meta, linear(), epochs=5, batch_size=8)
    assert len(meta.history) == 20
    assert all(after > before for before, after in meta.history)


def test_weights_are_put_back_before_the_optimizer_moves_them():
    """A hundred steps with a learning rate of next to nothing end where they began."""
    head = linear()
    start = torch.cat([p.detach().flatten().clone() for p in head.parameters()])
    end = fit(MetaStep(samples(), eta=3.0, batch_size=4), head, epochs=100, batch_size=32, learning_rate=1e-30)
    assert torch.equal(end, start)


def test_accumulated_steps_are_shifted_once():
    whole = MetaStep(samples(), eta=0.5)
    parts = MetaStep(samples(), eta=0.5)
    a = fit(whole, linear(), epochs=2, batch_size=32)
    b = fit(parts, linear(), epochs=2, batch_size=8, gradient_accumulation_steps=4)
    assert len(whole.history) == len(parts.history) == 2
    assert torch.allclose(a, b, atol=1e-6)


def test_a_prompt_without_two_readable_completions_is_left_out_and_counted():
    rows = samples(3)
    rows["candidates"][1][1:] = [[math.nan] * SIZE, [1.0]]
    meta = MetaStep(rows, eta=0.1)
    with pytest.warns(UserWarning, match="1 of 3 prompts left out"):
        fit(meta, linear())
    assert meta.skipped == 1


def test_bad_samples_are_refused():
    with pytest.raises(RecordError, match="row 1, column 'candidates': must be a list of at least two"):
        MetaStep({"prompt": ["a", "b"], "candidates": [["x", "y"], ["z"]]})
    with pytest.raises(ValueError, match="no column 'candidates'"):
        MetaStep({"prompt": ["a"], "completion": ["b"]})
    with pytest.raises(ValueError, match="eta must be >= 0"):
        MetaStep(samples(), eta=-1.0)
    with pytest.raises(ValueError, match="batch_size"):
        MetaStep(samples(), batch_size=0)
    with pytest.raises(TypeError, match="SkewHead"):
        train(pairs(), ArrayBackbone(SIZE), head=SkewHead(SIZE), callbacks=[MetaStep(samples())], epochs=1)


def test_accuracy_of_a_network_on_its_own_data_stays_within_a_point():
    rng = np.random.default_rng(3)
    gold = rng.normal(size=SIZE)

    def labeled(count: int) -> dict[str, list]:
        two = rng.normal(size=(count, 2, SIZE))
        best = (two @ gold).argmax(1)
        rows = np.arange(count)
        return {"chosen": two[rows, best].tolist(), "rejected": two[rows, 1 - best].tolist()}

    data, held_out = labeled(600), labeled(1000)
    found = {}
    for eta in (0.0, 0.01):
        torch.manual_seed(0)
        backbone = ArrayBackbone(SIZE, layers=(32,), hidden_size=16)
        model = train(data, backbone, epochs=5, learning_rate=1e-2, callbacks=[MetaStep(samples(64), eta=eta)]).model
        logits = model.preference([""] * 1000, held_out["chosen"], held_out["rejected"])
        found[eta] = float((logits > 0).mean())
    assert found[0.01] >= found[0.0] - 0.01


class Watch(TrainerCallback):
    """Keeps the weights at the end of each step."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights.append(next(model.network.backbone.parameters()).detach().clone())


def test_a_transformer_takes_meta_steps():
    rows = {"prompt": ["Name a color."] * 4, "chosen": ["Blue.", "Red is one."] * 2, "rejected": ["No.", "Rain."] * 2}
    drawn = {"prompt": ["Name a color.", "Name a tree."], "candidates": [["Blue", "I like rain"], ["Oak", "Elm tree"]]}
    ends = {}
    for eta in (0.0, 1.0):
        watch, meta = Watch(), MetaStep(drawn, eta=eta)
        train(rows, tiny_llama(), epochs=2, batch_size=2, learning_rate=1e-3, callbacks=[meta, watch])
        ends[eta] = watch.weights[-1]
    assert len(watch.weights) == len(meta.history) == 4
    assert not torch.equal(ends[0.0], ends[1.0])
