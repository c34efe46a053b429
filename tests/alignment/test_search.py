"""Beam search: transformers' own on tiny models, brute force in exact worlds; states that branch; beams as answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from rewardsmith.alignment.search import BeamModel, CausalPolicy, beam_search, sample_texts
from rewardsmith.chat.local import LocalModel
from rewardsmith.worlds.token_mdp import TabularPolicy, TokenMDP

EOS, PAD, VOCAB = 1, 0, 24


def tiny(kind: str, ends: int | list[int] = EOS):
    """A small model with attention to all, to a window (Mistral), or mixed with convolutions (LFM2)."""
    torch.manual_seed(3)
    special = {"vocab_size": VOCAB, "bos_token_id": 2, "eos_token_id": ends, "pad_token_id": PAD}
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **special))
    elif kind == "mistral":
        model = MistralForCausalLM(MistralConfig(sliding_window=4, **sizes, **special))
    elif kind == "lfm2":
        model = Lfm2ForCausalLM(Lfm2Config(layer_types=["conv", "full_attention"], **sizes, **special))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, **special))
    # Weights this large make a distribution worth searching.
    for parameter in model.parameters():
        parameter.data.mul_(4.0 if parameter.dim() == 2 else 1.0)
    return model.eval()


PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 4], [3], [20, 3, 3, 3]]


def model_ends(model):
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


def by_transformers(model, prompt, width, longest, **options):
    out = model.generate(
        torch.tensor([prompt]),
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=longest,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        pad_token_id=PAD,
        **options,
    )
    texts = []
    for row in out.sequences[:, len(prompt) :].tolist():
        ends = [place for place, token in enumerate(row) if token in model_ends(model)]
        texts.append(tuple(row[: ends[0] + 1] if ends else row))
    return texts, out.sequences_scores.tolist()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize(
    "options",
    [
        {"length_penalty": 0.0},
        {"length_penalty": 0.0, "early_stopping": True},
        {"length_penalty": 1.0},
    ],
)
def test_same_texts_and_scores_as_transformers(kind, width, options):
    model = tiny(kind)
    found = beam_search(CausalPolicy(model), PROMPTS, width, 9, **options)
    lengths = set()
    for prompt, beams in zip(PROMPTS, found):
        texts, scores = by_transformers(model, prompt, width, 9, **options)
        assert [beam.ids for beam in beams] == texts
        assert [beam.score for beam in beams] == pytest.approx(scores, abs=1e-4)
        assert all(beam.ended == (beam.ids[-1] == EOS) for beam in beams)
        lengths |= {len(beam.ids) for beam in beams}
    if options["length_penalty"] == 0:
        assert len(lengths) > 1, "texts of one length alone would leave the stopping rule untested"


def test_two_end_tokens_as_transformers():
    model = tiny("llama", [EOS, 7])
    found = beam_search(CausalPolicy(model), PROMPTS, 3, 9)
    for prompt, beams in zip(PROMPTS, found):
        texts, scores = by_transformers(model, prompt, 3, 9, length_penalty=0.0)
        assert [beam.ids for beam in beams] == texts
        assert [beam.score for beam in beams] == pytest.approx(scores, abs=1e-4)


def test_width_one_is_greedy():
    model = tiny("gpt2")
    for prompt, (beam,) in zip(PROMPTS, beam_search(CausalPolicy(model), PROMPTS, 1, 6)):
        out = model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=PAD)
        assert list(beam.ids) == out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "lfm2"])
def test_states_stay_as_they_were_and_branch(kind):
    model = tiny(kind)
    policy = CausalPolicy(model)
    first, root = policy.start(PROMPTS[:2])
    tree = {}
    for token in (4, 9):  # twice from one state
        tree[token] = policy.step(root, torch.tensor([1, 1, 0]), torch.tensor([token, 5, token]))
    deeper, _ = policy.step(tree[4][1], torch.tensor([2, 0]), torch.tensor([13, 14]))
    expected = [PROMPTS[0] + [4, 13], PROMPTS[1] + [4, 14]]
    for logps, row in [*zip(first, PROMPTS[:2]), *zip(deeper, expected), (tree[9][0][1], PROMPTS[1] + [5])]:
        alone = torch.log_softmax(model(torch.tensor([row])).logits[0, -1], -1)
        torch.testing.assert_close(logps, alone, atol=1e-4, rtol=1e-4)


def test_log_probabilities_of_tokens_sum_to_the_score():
    for beam in beam_search(CausalPolicy(tiny("llama")), PROMPTS, 4, 7)[1]:
        assert len(beam.logps) == len(beam.ids)
        assert beam.score == pytest.approx(beam.logps.sum(), abs=1e-5)


def objectives(world: TokenMDP, logps: torch.Tensor, width: int) -> torch.Tensor:
    prompts = range(len(world.rewards))
    found = beam_search(TabularPolicy(logps), prompts, width, world.horizon)
    return world.objective(prompts, torch.tensor([beams[0].ids for beams in found]))


def test_likely_text_under_the_optimal_policy_is_text_of_high_reward():
    # Rafailov et al. 2024, section 4.3: 100 exact worlds; wider beams find more, the widest finds the optimum.
    world = TokenMDP.random(prompts=100, vocab=4, horizon=5, beta=0.5, seed=0)
    logps = world.solve().logps
    best = (world.on_texts(world.rewards) + world.beta * world.on_texts(world.ref_logps)).sum(-1).amax(1)
    found = {width: objectives(world, logps, width) for width in (1, 2, 5, 4**4)}
    means = [float(values.mean()) for values in found.values()]
    assert means == sorted(means)
    solved = {width: int((best - values < 1e-9).sum()) for width, values in found.items()}
    assert solved[5] > solved[1]
    assert solved[4**4] == 100


def test_partial_texts_rank_by_reward_so_far_and_value_to_go():
    world = TokenMDP.random(prompts=1, vocab=3, horizon=3, beta=0.5, seed=2)
    solution = world.solve()
    beam = beam_search(TabularPolicy(solution.logps), [0], 9, 2)[0]  # all texts of two tokens
    assert len(beam) == 9
    for one in beam:
        a, b = one.ids
        so_far = world.rewards[0, 0, a] + world.beta * world.ref_logps[0, 0, a]
        so_far += world.rewards[0, 1 + a, b] + world.beta * world.ref_logps[0, 1 + a, b]
        to_go = solution.values[0, (1 + a) * 3 + 1 + b] - solution.values[0, 0]
        assert world.beta * one.score == pytest.approx(float(so_far + to_go), abs=1e-10)


def test_texts_that_end_early_compete_by_their_sum():
    # One row of probabilities at every prefix: 0 ends the text.
    row = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    policy = TabularPolicy(row.expand(1, 13, 3), end_ids=(0,))
    found = beam_search(policy, [0], 3, 3)[0]
    assert [beam.ids for beam in found] == [(0,), (1, 0), (2, 0)]
    assert np.exp([beam.score for beam in found]).tolist() == pytest.approx([0.5, 0.15, 0.1])


def test_no_text_of_probability_zero():
    row = torch.tensor([0.0, 0.25, 0.75], dtype=torch.float64).log()
    found = beam_search(TabularPolicy(row.expand(1, 4, 3)), [0], 9, 2)[0]
    assert [beam.ids for beam in found[::3]] == [(2, 2), (1, 1)]
    assert {beam.ids for beam in found[1:3]} == {(1, 2), (2, 1)}


def test_drawn_texts_come_as_often_as_they_are_likely():
    world = TokenMDP.random(prompts=2, vocab=3, horizon=2, beta=1.0, seed=4)
    drawn = sample_texts(TabularPolicy(world.ref_logps), [1, 0], 5000, 2, seed=1)
    likelihood = world.on_texts(world.ref_logps).sum(-1)
    for prompt, texts in zip([1, 0], drawn):
        numbers = np.array([text.ids for text in texts]) @ [3, 1]
        shares = np.bincount(numbers, minlength=9) / len(texts)
        np.testing.assert_allclose(shares, likelihood[prompt].exp().numpy(), atol=0.03)
        assert texts[0].score == pytest.approx(float(likelihood[prompt, numbers[0]]))


def test_drawn_texts_of_a_transformer_end_where_they_end():
    model = tiny("llama")
    drawn = sample_texts(CausalPolicy(model), PROMPTS[:2], 12, 8, seed=0)
    assert {text.ended for group in drawn for text in group} == {True, False}
    for prompt, group in zip(PROMPTS, drawn):
        for text in group:
            assert text.ended == (text.ids[-1] == EOS) and EOS not in text.ids[:-1]
            assert text.ended or len(text.ids) == 8
            logps = torch.log_softmax(model(torch.tensor([prompt + list(text.ids)])).logits[0], -1)
            alone = logps[len(prompt) - 1 : -1].gather(1, torch.tensor(text.ids)[:, None])[:, 0]
            np.testing.assert_allclose(text.logps, alone.detach().numpy(), atol=1e-4)
    again = sample_texts(CausalPolicy(model), PROMPTS[:2], 12, 8, seed=0)
    assert [text.ids for text in again[1]] == [text.ids for text in drawn[1]]


@pytest.fixture(scope="module")
def local():
    words = ["<pad>", "<eos>", "<bos>", *(f"w{i}" for i in range(3, VOCAB))]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    return LocalModel(tiny("llama"), tokenizer, "tiny")


def test_beams_as_answers_of_a_chat_model(local):
    model = BeamModel(local, width=3, batch_size=2)
    prompts = ["w5 w6 w7", "w8 w9", "w3"]
    answers = list(model.generate(prompts, 2, max_new_tokens=6, logprobs=1))
    assert [len(group) for group in answers] == [2, 2, 2]
    beams = beam_search(CausalPolicy(local.model), [[8, 9]], 3, 6)[0]
    for answer, beam in zip(answers[1], beams):
        assert answer.text == local.tokenizer.decode(beam.ids, skip_special_tokens=True)
        assert answer.finish_reason == ("stop" if beam.ended else "length")
        assert sum(token.logprob for token in answer.logprobs) == pytest.approx(beam.score, abs=1e-4)
    assert model.usage.requests == 3 and model.usage.answers == 6 and model.usage.prompt_tokens == 6
    assert model.fingerprint() == BeamModel(local, width=3).fingerprint() != BeamModel(local, width=4).fingerprint()


def test_arguments_out_of_range_are_refused(local):
    with pytest.raises(ValueError, match="n must be between 1 and the width of the beam, 3, got 4"):
        BeamModel(local, width=3).generate(["w3"], 4)
    with pytest.raises(ValueError, match="stop must be empty"):
        BeamModel(local).generate(["w3"], stop=["\n"])
    with pytest.raises(ValueError, match="at least 1, got 0 and 4"):
        beam_search(CausalPolicy(local.model), [[3]], 0, 4)
    with pytest.raises(ValueError, match="prompt 1 has no token"):
        beam_search(CausalPolicy(local.model), [[3], []], 2, 4)
    with pytest.raises(ValueError, match="temperature above 0, got 1, 4 and 0"):
        sample_texts(CausalPolicy(local.model), [[3]], 1, 4, temperature=0)
    assert beam_search(CausalPolicy(local.model), [], 2, 4) == sample_texts(CausalPolicy(local.model), [], 2, 4) == []
