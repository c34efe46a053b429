"""Sampling from a local model: order, number, seeds, and the same tokens with and without the shared prompt cache."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rewardsmith.chat.local import LocalModel


@pytest.fixture(scope="module")
def model() -> LocalModel:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["a small text"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config.num_attention_heads, config.num_key_value_heads, config.eos_token_id = 4, 4, 1
    return LocalModel(LlamaForCausalLM(config), tokenizer, "tiny")


PROMPTS = ["a small text", "another", [{"role": "user", "content": "text?"}]]


def test_n_samples_for_each_prompt_in_order(model: LocalModel) -> None:
    found = list(model.generate(PROMPTS, 3, max_new_tokens=6, batch_size=2))
    assert [len(group) for group in found] == [3, 3, 3]
    assert len({text for group in found for text in group}) > 3


def test_sharing_the_prompt_changes_nothing(model: LocalModel) -> None:
    greedy = list(model.generate(PROMPTS, 1, temperature=0, max_new_tokens=8))
    # At a temperature near 0 every sample is the greedy one; several samples go through the shared cache.
    nearly = list(model.generate(PROMPTS, 3, temperature=1e-4, max_new_tokens=8))
    assert nearly == [group * 3 for group in greedy]


def test_the_seed_decides(model: LocalModel) -> None:
    first, again, other = (list(model.generate(PROMPTS, 2, max_new_tokens=8, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_impossible_settings_are_refused(model: LocalModel) -> None:
    with pytest.raises(ValueError, match="temperature"):
        next(model.generate(["a"], 2, temperature=0))
    with pytest.raises(ValueError, match="no causal language model"):
        LocalModel.from_pretrained("/nowhere/at/all")
