"""BERTScore with a tiny encoder: closed forms, the cache, what no text may break."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rewardsmith.verifiers.bert_score import BertScore

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat"]


@pytest.fixture(scope="module")
def encoder():
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    return BertModel(config), tokenizer


def test_greedy_matching_by_hand(encoder):
    reward = BertScore(*encoder)
    a, b = "the cat sat", "a cat on the mat"
    vectors = reward.embed([a, b])
    assert vectors[a].shape == (3, 16) and vectors[b].shape == (5, 16)
    similar = vectors[a] @ vectors[b].T
    precision, recall = similar.amax(1).mean().item(), similar.amax(0).mean().item()
    scores = reward.score({"completion": [a, b, ""], "references": [[b]] * 3})
    assert scores.values[0] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)
    assert scores.values[1] == pytest.approx(1, abs=1e-5) and scores.values[2] == 0


def test_the_best_reference_counts_and_batches_change_nothing(encoder):
    texts = ["the cat", "a mat sat on the cat", "cat", "the mat sat"]
    references = [["the cat", "a mat"], ["sat sat"], ["a cat sat on a mat", "cat cat cat"], ["mat"]]
    one = BertScore(*encoder, batch_size=1).score({"completion": texts, "references": references}).values
    many = BertScore(*encoder, batch_size=8).score({"completion": texts, "references": references}).values
    np.testing.assert_allclose(one, many, atol=1e-5)
    alone = [BertScore(*encoder)(["q"], ["the cat"], references=[[text]])[0] for text in references[0]]
    assert one[0] == pytest.approx(max(alone), abs=1e-5)


def test_references_are_encoded_once(encoder, monkeypatch):
    reward = BertScore(*encoder)
    asked = []
    embed = reward.embed
    monkeypatch.setattr(reward, "embed", lambda texts: asked.extend(texts) or embed(texts))
    for text in ("the cat", "a mat"):
        reward.score({"completion": [text], "references": [["on the mat"]]})
    assert asked == ["on the mat", "the cat", "a mat"]


def test_garbage_is_scored_and_an_empty_reference_is_a_failure(encoder):
    garbage = ["\ud800", "", None, "the " * 500, "😀", [{"role": "assistant", "content": None}]]
    scores = BertScore(*encoder).score({"completion": garbage, "references": [["the cat"]] * 6})
    assert scores.ok.all() and (np.abs(scores.values) <= 1 + 1e-6).all()
    assert BertScore(*encoder).score({"completion": ["a"], "references": [[""]]}).failures[0].kind == "empty"
