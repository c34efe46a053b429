"""ToolRL's reward: hand numbers, properties on random calls, real gold answers, and nothing raises on garbage."""

from __future__ import annotations

import json
import lzma
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardsmith.reward import Reward
from rewardsmith.verifiers.reading import ToolCall
from rewardsmith.verifiers.tool_calls import (
    GoldTurn,
    ToolCallReward,
    format_problem,
    match_calls,
    multiset_jaccard,
    ranges_at,
    read_gold,
    thought_length,
)

PARIS = {"name": "w", "parameters": {"city": "Paris", "unit": "C"}}


def turn(*calls: dict, think: str = "hm", response: str | None = None) -> str:
    """A completion in ToolRL's format."""
    text = f"<think>{think}</think>"
    if calls:
        text += "\n<tool_call>\n" + "\n".join(map(json.dumps, calls)) + "\n</tool_call>"
    return text if response is None else f"{text}\n<response>{response}</response>"


def correctness(completion, gold, **options) -> float:
    batch = {"prompt": ["p"], "completion": [completion], "tool_calls": [gold]}
    return float(ToolCallReward(**options).score(batch).parts["correctness"][0])


def call(name: str, **parameters) -> dict:
    return {"name": name, "parameters": parameters}


@pytest.mark.parametrize(
    ("predicted", "value"),
    [
        ([PARIS], 3.0),
        ([call("w", city="Paris", unit="F")], 1.5),
        ([call("w", city="Paris")], 0.75),
        ([PARIS, call("other")], 2.25),
        ([call("v", city="Paris", unit="C")], -3.0),
    ],
)
def test_hand_numbers(predicted, value):
    assert correctness(turn(*predicted), [PARIS]) == pytest.approx(value)


def test_malformed_calls_get_the_lowest():
    for block in ("{oops", '{"name": "w"}', '{"parameters": {}}', "[]", "7", "", json.dumps(PARIS) + "\n\n{}"):
        text = f"<think>hm</think>\n<tool_call>\n{block}\n</tool_call>"
        assert correctness(text, [PARIS]) == -3.0
    assert correctness("<think>hm</think>", [PARIS]) == -3.0
    # Not the paper's form: under `any` it is one.
    text = turn({"name": "w", "arguments": PARIS["parameters"]})
    assert correctness(text, [PARIS]) == -3.0
    assert correctness(text, [PARIS], format="any") == 3.0


def test_order_of_calls_and_double_matches():
    gold = [call("f", a=1), call("g")]
    assert correctness(turn(call("g"), call("f", a=1)), gold) == 3.0
    # S = 1/3 (names f, f against f, g) + 2 (f) + 0 (g, which nobody called); S_max = 1 + 2 + 1.
    assert correctness(turn(call("f", a=1), call("f", a=1)), gold) == pytest.approx(6 * (1 / 3 + 2) / 4 - 3)
    # One gold call takes one of two identical calls: S = 1/2 + 2, S_max = 3.
    assert correctness(turn(call("f", a=1), call("f", a=1)), [call("f", a=1)]) == pytest.approx(2.0)


def test_values_are_equal_as_in_python():
    assert correctness(turn(call("f", a=1.0)), [call("f", a=1)]) == 3.0
    assert correctness(turn(call("f", a="1")), [call("f", a=1)]) == pytest.approx(6 * 2 / 3 - 3)
    assert correctness(turn(call("f", a={"y": 2, "x": 1})), [call("f", a={"x": 1, "y": 2})]) == 3.0


