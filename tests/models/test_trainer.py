"""Training: what is learned, how steps are made, that their split does not matter, what is written, what is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from tiny import tiny_bert, tiny_llama

from rewardsmith.data.records import RecordError
from rewardsmith.models import HashedBackbone, Head, PairwiseModel, ScalarHead, load_model, train
from rewardsmith.models.examples import StepSampler, encode_examples
from rewardsmith.models.reward_model import CARD

GOOD, BAD = ["kind", "clear", "right", "warm"], ["rude", "vague", "wrong", "cold"]


def rows(count: int, seed: int = 0, per_prompt: int = 1) -> list[dict]:
    """Pairs whose chosen completion has more good words and fewer bad ones."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        filler = " ".join(rng.choice(["the", "reply", "was", "and", "so"], rng.integers(1, 8)))
        good, bad = rng.choice(GOOD, 2), rng.choice(BAD, 2)
        out.append(
            {
                "prompt": f"Tell me about {i // per_prompt}.",
                "chosen": f" {filler} {' '.join(good)}",
                "rejected": f" {filler} {' '.join(bad)}",
            }
        )
    return out


def accuracy(model, data) -> float:
    logits = model.preference(*([row[name] for row in data] for name in ("prompt", "chosen", "rejected")))
    return float(np.mean(logits > 0))


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.network.parameters()])


FAST = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8}


@pytest.mark.parametrize("backbone", ["hashed", tiny_llama, tiny_bert], ids=["hashed", "llama", "bert"])
def test_every_backbone_learns_what_separates_the_pairs(backbone):
    options = {} if backbone == "hashed" else FAST
    result = train(rows(96), backbone if backbone == "hashed" else backbone(), eval_data=rows(40, seed=1), **options)
    losses = [row["loss"] for row in result.history if "loss" in row]
    held_out = [row for row in result.history if "eval_loss" in row]
    assert all("loss" in row for row in result.history)
    assert losses[-1] < 0.5 * losses[0]
    assert len(held_out) == result.options["epochs"]
    assert held_out[-1]["eval_accuracy"] >= 0.95
    assert accuracy(result.model, rows(40, seed=1)) == pytest.approx(held_out[-1]["eval_accuracy"])
    assert json.loads(json.dumps(result.to_dict()))["pairs"] == 96
    assert result.pairs_per_second > 0 and result.peak_memory > 1e6


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    a, b, c = (weights(train(rows(40), "hashed", seed=seed).model) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


class TestSteps:
    def sampler(self, count=50, per_prompt=1, **options):
        head = ScalarHead(1)
        pairs = encode_examples(rows(count, per_prompt=per_prompt), HashedBackbone(buckets=512), head)
        return StepSampler(pairs, **options)

    def test_every_pair_is_seen_once_an_epoch_and_steps_are_even(self):
        sampler = self.sampler(batch_size=8)
        batches = list(sampler)
        assert sorted(row for batch in batches for row in batch) == list(range(50))
        assert {len(batch) for batch in batches} <= {7, 8}
        assert len(batches) == len(sampler) == 7

    def test_epochs_differ_and_repeat(self):
        sampler = self.sampler(batch_size=8)
        first = list(sampler)
        sampler.set_epoch(1)
        second = list(sampler)
        sampler.set_epoch(0)
        assert list(sampler) == first != second

    def test_a_step_has_similar_lengths(self):
        sampler = self.sampler(count=200, batch_size=8)
        spread = [np.ptp(sampler.examples.lengths[step]) for step in sampler.order()]
        assert np.mean(spread) < 0.2 * np.ptp(sampler.examples.lengths)

    def test_a_step_has_whole_prompts(self):
        sampler = self.sampler(count=200, per_prompt=4, batch_size=8)
        steps_of = {}
        for number, step in enumerate(sampler.order()):
            for row in step:
                steps_of.setdefault(sampler.examples.groups[row], set()).add(number)
        assert np.mean([len(steps) for steps in steps_of.values()]) < 1.5

    @pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (1, 2), (2, 2), (3, 1)])
    def test_processes_and_parts_share_the_steps_of_one_process(self, world, accumulation):
        size = 12 // (world * accumulation)
        single = [sorted(step.tolist()) for step in self.sampler(batch_size=12).order()]
        shares = [
            list(self.sampler(batch_size=size, world=world, accumulation=accumulation, rank=rank))
            for rank in range(world)
        ]
        assert {len(share) for share in shares} == {len(single) * accumulation}
        for number, step in enumerate(single):
            parts = [share[number * accumulation + at] for share in shares for at in range(accumulation)]
            assert sorted(row for part in parts for row in part) == step

    def test_fewer_pairs_than_parts_are_refused(self):
        with pytest.raises(ValueError, match="too few"):
            self.sampler(count=3, batch_size=1, world=4)


