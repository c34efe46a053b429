"""Tiny transformers and tokenizers made from configs, in milliseconds: a backbone of every family, for any test.

`tiny_llama()`, `tiny_gpt2()` and `tiny_bert()` are backbones with random weights (32 wide, 2 layers, no dropout);
`tiny_backbone(family)` makes one of any family in `DECODERS` or `ENCODERS`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from rewardsmith.models.transformer import TransformerBackbone

TEXT = [
    "What is the capital of France? The capital of France is Paris.",
    "Write a short poem about rain. Rain falls softly on the old roof, and the garden drinks.",
    "How do I sort a list in Python? Use the sorted function; it returns a new list.",
    "user: Name a color.\n\nassistant: Blue is a color that many people like very much.",
]
VOCABULARY = 384
_SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GATED = {**_SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 512}
_MASKED = {**_SMALL, "intermediate_size": 64, "max_position_embeddings": 512}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

DECODERS: dict[str, dict[str, Any]] = {
    "llama": _GATED,
    "qwen2": _GATED,
    "qwen3": {**_GATED, "head_dim": 8},
    "mistral": {**_GATED, "sliding_window": None},
    "gemma2": {**_GATED, "head_dim": 8, "sliding_window": 512},
    "gpt_neox": {**_MASKED, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 512,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {**_MASKED, **_NO_DROPOUT},
    "roberta": {**_MASKED, **_NO_DROPOUT, "max_position_embeddings": 515},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
    "deberta-v2": {**_MASKED, **_NO_DROPOUT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "modernbert": {**_MASKED, "max_position_embeddings": 512},
}


@functools.lru_cache
def _trained(special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(special), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    return tokenizer.to_str()


def tiny_tokenizer(style: str = "llama", *, pad: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 384 tokens, with the special tokens of a family.

    Args:
        style: `llama` (adds BOS), `gpt2` (adds nothing; BOS and EOS are one token), `bert` (adds [CLS] and [SEP]).
        pad: whether it has a padding token (`gpt2` never has one).
    """
    special = ("<pad>", "<s>", "</s>", "<unk>")
    core = Tokenizer.from_str(_trained(special))
    if style == "gpt2":
        return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="</s>", eos_token="</s>", unk_token="<unk>")
    single = "<s> $A" if style == "llama" else "<s> $A </s>"
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if style == "bert":
        names = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    if pad:
        names["pad_token"] = "<pad>"
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def tiny_backbone(
    family: str = "llama",
    *,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerFast | None = None,
    max_length: int | None = None,
    layout: str = "auto",
    attn_implementation: str | None = None,
    **config: Any,
) -> TransformerBackbone:
    """A backbone of one family with random weights, in evaluation mode, without dropout.

    Args:
        family: a key of `DECODERS` or `ENCODERS`, or any other model type with all of its config.
        config: what to change in the family's config.
    """
    if tokenizer is None:
        tokenizer = tiny_tokenizer("bert" if family in ENCODERS else "gpt2" if family == "gpt2" else "llama")
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": tokenizer.pad_token_id, "cls_token_id": 1}
    ids["sep_token_id"] = 2
    options = {**DECODERS.get(family, {}), **ENCODERS.get(family, {}), **ids, "num_labels": 1, **config}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model(family, **options), attn_implementation=attn_implementation
        )
        for parameter in model.parameters():  # far from the small initial weights, so that a wrong layout shows
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.3)
    return TransformerBackbone(model.eval(), tokenizer, max_length, layout, name=f"tiny-{family}")


tiny_llama = functools.partial(tiny_backbone, "llama")
tiny_gpt2 = functools.partial(tiny_backbone, "gpt2")
tiny_bert = functools.partial(tiny_backbone, "bert")