def test_jaccard_of_multisets():
    assert multiset_jaccard([], []) == 1
    assert multiset_jaccard(["a"], []) == 0
    assert multiset_jaccard(["a", "a", "b"], ["a", "b", "b"]) == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("granularity", "swapped", "keys", "value"),
    # Gold f(a=1, b=2), g(): S_max = 1 + 3 + 1 = 5, and 3 for intermediate. `keys`: b is missing, `value`: b is 3.
    [
        ("default", 3.0, 6 * (1 + 0.5 + 1 + 1) / 5 - 3, 6 * 4 / 5 - 3),
        ("strict", 6 * 4 / 5 - 3, 6 * (1 + 0 + 1 + 1) / 5 - 3, 6 * 4 / 5 - 3),
        ("intermediate", 3.0, 6 * 2 / 3 - 3, 6 * 2 / 3 - 3),
        ("coarse", 3.0, -3.0, -3.0),
    ],
)
def test_granularities(granularity, swapped, keys, value):
    gold = [call("f", a=1, b=2), call("g")]
    assert correctness(turn(*gold), gold, granularity=granularity) == 3.0
    assert correctness(turn(call("f", b=2, a=1), call("g")), gold, granularity=granularity) == 3.0
    assert correctness(turn(*gold[::-1]), gold, granularity=granularity) == pytest.approx(swapped)
    assert correctness(turn(call("f", a=1), call("g")), gold, granularity=granularity) == pytest.approx(keys)
    assert correctness(turn(call("f", a=1, b=3), call("g")), gold, granularity=granularity) == pytest.approx(value)


CALLS = "<tool_call>\n{}\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "calls", "response", "good"),
    [
        (f"<think>x</think>\n{CALLS}", True, False, True),
        (f"  <think>x\ny</think>\n{CALLS}\n", True, False, True),
        (f"<think>in <tool_call> tags, no <response></think>\n{CALLS}", True, False, True),
        (f"{CALLS}\n<think>x</think>", True, False, False),
        (f"<think>x</think>\n{CALLS}\n{CALLS}", True, False, False),
        (f"<think>x</think>\n{CALLS} so", True, False, False),
        (f"<think>x</think> {CALLS}", True, False, False),
        (f"<think>x</think>so\n{CALLS}", True, False, False),
        ("<think>x</think>\n<tool_call>{}</tool_call>", True, False, False),
        ("<think>x</think>\n<tool_call>\n</tool_call>", True, False, False),
        (f"<think>x\n{CALLS}", True, False, False),
        (f"<think>x</think>\n{CALLS}\n<response>y</response>", True, False, False),
        (f"<think>x</think>\n{CALLS}\n<response>y</response>", True, True, True),
        (f"<think>x</think>\n<response>y</response>\n{CALLS}", True, True, False),
        (f"<think>x</think>\n{CALLS}", True, True, False),
        ("<think>x</think>\n<response>y\nz</response>", False, True, True),
        ("<think>x</think>\n<response>y</response> z", False, True, False),
        ("<think>x</think>\n<response>y</response><response>y</response>", False, True, False),
        (f"<think>x</think>\n{CALLS}\n<response>y</response>", False, True, False),
        ("<think>x</think>", False, False, True),
        ("<think>x</think> y", False, False, False),
        ("x</think>", False, False, False),
        ("", False, True, False),
    ],
)
def test_format(text, calls, response, good):
    problem = format_problem(text, calls, response)
    assert (problem is None) is good
    batch = {"prompt": ["p"], "completion": [text], "tool_calls": [[PARIS] * calls], "expects_response": [response]}
    scores = ToolCallReward().score(batch)
    assert scores.parts["format"][0] == good
    assert scores.details[0]["format"] == problem


def test_without_gold_calls_only_the_format_counts():
    batch = {"prompt": ["p"] * 2, "completion": [turn(response="yes"), turn(PARIS)], "tool_calls": [[], []]}
    scores = ToolCallReward().score(batch)
    assert scores.values.tolist() == [1.0, 0.0]
    assert scores.parts["correctness"].tolist() == [0.0, 0.0]