@pytest.mark.parametrize("split", ["accumulation", "tokens"])
def test_a_step_in_parts_is_the_same_step(split):
    data, backbone = rows(30), tiny_llama()
    other = copy.deepcopy(backbone)
    options = {"learning_rate": 1e-3, "epochs": 1}
    whole = train(data, backbone, batch_size=8, **options).model
    if split == "accumulation":
        parts = train(data, other, batch_size=2, gradient_accumulation_steps=4, **options).model
    else:
        parts = train(data, other, batch_size=8, max_tokens=64, **options).model
    start = torch.cat([p.detach().flatten() for p in tiny_llama().parameters()])
    moved = (weights(whole) - start).abs().max().item()
    assert moved > 1e-3
    torch.testing.assert_close(weights(whole), weights(parts), atol=0.02 * moved, rtol=0)


def test_margins_soft_labels_and_centering_reach_the_loss():
    data = rows(60)
    gap = {}
    for name, extra, options in [
        ("plain", {}, {}),
        ("margin", {"margin": 3.0}, {"use_margin": True}),
        ("even", {"target_prob": 0.5}, {}),
        ("smooth", {}, {"label_smoothing": 0.4}),
    ]:
        model = train([{**row, **extra} for row in data], "hashed", **options).model
        values = model.preference(*([row[n] for row in data] for n in ("prompt", "chosen", "rejected")))
        gap[name] = float(values.mean())
    assert gap["margin"] > gap["plain"] + 1
    assert gap["smooth"] < 0.5 * gap["plain"]
    assert abs(gap["even"]) < 1e-6
    first = train(data, tiny_llama(), centering=10.0, **FAST).history[0]["loss"]
    assert first > train(data, tiny_llama(), **FAST).history[0]["loss"]


def test_lora_trains_adapters_and_saves_a_merged_checkpoint(tmp_path):
    from transformers import AutoModelForSequenceClassification

    backbone = tiny_llama()
    before = backbone.model.state_dict()["model.embed_tokens.weight"].clone()
    result = train(rows(64), backbone, lora=True, output_dir=tmp_path / "m", learning_rate=2e-2, epochs=3, batch_size=8)
    plain, loading = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert torch.equal(plain.state_dict()["model.embed_tokens.weight"], before)
    again = load_model(tmp_path / "m")
    data = rows(40, seed=1)
    assert accuracy(again, data) >= 0.9
    batch = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in data]
    np.testing.assert_allclose(again.score(batch).values, result.model.score(batch).values, atol=1e-5)


def test_bf16_and_checkpointing_train_too():
    result = train(rows(64), tiny_llama(), bf16=True, gradient_checkpointing=True, **FAST)
    assert accuracy(result.model, rows(40, seed=1)) >= 0.9
    assert next(result.model.network.parameters()).dtype == torch.float32


class Cross(Head):
    """Two dimensions, compared by their cross product; scaled by a prompt gate and a user column."""

    reads_prompt, columns = True, ("user",)

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.map = torch.nn.Linear(hidden_size, 2)

    def preference(self, a, b, *, prompt_hidden=None, user=(), **columns):
        assert prompt_hidden is not None and prompt_hidden.shape == a.shape
        assert len(user) == len(a)
        a, b = self.map(a), self.map(b)
        return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

    def config(self):
        return {}


def test_a_head_of_ones_own_with_prompt_and_columns():
    torch.manual_seed(0)
    data = [{**row, "user": "u"} for row in rows(64, per_prompt=2)]
    result = train(data, tiny_llama(), head=Cross(32), **FAST)
    assert isinstance(result.model, PairwiseModel)
    logits = result.model.preference(
        *([row[n] for row in data] for n in ("prompt", "chosen", "rejected")), user=["u"] * len(data)
    )
    assert np.mean(logits > 0) >= 0.9


