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
    return LocalModel(LlamaForCausalLM(config), tokenizer, "tiny", batch_size=2)


def texts(groups) -> list[list[str]]:
    return [[answer.text for answer in group] for group in groups]


PROMPTS = ["a small text", "another", [{"role": "user", "content": "text?"}]]


def test_n_samples_for_each_prompt_in_order(model: LocalModel) -> None:
    found = texts(model.generate(PROMPTS, 3, max_new_tokens=6))
    assert [len(group) for group in found] == [3, 3, 3]
    assert len({text for group in found for text in group}) > 3


def test_sharing_the_prompt_changes_nothing(model: LocalModel) -> None:
    greedy = texts(model.generate(PROMPTS, 1, temperature=0, max_new_tokens=8))
    # At a temperature near 0 every sample is the greedy one; several samples go through the shared cache.
    nearly = texts(model.generate(PROMPTS, 3, temperature=1e-4, max_new_tokens=8))
    assert nearly == [group * 3 for group in greedy]


def test_the_seed_decides(model: LocalModel) -> None:
    first, again, other = (texts(model.generate(PROMPTS, 2, max_new_tokens=8, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_impossible_settings_are_refused(model: LocalModel) -> None:
    with pytest.raises(ValueError, match="temperature"):
        next(model.generate(["a"], 2, temperature=0))
    with pytest.raises(ValueError, match="no causal language model"):
        LocalModel.from_pretrained("/nowhere/at/all")


def alone(model: LocalModel, prompts: list, **options) -> list:
    return [answer for prompt in prompts for (answer,) in model.generate([prompt], 1, temperature=0, **options)]


def test_a_shared_beginning_is_encoded_once_and_changes_nothing(model: LocalModel, monkeypatch) -> None:
    instruction = "judge with care what stands below, and say no more than is asked. "
    prompts = [
        [{"role": "user", "content": instruction + text}]
        for text in ("a", "a much longer question than the others", "text", "so", "b?", "one more", "c")
    ]
    expected = [answer.text for answer in alone(model, prompts, max_new_tokens=8)]
    seen = []
    forward = model.model.forward

    def counting(*args, **options):
        ids = args[0] if args else options["input_ids"]
        seen.append(tuple(ids.shape))
        return forward(*args, **options)

    monkeypatch.setattr(model.model, "forward", counting)
    monkeypatch.setattr(model, "batch_size", 4)
    together = texts(model.generate(prompts, 1, temperature=0, max_new_tokens=8))
    assert [group[0] for group in together] == expected
    long = [shape for shape in seen if shape[1] > 40]
    assert long and all(rows == 1 for rows, _ in long)  # the instruction went through in one row per batch


def test_stop_texts_end_an_answer_and_are_left_out(model: LocalModel) -> None:
    (free,) = alone(model, ["a small text"], max_new_tokens=12)
    word = free.text[3:5]
    (cut,) = alone(model, ["a small text"], max_new_tokens=12, stop=[word])
    assert cut.text == free.text[: free.text.index(word)] and cut.finish_reason == "stop"
    assert free.finish_reason == "length"


def test_log_probabilities_are_those_of_the_model(model: LocalModel) -> None:
    ((answer,),) = model.generate(["a small text"], 1, temperature=0, max_new_tokens=3, logprobs=2)
    ids = torch.tensor([model.tokenizer("a small text")["input_ids"]])
    logps = torch.log_softmax(model.model(ids).logits[0, -1].float(), -1)
    assert answer.logprobs is not None and len(answer.logprobs) == 3
    first = answer.logprobs[0]
    assert first.logprob == pytest.approx(logps.max().item(), abs=1e-4)
    assert len(first.top) == 2 and first.top[0] == (first.token, pytest.approx(first.logprob))


def test_usage_counts_what_was_asked(model: LocalModel) -> None:
    before = model.usage.to_dict()
    list(model.generate(PROMPTS, 2, max_new_tokens=4))
    after = model.usage.to_dict()
    assert after["requests"] - before["requests"] == 3 and after["answers"] - before["answers"] == 6
    assert 6 <= after["completion_tokens"] - before["completion_tokens"] <= 24
    assert after["prompt_tokens"] > before["prompt_tokens"] and after["failed"] == 0


def test_no_prompts_no_answers(model: LocalModel) -> None:
    assert list(model.generate([], 2)) == []
