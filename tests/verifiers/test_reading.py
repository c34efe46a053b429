"""Tool calls, tagged blocks and text are read from every format, and nothing a model writes makes the reader raise."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.verifiers.reading import (
    MAX_DEPTH,
    ToolCall,
    assistant_text,
    read_json,
    read_tool_calls,
    reasoning_text,
    shown,
    tagged,
    without_thinking,
)

WEATHER = ToolCall("weather", {"city": "Paris", "days": 2})
CALL = '{"name": "weather", "arguments": {"city": "Paris", "days": 2}}'
PARAMETERS = CALL.replace("arguments", "parameters")
OPENAI = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris", "days": 2}'}}


@pytest.mark.parametrize(
    ("completion", "count", "format"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", 1, "tags"),
        (f"Let me see.\n<tool_call>{CALL}</tool_call>\n<tool_call>\n{CALL}\n</tool_call>", 2, "tags"),
        (f"<think>hm</think>\n<tool_call>\n{PARAMETERS}\n{PARAMETERS}\n</tool_call>", 2, "tags"),
        (f"<tool_call>[{CALL}, {CALL}]</tool_call>", 2, "tags"),
        (f"<tool_call>\n{json.dumps(json.loads(CALL), indent=2)}\n</tool_call>", 1, "tags"),
        (f"<|python_tag|>{PARAMETERS}<|eom_id|>", 1, "marker"),
        (f"<|python_tag|>{PARAMETERS}; {PARAMETERS}<|eot_id|>", 2, "marker"),
        (f"[TOOL_CALLS] [{CALL}]</s>", 1, "marker"),
        (CALL, 1, "json"),
        (f"<think>so</think>\n[{CALL}, {PARAMETERS}]", 2, "json"),
        ([{"role": "assistant", "content": None, "tool_calls": [OPENAI, OPENAI]}], 2, "openai"),
        ([{"role": "assistant", "tool_calls": [{"name": "weather", "arguments": WEATHER.arguments}]}], 1, "openai"),
        (
            [
                {"role": "assistant", "content": "", "tool_calls": [OPENAI]},
                {"role": "tool", "content": CALL},
                {"role": "assistant", "content": "Sunny.", "tool_calls": None},
            ],
            1,
            "openai",
        ),
        ([{"role": "assistant", "content": f"<tool_call>{CALL}</tool_call>"}], 1, "tags"),
    ],
)
def test_each_format_gives_the_same_call(completion, count, format):
    read = read_tool_calls(completion)
    assert read.calls == [WEATHER] * count
    assert read.problem is None
    assert read.format == format


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "Sunny.",
        "[1] Smith says so",
        '{"name": "Bob", "age": 3}',
        None,
        [],
        [{"role": "assistant", "content": None}],
    ],
)
def test_text_without_calls_has_none_and_no_problem(completion):
    read = read_tool_calls(completion)
    assert (read.calls, read.problem, read.format) == ([], None, "none")


@pytest.mark.parametrize(
    ("completion", "words"),
    [
        (f"<tool_call>\n{CALL}", "not closed"),
        (f"<tool_call>{CALL[:-1]}</tool_call>", "call 1"),
        (f"<tool_call>{CALL}\n{{oops</tool_call>", "call 2"),
        ("<tool_call></tool_call>", "nothing"),
        ('<tool_call>{"arguments": {}}</tool_call>', "no 'name'"),
        ('<tool_call>{"name": ["f"], "arguments": {}}</tool_call>', "no string"),
        ('<tool_call>{"name": "f"}</tool_call>', "no 'arguments' or 'parameters'"),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "list"),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', "NoneType"),
        ('<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>', "NaN"),
        ('<tool_call>{"name": "f", "arguments": {"x": -Infinity}}</tool_call>', "Infinity"),
        ('<tool_call>{"name": "f", "arguments": {"x": ' + "9" * 9999 + "}}</tool_call>", "call 1"),
        ('<tool_call>{"name": "f", "arguments": {"x": ' + "[" * 200 + "]" * 200 + "}}</tool_call>", "deep"),
        ('<tool_call>{"name": "f", "arguments": {"x": ' + "[" * 100_000 + "]" * 100_000 + "}}</tool_call>", "deep"),
        ('<tool_call>{"name": "f", "arguments": ' + '{"a":' * 100_000 + "</tool_call>", "deep"),
        ("<tool_call>7</tool_call>", "object"),
        ([{"role": "assistant", "tool_calls": "f()"}], "no list"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}], "no JSON"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": {1, 2}}}]}], "call 1"),
    ],
)
def test_what_cannot_be_read_is_named(completion, words):
    problem = read_tool_calls(completion).problem
    assert problem is not None and words in problem and "\n" not in problem


def test_calls_before_a_broken_one_are_kept():
    assert read_tool_calls(f"<tool_call>{CALL}\n{{oops</tool_call>").calls == [WEATHER]


def test_no_arguments_in_openai_form():
    messages = [{"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": ""}}]}]
    assert read_tool_calls(messages).calls == [ToolCall("now", {})]


def test_of_equal_keys_the_last_counts():
    assert read_json('{"a": 1, "a": 2}') == {"a": 2}


def test_depth_is_counted_not_brackets():
    assert read_json("[" + "[]," * 500 + "[]]")[0] == []
    assert read_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="deep"):
        read_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    with pytest.raises(ValueError, match="more after"):
        read_json("{} {}")


def test_assistant_text():
    assert assistant_text("as it is ") == "as it is "
    assert assistant_text(None) == ""
    messages = [
        {"role": "assistant", "content": "one"},
        {"role": "tool", "content": "not this"},
        {"role": "assistant", "content": [{"type": "text", "text": "two"}, {"type": "image"}, 3]},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": 5},
    ]
    assert assistant_text(messages) == "one\n\ntwo"


def test_tagged():
    assert tagged("<a> 1 </a> <b>no</b> <a>\n2\n</a> <a>open", "a") == ["1", "2"]
    assert tagged("</a><a>", "a") == []


def test_reasoning():
    assert reasoning_text("<think> hm </think> yes") == "hm"
    assert reasoning_text("yes") is None
    assert reasoning_text([{"role": "assistant", "content": "yes", "reasoning_content": "hm"}]) == "hm"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain", "plain"),
        ("<think>a <tool_call> tag</think>\nhere", "\nhere"),
        ("opened in the prompt</think>here", "here"),
        ("before<think>a</think>, <think>b</think>after", "before, after"),
        ("<think>never closed", "<think>never closed"),
        ("<think>a</think>x</think>y", "xy"),
    ],
)
def test_without_thinking(text, said):
    assert without_thinking(text) == said


def test_calls_in_a_thought_are_none():
    assert read_tool_calls(f"<think><tool_call>{CALL}</tool_call></think>No.").calls == []
    mentioned = read_tool_calls(f"<think>within <tool_call> tags</think><tool_call>{CALL}</tool_call>")
    assert (mentioned.calls, mentioned.problem) == ([WEATHER], None)


def test_shown_can_always_be_written():
    assert shown("é") == '"é"'
    assert len(shown("x" * 1000)) == 80
    for value in ("\ud800", {"\udfff": 1}, {1, 2}, 10**5000, object()):
        assert shown(value).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
pieces = st.sampled_from(
    ["<tool_call>", "</tool_call>", "<think>", "</think>", "\n", "<|python_tag|>", "[TOOL_CALLS]", "{", "[", "}", "]"]
    + ['"name"', ":", '"f"', ",", '"parameters"', "NaN", "1e999", CALL, "\ud800", ";"]
)
garbage = st.lists(pieces | st.text(st.characters(), max_size=5), max_size=15).map("".join)
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["assistant", "tool", None, 3]),
            "content": json_values,
            "tool_calls": json_values
            | st.lists(st.fixed_dictionaries({"name": json_values, "arguments": json_values}), max_size=2),
        },
    )
    | json_values,
    max_size=3,
)


@given(garbage | messages | json_values)
@settings(max_examples=300)
def test_nothing_raises_and_all_calls_are_calls(completion):
    read = read_tool_calls(completion)
    assistant_text(completion)
    reasoning_text(completion)
    assert read.problem is None or "\n" not in read.problem
    assert all(isinstance(call.name, str) and isinstance(call.arguments, dict) for call in read.calls)


@given(st.text(), st.dictionaries(st.text(), json_values.filter(lambda v: v == v and "inf" not in repr(v)), max_size=3))
def test_a_written_call_is_read_back(name, arguments):
    try:
        text = json.dumps({"name": name, "arguments": arguments}, allow_nan=False)
    except ValueError:
        return
    expected = ToolCall(name, json.loads(json.dumps(arguments)))
    if "</tool_call>" not in text:
        assert read_tool_calls(f"<tool_call>\n{text}\n</tool_call>").calls == [expected]