def test_any_format():
    gold = [{"name": "w", "arguments": PARIS["parameters"]}]
    function = {"name": "w", "arguments": json.dumps(PARIS["parameters"])}
    right = [
        [{"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]}],
        f"Let me see.\n<tool_call>{json.dumps(gold[0])}</tool_call>",
        json.dumps(gold),
        "<|python_tag|>" + json.dumps(PARIS),
        turn(PARIS),
    ]
    wrong = ["It is sunny.", f"<think>open\n<tool_call>{json.dumps(PARIS)}</tool_call>", "<tool_call>{}</tool_call>"]
    batch = {"prompt": ["p"] * 8, "completion": right + wrong, "tool_calls": [gold] * 8}
    scores = ToolCallReward(format="any").score(batch)
    assert scores.values[:5].tolist() == [4.0] * 5
    assert scores.parts["format"][5:].tolist() == [0.0] * 3
    assert [detail["format"] for detail in scores.details[5:7]] == [
        "there is no call where one is due",
        "<think> is not closed",
    ]
    chat = [{"role": "assistant", "content": "It is sunny."}]
    spoken = {"prompt": ["p"] * 3, "completion": [chat, right[0], "<think>hm</think>"], "tool_calls": [[]] * 3}
    assert ToolCallReward(format="any").score(spoken).values.tolist() == [1.0, 0.0, 0.0]


def test_toolrl_format_says_where_openai_calls_are():
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "w", "arguments": "{}"}}]}
    scores = ToolCallReward().score({"prompt": ["p"], "completion": [[message]], "tool_calls": [[PARIS]]})
    assert scores.values[0] == -3.0
    assert "format='any'" in scores.details[0]["problem"]


def test_details_say_why():
    predicted = [call("x"), {"name": "w", "parameters": {"city": "Rome", "days": 3}}]
    scores = ToolCallReward().score({"prompt": ["p"], "completion": [turn(*predicted)], "tool_calls": [[PARIS]]})
    assert scores.details == [
        {
            "format": None,
            "problem": None,
            "calls": [
                {
                    "name": "w",
                    "matched": 1,
                    "points": pytest.approx(1 / 3),
                    "missing": ["unit"],
                    "extra": ["days"],
                    "wrong": {"city": '"Rome", not "Paris"'},
                }
            ],
            "unmatched": ["x"],
        }
    ]


def test_length():
    words = "<think> " + "word " * 256 + "</think>\n<response>y</response>"
    batch = {"prompt": ["p"] * 2, "completion": [words, "no thought"], "tool_calls": [[], []]}
    reward = ToolCallReward(length="fixed")
    assert reward.score(batch).parts["length"].tolist() == [0.5, 0.0]
    assert reward.score(batch).values.tolist() == [1.5, 0.0]
    dynamic = ToolCallReward(length="dynamic")
    assert dynamic.score(batch).parts["length"][0] == pytest.approx(0.67)
    dynamic.set_step(105)  # 384 + 256 = 640
    assert dynamic.score(batch).parts["length"][0] == pytest.approx(0.4)
    assert thought_length("<think>" + "word " * 9999 + "</think>", 512) == 1.0


def test_scales():
    assert ranges_at("default", 7) == ((0, 1), (-3, 3))
    assert ranges_at("equal", 7) == ((0, 1), (-1, 1))
    assert ranges_at("two-stage", 29) == ((0, 1), (-1, 1))
    assert ranges_at("two-stage", 30) == ((0, 0.5), (-3, 3))
    assert ranges_at("smooth", 0) == ((-2, 2), (-2, 2))
    assert ranges_at("smooth", 75) == ((-1, 1.5), (-2.5, 2.5))
    assert ranges_at("smooth", 150) == ranges_at("smooth", 999) == ((-1, 1), (-3, 3))
    batch = {"prompt": ["p"] * 2, "completion": [turn(PARIS), ""], "tool_calls": [[PARIS]] * 2}
    reward = ToolCallReward(scale="smooth")
    assert reward.score(batch).values.tolist() == [4.0, -4.0]
    reward.set_step(150)
    assert reward.score(batch).values.tolist() == [4.0, -4.0]
    assert ToolCallReward(scale="equal").score(batch).values.tolist() == [2.0, -1.0]