class TestOutput:
    def test_a_folder_appears_whole_and_can_be_trained_into_again(self, tmp_path):
        out = tmp_path / "model"
        for seed in (0, 1):
            result = train(rows(30), "hashed", output_dir=out, seed=seed)
            assert sorted(f.name for f in out.iterdir()) == ["hashed.json", "hashed.safetensors", CARD]
            assert load_model(out).fingerprint() == result.model.fingerprint()
        card = json.loads((out / CARD).read_text())
        assert card["training"]["options"]["seed"] == 1 and card["training"]["pairs"] == 30

    def test_checkpoints_hold_no_pickle_and_go_when_the_model_is_there(self, tmp_path, monkeypatch):
        import rewardsmith.models.trainer as module

        seen = []
        write = module.write_whole

        def look(model, out, training):
            seen.extend(path.name for path in (out / "checkpoints").rglob("*") if path.is_file())
            write(model, out, training)

        monkeypatch.setattr(module, "write_whole", look)
        train(rows(30), "hashed", output_dir=tmp_path / "m", save_steps=2, batch_size=8)
        assert {"model.safetensors", "optimizer.safetensors", "trainer_state.json"} <= set(seen)
        assert {name.rpartition(".")[2] for name in seen} == {"safetensors", "json"}
        assert not (tmp_path / "m" / "checkpoints").exists()

    def test_a_folder_of_other_files_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("x")
        with pytest.raises(ValueError, match="other files"):
            train(rows(10), "hashed", output_dir=tmp_path)
        assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]

    @pytest.mark.parametrize(
        ("data", "options", "message"),
        [
            ([], {}, "no column 'chosen'|no rows"),
            ([{"prompt": "p", "chosen": "a"}], {}, "no column 'rejected'"),
            ([{"prompt": "p", "chosen": "a", "rejected": None}], {}, "row 0, column 'rejected'"),
            ([{"prompt": "p", "chosen": "", "rejected": "b"}], {}, "none of 1 rows"),
            (rows(4), {"use_margin": True}, "no column 'margin'"),
            ([{**rows(1)[0], "target_prob": 1.5}], {}, r"must lie in \[0, 1\]"),
            ([{**rows(1)[0], "margin": float("nan")}], {"use_margin": True}, "finite number"),
            (rows(4), {"learning_rate": -1.0}, "learning_rate must be positive"),
            (rows(4), {"epochs": 0}, "epochs must be positive"),
            (rows(4), {"label_smoothing": 0.7}, "label_smoothing"),
            (rows(4), {"head": "scaler"}, "head must be"),
            (rows(4), {"lora": True}, "lora needs a transformer"),
            (rows(4), {"gradient_checkpointing": True}, "needs a transformer"),
            (rows(4), {"eval_data": []}, "eval_data"),
        ],
    )
    def test_bad_input_is_named_and_nothing_is_written(self, tmp_path, data, options, message):
        with pytest.raises(ValueError, match=message):
            train(data, "hashed", output_dir=tmp_path / "m", **options)
        assert not (tmp_path / "m").exists()

    def test_a_model_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match="no model at"):
            train(rows(4), "no/such-model", output_dir=tmp_path / "m")
        assert not (tmp_path / "m").exists()


def test_training_goes_on_from_a_trained_folder(tmp_path):
    first = train(rows(60), "hashed", output_dir=tmp_path / "m").model
    more = train(rows(60, seed=2), tmp_path / "m", learning_rate=1e-9).model
    batch = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows(10)]
    np.testing.assert_allclose(more.score(batch).values, first.score(batch).values, atol=1e-5)


def test_pairs_that_cannot_be_encoded_are_counted():
    data = rows(20)
    data[3]["rejected"] = "   "
    with pytest.warns(UserWarning, match="1 of 20 rows left out.*row 3"):
        result = train(data, "hashed")
    assert result.skipped == {"empty": 1} and result.pairs == 19


def test_a_record_error_names_its_row():
    data = [*rows(3), {**rows(1)[0], "chosen": 7}]
    with pytest.raises(RecordError) as error:
        train(data, "hashed")
    assert (error.value.row, error.value.column) == (3, "chosen")


def test_conversations_train_as_text_does():
    data = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in rows(48)
    ]
    assert accuracy(train(data, tiny_llama(), **FAST).model, data) >= 0.95
