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


def test_a_stop_text_ends_one_row_of_a_batch(model: LocalModel) -> None:
    free = alone(model, PROMPTS, max_new_tokens=12, logprobs=1)
    word = free[0].text[3:5]
    options = {"max_new_tokens": 12, "stop": [word], "logprobs": 1}
    together = [group[0] for group in model.generate(PROMPTS, 1, temperature=0, **options)]
    for whole, cut in zip(free, together):
        at = whole.text.find(word)
        assert cut.text == (whole.text[:at] if at >= 0 else whole.text)
        assert whole.logprobs is not None and cut.logprobs is not None
        # The tokens end with the one that completes the stop text; padding is none of them.
        assert [token.token for token in cut.logprobs] == [token.token for token in whole.logprobs[: len(cut.logprobs)]]
        assert (len(cut.logprobs) < 12) == (at >= 0) == (cut.finish_reason == "stop")


def test_log_probabilities_are_of_the_tokens_that_were_sampled(model: LocalModel) -> None:
    (group,) = model.generate(["a small text"], 8, temperature=3.0, max_new_tokens=2, logprobs=1)
    ids = torch.tensor([model.tokenizer("a small text")["input_ids"]])
    logps = torch.log_softmax(model.model(ids).logits[0, -1].float(), -1).tolist()
    by_text: dict[str, list[float]] = {}
    for token, value in enumerate(logps):
        by_text.setdefault(model.tokenizer.decode([token]), []).append(value)
    firsts = [answer.logprobs[0] for answer in group if answer.logprobs]
    assert len({token.token for token in firsts}) > 2
    for token in firsts:  # before the temperature; halves of characters look alike
        assert min(abs(token.logprob - value) for value in by_text[token.token]) < 1e-4
        assert token.top[0][1] == pytest.approx(max(logps), abs=1e-4)


def test_the_random_numbers_of_the_caller_stay(model: LocalModel) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(model.generate(["a"], 2, max_new_tokens=3))
    assert torch.equal(torch.rand(2), expected)


def test_a_prompt_that_cannot_be_asked_costs_the_others_nothing(model: LocalModel) -> None:
    failed = model.usage.failed
    prompts = ["a small text", "", "long " * 2000, [{"role": "user"}], "another"]
    found = list(model.generate(prompts, 2, max_new_tokens=3))
    assert [all(answer.error is None for answer in group) for group in found] == [True, False, False, False, True]
    assert "no tokens" in str(found[1][0].error) and "more than the 2048" in str(found[2][0].error)
    assert model.usage.failed - failed == 6


def test_a_model_that_was_trained_on_is_another_one(model: LocalModel) -> None:
    before = model.fingerprint()
    assert model.fingerprint() == before
    weight = model.model.lm_head.weight
    with torch.no_grad():
        weight[5, 3] += 1e-4
    changed = model.fingerprint()
    with torch.no_grad():
        weight[5, 3] -= 1e-4
    assert changed["weights"] != before["weights"] and {**changed, "weights": 0} == {**before, "weights": 0}