def test_it_is_a_reward_function():
    reward = ToolCallReward()
    assert isinstance(reward, Reward) and reward.__name__ == "tool_calls"
    logged = {}
    out = reward(["p"], [turn(PARIS)], tool_calls=[[PARIS]], log_metric=logged.__setitem__)
    assert out == [4.0]
    assert logged == {"tool_calls/format": 1.0, "tool_calls/correctness": 3.0, "tool_calls/failed": 0.0}
    assert reward.preference(["p"], [turn(PARIS)], [""], tool_calls=[[PARIS]]).tolist() == [7.0]


@pytest.mark.parametrize(
    "gold",
    [
        [PARIS],
        (PARIS,),
        [{"name": "w", "arguments": PARIS["parameters"]}],
        [{"name": "w", "arguments": json.dumps(PARIS["parameters"])}],
        [{"name": "w", "arguments": PARIS["parameters"], "parameters": None}],
        [{"type": "function", "function": {"name": "w", "arguments": json.dumps(PARIS["parameters"])}}],
        json.dumps([PARIS]),
        turn(PARIS),
        [{"role": "assistant", "content": None, "tool_calls": [{"function": {**PARIS}}]}],
    ],
)
def test_forms_of_gold(gold):
    assert read_gold(gold) == GoldTurn([ToolCall("w", PARIS["parameters"])], False)


def test_gold_says_whether_a_response_is_due():
    assert read_gold([]) == GoldTurn([], True)
    assert read_gold([], False) == GoldTurn([], False)
    assert read_gold(turn(PARIS, response="y")).response
    assert read_gold(turn(response="y")) == GoldTurn([], True)
    assert read_gold(turn()) == GoldTurn([], False)
    assert read_gold([{"role": "assistant", "content": "y"}]) == GoldTurn([], True)
    assert read_gold([{"name": "now", "parameters": None}]) == GoldTurn([ToolCall("now", {})], False)
    assert not read_gold(turn(PARIS, think="no <response> yet")).response


@pytest.mark.parametrize(
    "gold",
    [
        None,
        3,
        "w(city=Paris)",
        "[{",
        '["w"]',
        ["w"],
        [{"name": "w"}],
        [{"parameters": {}}],
        [{"name": "w", "parameters": [1]}],
        [{"name": "w", "parameters": {"x": float("nan")}}],
        [{"name": "w", "parameters": {"x": object()}}],
        "<think>x</think>\n<tool_call>\n{oops\n</tool_call>",
        "<tool_call>\n{}",
    ],
)
@pytest.mark.parametrize("column", ["tool_calls", "answer"])
def test_bad_gold_names_row_and_column(gold, column):
    with pytest.raises(ValueError, match=f"row 1, column '{column}'"):
        ToolCallReward().score({"prompt": ["p"] * 2, "completion": ["x"] * 2, column: [[PARIS], gold]})


def test_bad_columns_and_options():
    batch = {"prompt": ["p"], "completion": ["x"]}
    with pytest.raises(ValueError, match="'tool_calls'"):
        ToolCallReward().score(batch)
    with pytest.raises(ValueError, match="'gold'"):
        ToolCallReward(gold_column="gold").score({**batch, "answer": [[PARIS]]})
    with pytest.raises(ValueError, match="row 0, column 'expects_response'"):
        ToolCallReward().score({**batch, "tool_calls": [[]], "expects_response": ["yes"]})
    for option in ("format", "granularity", "scale", "length"):
        with pytest.raises(ValueError, match=option):
            ToolCallReward(**{option: "other"})


