"""Contexts go into prompts and come out again; the two rows of a reversal stay together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.data.contexts import (
    insert_context,
    reversals,
    rpr_to_preferences,
    split_by_record,
    split_context,
    with_context,
)
from rewardsmith.data.records import RecordError


def record(number: int) -> dict:
    return {
        "prompt": f"Plan dinner {number}.",
        "response_a": f"Lentil soup {number}.",
        "response_b": f"Roast duck {number}.",
        "criteria_x": "Keeps it cheap",
        "criteria_y": "Impresses guests",
        "category_x": "cost",
        "category_y": "style",
        "scenario_x": "My rent is due.",
        "scenario_y": "My boss is coming.",
        "id": f"r{number}",
    }


def test_a_record_gives_a_reversal_of_each_kind():
    rows = rpr_to_preferences([record(0), record(1)])
    assert len(rows) == 8
    assert rows[0] == {
        "prompt": "Plan dinner 0.",
        "chosen": "Lentil soup 0.",
        "rejected": "Roast duck 0.",
        "context": "Keeps it cheap",
        "kind": "criteria",
        "category": "cost",
        "id": "r0",
    }
    assert (rows[1]["chosen"], rows[1]["context"]) == ("Roast duck 0.", "Impresses guests")
    assert [row["context"] for row in rows[2:4]] == ["My rent is due.", "My boss is coming."]
    assert reversals(rows) == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert reversals(with_context(rows)) == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_records_that_lack_a_text_are_named():
    with pytest.raises(RecordError, match=r"row 1, column 'criteria_y'"):
        rpr_to_preferences([record(0), {**record(1), "criteria_y": " "}])
    assert len(rpr_to_preferences([{**record(0), "scenario_x": None}], kinds=["criteria"])) == 2
    with pytest.raises(ValueError, match="profile"):
        rpr_to_preferences([record(0)], kinds=["profile"])


words = st.text(st.characters(blacklist_characters="[]\r", blacklist_categories=["Cs"]), min_size=1, max_size=30)
prompts = st.one_of(
    words,
    st.just(""),
    st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": words})),
)


@given(prompts, words)
def test_what_goes_in_comes_out(prompt, context):
    inside = insert_context(prompt, context)
    assert split_context(inside) == (prompt, context)
    assert insert_context(inside, context) == inside  # once is enough
    assert split_context(prompt) == (prompt, None)
    assert insert_context(prompt, None) == prompt == insert_context(prompt, "")


def test_the_last_user_message_says_the_context():
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "A"},
    ]
    assert insert_context(talk, "short")[2]["content"] == "A\n\n[Evaluation context: short]"
    assert talk[2]["content"] == "A"
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    inside = insert_context(parts, "for a child")
    assert inside[0]["content"][2] == {"type": "text", "text": "\n\n[Evaluation context: for a child]"}
    assert split_context(inside) == (parts, "for a child")
    assert insert_context("Plan.", "cheap", "Reader: {context}") == "Plan.\n\nReader: cheap"
    with pytest.raises(ValueError, match="template"):
        insert_context("Plan.", "cheap", "no place")


def test_only_unambiguous_rows_may_lose_their_context():
    rows = rpr_to_preferences([record(i) for i in range(50)], kinds=["criteria"])
    alone = [{**row, "prompt": "Other: " + row["prompt"]} for row in rows[::2]]
    out = with_context([*rows, *alone], drop=0.5, seed=1)
    assert all(row["context"] for row in out[: len(rows)])
    dropped = [row for row in out[len(rows) :] if row["context"] is None]
    assert 10 < len(dropped) < 40
    assert all("context" not in row["prompt"] for row in dropped)
    assert out == with_context([*rows, *alone], drop=0.5, seed=1)
    with pytest.raises(RecordError, match=r"row 0, column 'context'"):
        with_context([{"prompt": "p", "chosen": "a", "rejected": "b", "context": 3}])


def test_splits_keep_both_rows_of_a_record_together():
    rows = with_context(rpr_to_preferences([record(i) for i in range(20)]))
    parts = split_by_record(rows, 0.25)
    train, test = ({row["id"] for row in parts[name]} for name in ("train", "test"))
    assert not train & test and len(test) == 5
    assert len(parts["test"]) == 20 and len(reversals(parts["test"])) == 10
