"""The transformer backbone: the scores of plain transformers, whatever the batch, its order, its layout."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import DECODERS, ENCODERS, tiny_backbone, tiny_bert, tiny_gpt2, tiny_llama, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rewardsmith.models.layout import Group, Pass
from rewardsmith.models.transformer import TransformerBackbone, weights_hash

PROMPTS = ["What is the capital of France? "] * 4 + ["Write a short poem about the rain, please: "] * 3 + ["Alone: "]
COMPLETIONS = [
    *("Paris.", "It is Paris, and Paris is in France, as many people know.", "no", "no"),
    *("Rain falls softly", "softly, and so on, and on, and on, until the garden drinks.", "I will not."),
    "yes",
]
FAMILIES = [*DECODERS, *ENCODERS]
TRIO = ["llama", "gpt2", "bert"]
SHARED = ["block_mask", "prefix_cache"]


def scores(backbone, prompts=PROMPTS, completions=COMPLETIONS, groups=None):
    with torch.no_grad():
        return backbone.linear(backbone(backbone.encode(prompts, completions).items, groups))[:, 0]


def plain_scores(backbone, rows, side="right"):
    """What AutoModelForSequenceClassification gives for padded rows of token ids."""
    length = max(map(len, rows))
    pad, ids, mask = backbone.tokenizer.pad_token_id, [], []
    for row in rows:
        fill = length - len(row)
        ids.append([*row, *[pad] * fill] if side == "right" else [*[pad] * fill, *row])
        mask.append([1] * len(row) + [0] * fill if side == "right" else [0] * fill + [1] * len(row))
    mask = torch.tensor(mask)
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": mask}
    if side == "left":
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return backbone.model(**inputs).logits[:, 0]


def ids_of(backbone):
    return [item.ids for item in backbone.encode(PROMPTS, COMPLETIONS).items]


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_plain_transformers_in_every_layout(family):
    backbone = tiny_backbone(family)
    expected = plain_scores(backbone, ids_of(backbone))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no fallback
        for layout in ("auto", "separate", *(SHARED if family in DECODERS else [])):
            backbone.layout = layout
            close(scores(backbone, groups=PROMPTS), expected)
    assert expected.std() > 0.05


@pytest.mark.parametrize("family", TRIO)
def test_batch_size_order_and_groups_change_nothing(family):
    backbone = tiny_backbone(family)
    expected = scores(backbone)
    singles = torch.cat([scores(backbone, [p], [c]) for p, c in zip(PROMPTS, COMPLETIONS)])
    close(singles, expected)
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    shuffled = scores(backbone, [PROMPTS[i] for i in order], [COMPLETIONS[i] for i in order], order)
    close(shuffled, expected[order])
    close(scores(backbone, groups=PROMPTS), expected)
    close(scores(backbone, groups=["one"] * 8), expected)  # rows of one group need not share anything
    backbone.batch_tokens = 16
    close(scores(backbone, groups=PROMPTS), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3"])
def test_the_padding_side_changes_nothing(family):
    backbone = tiny_backbone(family)
    rows = ids_of(backbone)
    close(plain_scores(backbone, rows, "left"), scores(backbone))
    backbone.tokenizer.padding_side = "left"
    close(scores(backbone, groups=PROMPTS), plain_scores(backbone, rows))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_pad_equal_to_eos_scores_as_plain_transformers_does(family):
    tokenizer = tiny_tokenizer("gpt2")
    backbone = tiny_backbone(family, tokenizer=tokenizer, pad_token_id=None)
    assert tokenizer.pad_token == tokenizer.eos_token
    assert backbone.model.config.pad_token_id == tokenizer.eos_token_id
    texts = [p + c + tokenizer.eos_token for p, c in zip(PROMPTS, COMPLETIONS)]
    expected = plain_scores(backbone, tokenizer(texts)["input_ids"])
    for layout in ("separate", *SHARED):
        backbone.layout = layout
        close(scores(backbone, groups=PROMPTS), expected)


def test_a_tokenizer_without_padding_and_eos_is_refused():
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither a padding token nor an EOS"):
        tiny_backbone("llama", tokenizer=tokenizer, pad_token_id=None)


def test_the_models_padding_token_wins_over_the_tokenizers():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<unk>"
    with pytest.warns(UserWarning, match="pads with '<unk>', the model with '<pad>'"):
        backbone = tiny_backbone("llama", tokenizer=tokenizer, pad_token_id=0)
    assert backbone.tokenizer.pad_token == "<pad>"


@pytest.mark.parametrize("family", TRIO)
def test_conversations_and_one_bos(family):
    backbone = tiny_backbone(family)
    prompt = [{"role": "user", "content": "Name a color."}]
    answers = [[{"role": "assistant", "content": text}] for text in ("Blue.", "Red, or a dark green.")]
    text = [backbone.tokenizer.apply_chat_template(prompt + answer, tokenize=False) for answer in answers]
    rows = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    close(scores(backbone, [prompt] * 2, answers, ["p", "p"]), plain_scores(backbone, rows))
    assert all(row.count(1) == (0 if family == "gpt2" else 1) for row in rows)


def test_an_empty_completion_has_no_encoding_and_no_rows_give_no_states():
    backbone = tiny_llama()
    encoded = backbone.encode(["a", "a"], ["", "b"])
    assert encoded.items[0] is None and encoded.failures[0].kind == "empty"
    assert backbone([]).shape == (0, 32)


def test_equal_rows_are_encoded_once(monkeypatch):
    backbone = tiny_bert()
    backbone.fingerprint()  # runs the self-test, whose passes are not to be counted
    seen = []
    states = backbone.states
    monkeypatch.setattr(backbone, "states", lambda **inputs: seen.append(len(inputs["input_ids"])) or states(**inputs))
    hidden = backbone(backbone.encode(["a "] * 6, ["b", "c", "b", "b", "c", "b"]).items)
    assert sum(seen) == 2
    assert torch.equal(hidden[[0, 1, 0, 0, 1, 0]], hidden) and not torch.equal(hidden[0], hidden[1])


@pytest.mark.parametrize("layout", SHARED)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_training_through_a_shared_prompt_gives_the_gradients_of_separate_rows(family, layout):
    def gradients(layout, groups):
        backbone = tiny_backbone(family, layout=layout).train()
        values = backbone.linear(backbone(backbone.encode(PROMPTS, COMPLETIONS).items, groups))[:, 0]
        torch.nn.functional.softplus(values[1::2] - values[::2]).mean().backward()
        return {name: p.grad for name, p in backbone.model.named_parameters()}

    expected, found = gradients("separate", None), gradients(layout, PROMPTS)
    assert max(g.abs().max() for g in expected.values()) > 0.01
    for name, gradient in expected.items():
        close(found[name], gradient)


@pytest.mark.parametrize("layout", ["auto", *SHARED])
def test_gradient_checkpointing_gives_the_same_gradients(layout):
    def gradients(checkpointing):
        backbone = tiny_llama(layout=layout).train()
        if checkpointing:
            backbone.gradient_checkpointing_enable()
        backbone.linear(backbone(backbone.encode(PROMPTS, COMPLETIONS).items, PROMPTS)).sum().backward()
        assert not checkpointing or "prefix_cache" not in backbone._layouts()
        return torch.cat([p.grad.flatten() for p in backbone.model.parameters()])

    close(gradients(True), gradients(False), 1e-4)


@pytest.mark.parametrize("family", TRIO)
def test_lora_trains_adapters_and_head_and_saves_merged(family, tmp_path):
    pytest.importorskip("peft")
    backbone = tiny_backbone(family)
    before = scores(backbone)
    backbone.add_lora(r=2)
    close(scores(backbone), before)  # adapters begin at zero
    trained = [name for name, p in backbone.model.named_parameters() if p.requires_grad]
    assert any("lora_" in name for name in trained) and backbone.linear.weight.requires_grad
    body = backbone.model.base_model_prefix
    assert all("lora_" in name for name in trained if name.startswith(f"{body}."))
    generator = torch.Generator().manual_seed(0)
    for name, p in backbone.model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn(p.shape, generator=generator) * 0.1
    changed = scores(backbone, groups=PROMPTS)
    assert (changed - before).abs().max() > 1e-3
    backbone.save(str(tmp_path))
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    loaded = TransformerBackbone(saved, AutoTokenizer.from_pretrained(tmp_path))
    close(scores(loaded.eval()), changed)
    assert any("lora_" in name for name, _ in backbone.model.named_parameters()), "saving leaves the adapters"
    backbone.merge_lora()
    assert not any("lora_" in name for name, _ in backbone.model.named_parameters())
    close(scores(backbone), changed)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta", "modernbert"])
def test_what_is_saved_is_an_ordinary_checkpoint(family, tmp_path):
    backbone = tiny_backbone(family, max_length=100)
    expected = scores(backbone)
    backbone.save(str(tmp_path))
    names = {path.name for path in tmp_path.iterdir()}
    assert "model.safetensors" in names and not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.pad_token_id == tokenizer.pad_token_id is not None
    assert model.config.num_labels == 1
    assert tokenizer.chat_template == backbone.tokenizer.chat_template
    backbone.model = model.eval()
    close(plain_scores(backbone, ids_of(backbone)), expected)
    again = TransformerBackbone.from_pretrained(str(tmp_path))
    close(scores(again), expected)
    assert again.max_length == 100
    assert again.fingerprint()["weights"] == weights_hash(model)
    assert again.encoder.template_hash == backbone.encoder.template_hash


def test_a_new_head_is_drawn_and_a_saved_one_is_kept(tmp_path):
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=512,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "lm")
    tiny_tokenizer().save_pretrained(tmp_path / "lm")
    fresh = TransformerBackbone.from_pretrained(str(tmp_path / "lm"))
    assert fresh.linear.weight.std().item() == pytest.approx(1 / math.sqrt(513), rel=0.1)
    assert not fresh.training and fresh.trainable
    fresh.save(str(tmp_path / "rm"))
    kept = TransformerBackbone.from_pretrained(str(tmp_path / "rm"))
    assert torch.equal(kept.linear.weight, fresh.linear.weight)


def test_a_classifier_with_several_labels_is_refused(tmp_path):
    backbone = tiny_bert()
    backbone.save(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "no", "1": "yes", "2": "perhaps"}, {"no": 0, "yes": 1, "perhaps": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="classifier with 3 labels"):
        TransformerBackbone.from_pretrained(str(tmp_path))


def test_a_model_that_cannot_share_falls_back_and_says_so_once(monkeypatch):
    backbone = tiny_llama()
    monkeypatch.setattr(backbone, "_block_mask", lambda *_: torch.zeros(5, 32))

    def refuse(*_):
        raise TypeError("no cache here")

    monkeypatch.setattr(backbone, "_prefix_cache", refuse)
    with pytest.warns(UserWarning, match="cannot encode rows in every way") as caught:
        values = scores(backbone, groups=PROMPTS)
        scores(backbone, groups=PROMPTS)
    assert len(caught) == 1
    close(values, scores(tiny_llama()))
    fallbacks = backbone.fingerprint()["fallbacks"]
    assert "hidden states differ" in fallbacks["block_mask"] and "no cache here" in fallbacks["prefix_cache"]


@pytest.mark.parametrize("layout", ["auto", *SHARED])
def test_rows_beyond_a_sliding_window_are_encoded_separately(layout, monkeypatch):
    backbone = tiny_backbone("mistral", sliding_window=28, layout=layout)
    rows = ids_of(backbone)
    long = {i for i, row in enumerate(rows) if len(row) > 28}
    assert 0 < len(long) < len(rows)
    passes = []
    encode_pass = backbone._encode_pass
    monkeypatch.setattr(backbone, "_encode_pass", lambda each, *rows: passes.append(each) or encode_pass(each, *rows))
    close(scores(backbone, groups=PROMPTS), plain_scores(backbone, rows))
    assert layout == "auto" or any(each.layout == layout for each in passes)
    close(scores(backbone, groups=PROMPTS), scores(tiny_backbone("mistral", sliding_window=28)))


def test_a_bidirectional_model_keeps_its_mask_and_shares_nothing():
    backbone = tiny_backbone("llama", is_causal=False)
    with pytest.warns(UserWarning, match="block_mask.*prefix_cache"):
        found = scores(backbone, groups=PROMPTS)
    assert set(backbone.fingerprint()["fallbacks"]) == {"causal", "block_mask", "prefix_cache"}
    close(found, plain_scores(backbone, ids_of(backbone)))


def test_an_encoder_cannot_share_prompts_and_says_so_where_it_is_asked_to():
    with pytest.warns(UserWarning, match="reads a whole row at once"):
        close(scores(tiny_bert(layout="prefix_cache"), groups=PROMPTS), scores(tiny_bert()))


def test_a_model_that_padding_disturbs_is_given_none():
    config = {"vocab_size": 384, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "dropout": 0.0}
    config["summary_last_dropout"] = 0.0
    backbone = tiny_backbone(
        "xlnet", tokenizer=tiny_tokenizer("bert"), **config
    )  # reads the last position, padding or not
    alone = torch.cat([plain_scores(backbone, [row]) for row in ids_of(backbone)])
    with pytest.warns(UserWarning, match="padding: hidden states differ"):
        close(scores(backbone, groups=PROMPTS), alone)
    assert set(backbone.fingerprint()["fallbacks"]) == {"padding"}


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_pickles_and_threads(family):
    backbone = pickle.loads(pickle.dumps(tiny_backbone(family)))
    expected = scores(tiny_backbone(family))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda turn: scores(backbone, groups=PROMPTS if turn % 2 else None), range(12)))
    for values in found:
        close(values, expected)


def test_shared_layouts_agree_where_prompts_are_padded_and_completions_packed():
    backbone = tiny_gpt2()
    short, long = list(range(20, 32)), list(range(60, 80))
    rows = [short + [5], short + [6, 7, 8, 9], short + [9, 9], long + [4, 3], long + [4], long + [7] * 6]
    groups = (Group((0, 1, 2), 12), Group((3, 4, 5), 20))
    with torch.no_grad():
        alone = torch.cat([backbone._separate([row]) for row in rows])
        close(backbone._block_mask(groups, rows), alone)
        parts = (((1, (4,)), (0, (0, 2))), ((0, (1,)), (1, (5, 3))))
        batch = Pass("prefix_cache", groups, parts)
        close(backbone._prefix_cache(batch, rows), alone[[4, 0, 2, 1, 5, 3]])


@pytest.mark.parametrize("layout", ["separate", *SHARED])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bfloat16_autocast_and_weights(layout, attention):
    backbone = tiny_llama(layout=layout, attn_implementation=attention)
    expected = scores(backbone)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(scores(backbone, groups=PROMPTS).float(), expected, 0.3)
    half = tiny_llama(layout=layout, attn_implementation=attention).to(torch.bfloat16)
    close(scores(half, groups=PROMPTS).float(), expected, 0.3)


def test_the_self_test_leaves_every_module_in_its_mode():
    backbone = tiny_llama().train()
    frozen = backbone.model.base_model.layers[0]
    frozen.eval()
    backbone(backbone.encode(["a "], ["b"]).items)
    assert not frozen.training and backbone.model.training and backbone.model.base_model.layers[1].training


def test_fingerprints_tell_models_and_templates_apart_and_are_json():
    a, b = tiny_llama(), tiny_llama(seed=1)
    fingerprint = a.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint == tiny_llama().fingerprint()
    assert fingerprint["dtype"] == "float32" and fingerprint["fallbacks"] == {} and fingerprint["max_length"] == 512
    assert b.fingerprint()["weights"] != fingerprint["weights"]
    other = tiny_tokenizer()
    other.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert tiny_llama(tokenizer=other).fingerprint()["template"] != fingerprint["template"]


def test_frozen_backbones_say_so_and_copies_work():
    backbone = tiny_llama()
    assert backbone.trainable
    backbone.model.requires_grad_(False)
    backbone.linear.requires_grad_(True)
    assert not backbone.trainable
    close(scores(copy.deepcopy(backbone)), scores(backbone))


def test_no_states_are_kept_after_a_pass():
    from rewardsmith.models.transformer import _reading

    backbone = tiny_llama()
    scores(backbone)
    assert _reading.states is None


def test_unknown_layouts_and_models_without_a_score_head_are_refused():
    with pytest.raises(ValueError, match="layout must be 'auto' or one of"):
        tiny_llama(layout="packed")
    with pytest.raises(ValueError, match="no linear layer with one output"):
        tiny_llama(num_labels=3)