def test_a_dataset_of_structs_fills_in_nulls():
    golds = [[call("f", a=1)], [call("g", b="x")]]
    rows = Dataset.from_list([{"prompt": "p", "completion": turn(*gold), "tool_calls": gold} for gold in golds])
    assert rows[0]["tool_calls"][0]["parameters"] == {"a": 1, "b": None}
    assert ToolCallReward().score(rows).values.tolist() != [4.0, 4.0]
    assert ToolCallReward(drop_null_parameters=True).score(rows).values.tolist() == [4.0, 4.0]
    as_text = rows.remove_columns("tool_calls").add_column("tool_calls", [json.dumps(gold) for gold in golds])
    assert ToolCallReward().score(as_text).values.tolist() == [4.0, 4.0]


names = st.sampled_from(["f", "g", "h"])
values = st.sampled_from([0, 1, "1", None, [1], {"x": 1}])
calls = st.builds(ToolCall, names, st.dictionaries(st.sampled_from(["a", "b", "c"]), values, max_size=3))
lists = st.lists(calls, min_size=1, max_size=4)


def as_multiset(these: list[ToolCall]) -> Counter:
    return Counter(json.dumps([c.name, c.arguments], sort_keys=True) for c in these)


def share(gold: list[ToolCall], predicted: list[ToolCall], granularity: str = "default") -> float:
    matching = match_calls(gold, predicted, granularity)
    return matching.points / matching.best


@given(lists, st.lists(calls, max_size=4), st.sampled_from(["default", "strict", "intermediate", "coarse"]))
def test_correctness_is_bounded_and_full_only_for_equal_calls(gold, predicted, granularity):
    value = share(gold, predicted, granularity)
    assert 0 <= value <= 1
    equal = as_multiset(gold) == as_multiset(predicted)
    if granularity == "strict":
        assert not equal or gold != predicted or value == 1
        assert value < 1 or equal
    else:
        assert (value == 1) is equal


distinct = st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call.name)


@given(distinct, st.lists(calls, max_size=4), st.data())
def test_a_prediction_in_another_order_gets_the_same(gold, predicted, data):
    assert share(gold, data.draw(st.permutations(predicted))) == pytest.approx(share(gold, predicted))


@given(distinct, st.lists(calls, max_size=3), st.data())
def test_correcting_a_value_never_costs_points(gold, predicted, data):
    gold = [ToolCall(gold[0].name, {"a": data.draw(values), **gold[0].arguments}), *gold[1:]]
    old = data.draw(calls).arguments
    place = data.draw(st.integers(0, len(predicted)))
    key = data.draw(st.sampled_from(sorted(gold[0].arguments)))
    before, after = predicted[:place], predicted[place:]
    worse = [*before, ToolCall(gold[0].name, {**old, key: data.draw(values)}), *after]
    better = [*before, ToolCall(gold[0].name, {**old, key: gold[0].arguments[key]}), *after]
    assert share(gold, better) >= share(gold, worse) - 1e-12


@given(lists, lists)
def test_no_predicted_call_is_used_twice(gold, predicted):
    used = [at for at in match_calls(gold, predicted).pairs if at is not None]
    assert len(set(used)) == len(used)
    assert all(
        predicted[at].name == call.name for at, call in zip(match_calls(gold, predicted).pairs, gold) if at in used
    )


pieces = st.sampled_from(
    ["<think>", "</think>", "\n<tool_call>\n", "\n</tool_call>", "<tool_call>", "<response>", "</response>", "\n"]
    + ['{"name": "w", "parameters": ', "{", "}", "[", "]", '"city"', ":", "NaN", "1e999", "9" * 5000, json.dumps(PARIS)]
    + ['{"name": ["w"], "parameters": {}}', '{"name": "w", "name": 3, "parameters": {}}', "[" * 2000, "\ud800"]
)
content = st.none() | st.integers() | st.lists(pieces | st.text(st.characters(), max_size=4), max_size=12).map("".join)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": content},
        optional={
            "tool_calls": st.none()
            | st.lists(
                st.fixed_dictionaries({"name": content | names, "arguments": content | st.just({"x": {1}})})
                | st.fixed_dictionaries({"function": content})
                | content
            )
        },
    ),
    max_size=2,
)


