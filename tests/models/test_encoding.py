"""Text to tokens: one BOS, the template's round trip, what is cut and what cannot be scored."""

from __future__ import annotations

import warnings

import pytest
from tiny import tiny_tokenizer

from rewardsmith.models.encoding import TextEncoder, added_special_ids, check_template

PROMPT = [{"role": "user", "content": "Name a color."}]
ANSWER = [{"role": "assistant", "content": "Blue."}]


def encoder(style="llama", max_length=64, **options):
    return TextEncoder(tiny_tokenizer(style), max_length=max_length, **options)


def test_plain_text_is_tokenized_as_a_whole_with_the_tokenizers_special_tokens_and_eos():
    enc = encoder()
    row = enc.encode(["Name a color: "], ["blue"]).items[0]
    assert row.ids == enc.tokenizer("Name a color: blue</s>")["input_ids"]
    assert row.ids.count(1) == 1 and row.ids[-1] == 2 and row.cut == 0
    assert enc.tokenizer.decode(row.ids[row.completion_start :]) == "blue</s>"


@pytest.mark.parametrize("prompt", ["<s>Name a color: ", "Name a color: ", "<s><s>Name a color: "])
def test_there_is_one_bos_however_often_the_text_brings_it(prompt):
    enc = encoder()
    assert enc.encode([prompt], ["blue"]).items[0] == enc.encode(["Name a color: "], ["blue"]).items[0]


def test_eos_is_not_added_twice():
    enc = encoder()
    assert enc.encode(["a "], ["b</s>"]).items == enc.encode(["a "], ["b"]).items


def test_encoders_close_a_text_themselves():
    enc = encoder("bert")
    ids = enc.encode(["a "], ["b"]).items[0].ids
    assert ids == enc.tokenizer("a b")["input_ids"]
    assert (ids[0], ids[-1], ids.count(2)) == (1, 2, 1)


@pytest.mark.parametrize("style", ["llama", "gpt2", "bert"])
def test_a_conversation_is_its_rendered_template_without_further_special_tokens(style):
    enc = encoder(style)
    row = enc.encode([PROMPT], [ANSWER]).items[0]
    text = enc.tokenizer.apply_chat_template(PROMPT + ANSWER, tokenize=False)
    assert row.ids == enc.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert row.ids.count(1) == (0 if style == "gpt2" else 1)
    asked = enc.tokenizer.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True)
    start = enc.tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert row.ids[: len(start)] == start and row.completion_start == len(start)


@pytest.mark.parametrize("style", ["llama", "gpt2", "bert"])
def test_the_default_template_round_trips(style):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_template(encoder(style).tokenizer)


def test_a_template_that_does_not_round_trip_warns_with_its_tokens():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{{ messages|length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}Answer:{% endif %}"
    )
    with pytest.warns(UserWarning, match="does not round-trip"):
        assert not check_template(tokenizer)


def test_a_template_with_two_bos_warns():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "<s><s>{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.warns(UserWarning, match="two BOS"):
        assert not check_template(tokenizer)


def test_a_long_row_loses_the_start_of_its_prompt_and_none_of_its_completion():
    enc = encoder(max_length=24)
    long, short = enc.encode(["Rain falls softly. " * 9 + "Name: "] * 2, ["blue and green", "x"]).items
    whole = encoder(max_length=999).encode(["Rain falls softly. " * 9 + "Name: "], ["blue and green"]).items[0]
    assert len(long.ids) == 24 and long.cut == len(whole.ids) - 24 and short.cut > 0
    assert long.ids[0] == 1, "BOS is kept"
    assert long.ids[1:] == whole.ids[-23:]
    assert long.ids[long.completion_start :] == whole.ids[whole.completion_start :]
    assert enc.encode(["Rain falls softly. " * 9], ["blue"]).truncated == [0]


def test_a_completion_that_does_not_fit_is_a_failure():
    encoded = encoder(max_length=24).encode(["a ", "a "], ["Rain falls softly. " * 9, "b"])
    assert encoded.items[0] is None and encoded.lengths[0] == 0
    assert encoded.failures[0].kind == "too_long" and "max_length is 24" in encoded.failures[0].reason
    assert set(encoded.failures) == {0} and encoded.items[1] is not None


@pytest.mark.parametrize(
    "completion",
    ["", "  \n", None, [], [{"role": "assistant", "content": ""}], [{"role": "assistant", "content": None}]],
)
def test_an_empty_completion_is_a_failure(completion):
    encoded = encoder().encode(["Name a color: "], [completion])
    assert encoded.items == [None] and encoded.failures[0].kind == "empty"


def test_a_tool_call_without_text_is_not_empty():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] or m['tool_calls'] }}{% endfor %}"
    call = [{"role": "assistant", "content": None, "tool_calls": [{"name": "weather"}]}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoded = TextEncoder(tokenizer, max_length=64).encode([PROMPT], [call])
    assert not encoded.failures and "weather" in tokenizer.decode(encoded.items[0].ids)


def test_what_a_template_refuses_is_a_failure_of_its_row():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    enc = TextEncoder(tokenizer, max_length=64)
    encoded = enc.encode([[{"role": "system", "content": "Be kind."}], PROMPT], [ANSWER, ANSWER])
    assert encoded.failures[0].kind == "error" and "no system role" in encoded.failures[0].reason
    assert encoded.items[1] is not None


def test_images_are_a_failure_and_text_parts_are_joined():
    enc = encoder()
    parts = [{"role": "user", "content": [{"type": "text", "text": "Name "}, {"type": "text", "text": "a color."}]}]
    image = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Name a color."}]}]
    encoded = enc.encode([parts, image, PROMPT], [ANSWER] * 3)
    assert encoded.items[0] == encoded.items[2]
    assert encoded.failures[1].kind == "error" and "image" in encoded.failures[1].reason


def test_a_final_token_that_the_model_does_not_see_is_left_out():
    tokenizer = tiny_tokenizer("gpt2")
    seen = TextEncoder(tokenizer, max_length=64).encode(["a "], ["b"]).items[0].ids
    unseen = TextEncoder(tokenizer, max_length=64, ignored_tail=tokenizer.eos_token_id).encode(["a "], ["b"])
    assert unseen.items[0].ids == seen[:-1] and seen[-1] == tokenizer.eos_token_id


def test_prompts_and_completions_must_pair_up():
    with pytest.raises(ValueError, match="2 prompts but 1 completions"):
        encoder().encode(["a", "b"], ["c"])


def test_special_ids_and_template_hash():
    assert added_special_ids(tiny_tokenizer("bert")) == ([1], [2])
    assert added_special_ids(tiny_tokenizer("gpt2")) == ([], [])
    a, b = encoder(), encoder()
    assert a.template_hash == b.template_hash != encoder("gpt2").template_hash
