"""What preference training computes: TRL's loss, the same in every layout, without a tensor of all logits."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from test_logps import Largest
from tiny_lm import chat, pairs_of_text, tiny_lm

from rewardsmith.alignment import logps
from rewardsmith.alignment.preference_losses import LOSSES
from rewardsmith.alignment.preference_trainer import PreferenceModule, encode_preferences

ROWS = pairs_of_text(6)


def answer(policy, reference, loss="dpo", rows=ROWS, **options):
    """Losses and figures of a module on rows."""
    pairs = encode_preferences(rows, policy)
    return PreferenceModule(policy, LOSSES[loss], options, reference)(**pairs.batch(range(len(rows))))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_log_probabilities_are_those_of_the_plain_model(family):
    policy = tiny_lm(family)
    encoded = policy.encode([row["prompt"] for row in ROWS], [row["chosen"] for row in ROWS])
    ids, sizes = policy.targets(encoded.items)
    found = logps.token_logps(policy.hidden(encoded.items), policy.output, ids).logps.split(sizes)
    for item, row, ours in zip(encoded.items, ROWS, found):
        assert item.ids[-1] == policy.tokenizer.eos_token_id
        whole = torch.tensor([item.ids])
        plain = policy.model(input_ids=whole).logits[0, :-1].log_softmax(-1).gather(1, whole[0, 1:, None])[:, 0]
        torch.testing.assert_close(ours, plain[item.completion_start - 1 :], rtol=0, atol=1e-5)
        text = policy.tokenizer.decode(item.ids[item.completion_start :])
        assert text.strip() == row["chosen"] + policy.tokenizer.eos_token


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("loss", ["dpo", "tdpo2"])
def test_a_shared_prompt_gives_the_losses_and_gradients_of_separate_rows(family, loss):
    grads, losses = {}, {}
    for layout in ("separate", "block_mask", "prefix_cache", "auto"):
        policy = tiny_lm(family, layout=layout)
        found = answer(policy, tiny_lm(family, seed=1), loss)[0]
        found.mean().backward()
        losses[layout] = found.detach()
        grads[layout] = {name: p.grad for name, p in policy.model.named_parameters()}
    for layout in ("block_mask", "prefix_cache", "auto"):
        torch.testing.assert_close(losses[layout], losses["separate"], rtol=1e-5, atol=1e-5)
        for name, wanted in grads["separate"].items():
            scale = wanted.abs().max().clamp(min=1.0)
            torch.testing.assert_close(grads[layout][name] / scale, wanted / scale, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("family", "loss", "theirs", "rows"),
    [
        ("llama", "dpo", "sigmoid", ROWS),
        ("gpt2", "dpo", "sigmoid", chat(ROWS)),
        ("llama", "ipo", "ipo", ROWS),
        ("gpt2", "hinge", "hinge", ROWS),
    ],
)
def test_the_loss_is_trls_on_the_same_batch(family, loss, theirs, rows, tmp_path):
    from trl import DPOConfig, DPOTrainer

    policy, reference = tiny_lm(family), tiny_lm(family, seed=1)
    found = answer(policy, reference, loss, rows, beta=0.1)[0].mean()
    found.backward()
    grads = {name: p.grad.clone() for name, p in policy.model.named_parameters()}
    policy.model.zero_grad()
    tokenizer = policy.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    arguments = DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=len(rows), loss_type=[theirs], beta=0.1, use_cpu=True,
        bf16=False, gradient_checkpointing=False, report_to="none",
    )  # fmt: skip
    trainer = DPOTrainer(
        policy.model, ref_model=reference.model, args=arguments, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    pairs = encode_preferences(rows, tiny_lm(family))
    ours = {tuple(item.ids) for item in [item for pair in pairs.items for item in pair]}
    assert ours == {tuple(i[m.bool()].tolist()) for i, m in zip(batch["input_ids"], batch["attention_mask"])}
    wanted = trainer.compute_loss(trainer.model, batch)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-5)
    wanted.backward()
    for name, parameter in policy.model.named_parameters():
        scale = grads[name].abs().max().clamp(min=1.0)
        torch.testing.assert_close(grads[name] / scale, parameter.grad / scale, rtol=0, atol=1e-5, msg=name)


def test_no_step_makes_a_tensor_of_all_logits(monkeypatch):
    words, rows = 4096, pairs_of_text(24)
    policy = tiny_lm("llama", config={"vocab_size": words}, batch_tokens=512)
    reference = tiny_lm("llama", seed=1, config={"vocab_size": words}, batch_tokens=512)
    policy.refused_layouts(), reference.refused_layouts()
    monkeypatch.setitem(logps.CHUNK_LOGITS, "cpu", 16 * words)
    pairs = encode_preferences(rows, policy)
    responses = policy.targets([item for pair in pairs.items for item in pair])[0].numel()
    with Largest() as seen:
        losses, figures = answer(policy, reference, "tdpo2", rows)
        losses.mean().backward()
    assert (figures["rejected_kl"] > 0).all()
    assert seen.elements <= words * 32 < responses * words / 8  # the gradient of the output layer is the largest


def test_adapters_are_off_for_the_reference_and_on_again_after():
    from rewardsmith.models.lora import add_lora

    policy, start = tiny_lm(), tiny_lm()
    add_lora(policy.model, "CAUSAL_LM", r=4)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    inside = PreferenceModule(policy, LOSSES["tdpo2"], {})
    pairs = encode_preferences(ROWS, policy)
    found = inside.pair_logps(**{k: v for k, v in pairs.batch(range(6)).items() if k in ("items", "groups", "columns")})
    plain = PreferenceModule(start, LOSSES["dpo"], {}, start)(**pairs.batch(range(6)))[1]
    sums = (found.chosen_ref_logps * found.chosen_mask).sum(1)
    torch.testing.assert_close(sums, plain["chosen_logps"], rtol=0, atol=1e-4)
    assert (found.chosen_logps - found.chosen_ref_logps).abs().max() > 0.1 and (found.chosen_kl.sum(1) > 0).all()
    assert all(p.requires_grad for name, p in policy.model.named_parameters() if "lora" in name)