@given(
    st.lists(content.filter(lambda c: not isinstance(c, int)) | messages, min_size=1, max_size=4),
    st.sampled_from(["toolrl", "any"]),
    st.booleans(),
)
@settings(max_examples=300)
def test_nothing_raises_on_garbage(completions, format, response):
    rows = len(completions)
    batch = {"prompt": ["p"] * rows, "completion": completions, "tool_calls": [[PARIS]] * rows}
    scores = ToolCallReward(format=format, length="fixed").score({**batch, "expects_response": [response] * rows})
    assert scores.ok.all()
    assert (scores.values >= -3).all() and (scores.values <= 5).all()
    assert json.dumps(scores.details, allow_nan=False, ensure_ascii=False).encode("utf-8", "strict")
    for broken, value in zip((detail["problem"] for detail in scores.details), scores.parts["correctness"]):
        assert broken is None or value == -3


def sft(shared_data) -> list[str]:
    with lzma.open(shared_data / "toolrl" / "rlla_sft.json.xz", "rt", encoding="utf-8") as file:
        return [row["output"] for row in json.load(file)]


def test_gold_answers_of_toolrl_get_the_maximum(shared_data):
    texts = sft(shared_data)
    turns = [read_gold(text) for text in texts]
    # Five of the thoughts mention <response>, seventeen mention <tool_call>: no turn does both.
    assert Counter((bool(t.calls), t.response) for t in turns) == {(True, False): 346, (False, True): 54}
    scores = ToolCallReward().score({"prompt": texts, "completion": texts, "answer": texts})
    assert (scores.parts["format"] == 1).all()
    assert scores.parts["correctness"].tolist() == [3.0 if t.calls else 0.0 for t in turns]


def test_a_missing_parameter_costs_every_toolrl_answer(shared_data):
    golds = [gold for gold in map(read_gold, sft(shared_data)) if any(call.arguments for call in gold.calls)]
    assert len(golds) > 330
    completions = []
    for gold in golds:
        fewer = [{"name": c.name, "parameters": dict(list(c.arguments.items())[1:])} for c in gold.calls]
        completions.append(turn(*fewer))
    column = [[{"name": c.name, "parameters": c.arguments} for c in gold.calls] for gold in golds]
    scores = ToolCallReward().score({"prompt": completions, "completion": completions, "tool_calls": column})
    assert (scores.parts["correctness"] < 3).all()
    assert (scores.parts["correctness"] > -3).all()


@pytest.mark.parametrize("name", ["simple_python", "multiple"])
def test_bfcl_answers_in_every_format(shared_data, name):
    path = shared_data / "bfcl" / f"possible_answer_BFCL_v4_{name}.json.xz"
    with lzma.open(path, "rt", encoding="utf-8") as file:
        answers = [json.loads(line)["ground_truth"] for line in file]
    # The first accepted value of each parameter; "" says that it may be left out.
    golds = [
        [
            {"name": tool, "arguments": {k: v[0] for k, v in arguments.items() if v[0] != ""}}
            for one in answer
            for tool, arguments in one.items()
        ]
        for answer in answers
    ]
    completions = []
    for index, gold in enumerate(golds):
        form = index % 4
        if form == 0:
            functions = [{"function": {**c, "arguments": json.dumps(c["arguments"])}} for c in gold]
            completions.append([{"role": "assistant", "content": None, "tool_calls": functions}])
        elif form == 1:
            completions.append("".join(f"<tool_call>\n{json.dumps(c)}\n</tool_call>\n" for c in gold))
        elif form == 2:
            completions.append(json.dumps(gold))
        else:
            completions.append("<|python_tag|>" + "; ".join(map(json.dumps, gold)))
    scores = ToolCallReward(format="any").score({"prompt": completions, "completion": completions, "tool_calls": golds})
    assert np.all(scores.values == 4.0)
