"""Cleaning by strength: which rows an operation changes, how, and that the report knows all of it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.data.clean import (
    Operation,
    adaptive_margin,
    clean,
    drop,
    flip,
    from_strength_cleaned,
    parse_operations,
    recommended,
    smooth,
    soften,
)
from rewardsmith.data.records import RecordError

STRENGTHS = [0.5, -2.0, 3.0, -0.1, 1.0, 0.2, -1.0, 2.0, 0.0, 4.0]


def pairs(strengths=STRENGTHS, **columns) -> list[dict]:
    rows = [{"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}", "strength": s} for i, s in enumerate(strengths)]
    return [{**row, **{name: values[i] for name, values in columns.items()}} for i, row in enumerate(rows)]


def test_flip_exchanges_the_lowest_fifth():
    rows, report = clean(pairs(), flip(0.2))
    flipped = [i for i, row in enumerate(rows) if row["chosen"].startswith("r")]
    assert flipped == [1, 6]
    assert rows[1] == {"prompt": "p1", "chosen": "r1", "rejected": "c1", "strength": 2.0}
    assert rows[0] == pairs()[0]
    assert report.counts == {"flip": 2}
    assert [(c.row, c.strength, c.before, c.after) for c in report.changes] == [
        (1, -2.0, {"strength": -2.0}, {"strength": 2.0}),
        (6, -1.0, {"strength": -1.0}, {"strength": 1.0}),
    ]
    assert report.changes[0].why == "strength in 0% to 20% of all and strength below 0"


def test_flip_by_sign_and_never_against_the_votes():
    by_sign, _ = clean(pairs(), flip(1.0))
    assert [i for i, row in enumerate(by_sign) if row["chosen"].startswith("r")] == [1, 3, 6]
    _, report = clean(pairs([1.0, 2.0, 3.0, 4.0, 5.0]), flip(0.4))
    assert report.counts == {"flip": 0}


def test_flipping_takes_along_what_describes_a_text():
    told = {
        "generator_chosen": list("abcdefghij"), "generator_rejected": list("klmnopqrst"), "chosen_position": [1] * 10,
        "scores_chosen": [[1.0]] * 10, "scores_rejected": [[2.0]] * 10, "margin": [0.7] * 10,
    }  # fmt: skip
    row = clean(pairs(**told), flip(0.1)).records[1]
    assert (row["generator_chosen"], row["generator_rejected"]) == ("l", "b")
    assert (row["scores_chosen"], row["scores_rejected"]) == ([2.0], [1.0])
    assert row["chosen_position"] == 2
    assert row["margin"] == 0.7


def test_flipping_twice_gives_the_rows_back():
    rows, _ = clean(pairs(), flip(0.2), flip(0.2))
    assert rows == pairs()


def test_drop_reports_every_row_it_leaves_out():
    rows, report = clean(pairs(), drop(0.3))
    assert [row["prompt"] for row in rows] == [f"p{i}" for i in range(10) if i not in (1, 3, 6)]
    assert [change.row for change in report.changes] == [1, 3, 6]
    assert all(change.after == {} for change in report.changes)
    assert (report.rows, report.kept) == (10, 7)
    assert clean(pairs(), drop(1.0, below=0.0)).report.counts == {"drop": 3}


def test_soft_labels_are_the_sigmoid_of_strength():
    rows, _ = clean(pairs([0.5, 0.0, -1.0]), soften((0.0, 1.0)))
    assert [row["target_prob"] for row in rows] == pytest.approx([0.622459, 0.5, 0.268941], abs=1e-6)
    rows, _ = clean(pairs([0.5]), soften((0.0, 1.0), scale=2.0))
    assert rows[0]["target_prob"] == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_soft_labels_by_default_for_the_ambiguous_and_the_strongest():
    rows, report = clean(pairs(), soften())
    changed = {i for i, row in enumerate(rows) if row["target_prob"] != 1.0}
    order = np.argsort(STRENGTHS, kind="stable")
    assert changed == {int(order[2]), int(order[3]), int(order[9])} == {3, 8, 9}
    assert report.counts == {"soften": 3}


def test_smoothing_by_hand():
    assert clean(pairs([1.0]), smooth(0.1)).records[0]["target_prob"] == pytest.approx(0.9)
    rows, _ = clean(pairs([1.0], target_prob=[0.8]), smooth(0.25))
    assert rows[0]["target_prob"] == pytest.approx(0.75 * 0.8 + 0.25 * 0.2)


def test_losses_of_a_difference_of_one_and_a_strength_of_a_half():
    """What the loss makes of the columns: margin 0.474077, soft label 0.690803, smoothing 0.413262."""
    torch = pytest.importorskip("torch")
    from rewardsmith.models.losses import preference_loss

    one = torch.tensor([1.0], dtype=torch.double)

    def loss(operation) -> float:
        row = clean(pairs([0.5]), operation).records[0]
        columns = {name: torch.tensor([row[name]]).double() for name in ("margin", "target_prob") if name in row}
        return preference_loss(one, **columns).item()

    assert loss(adaptive_margin()) == pytest.approx(0.474077, abs=1e-6)
    assert loss(soften((0.0, 1.0))) == pytest.approx(0.690803, abs=1e-6)
    assert loss(smooth(0.1)) == pytest.approx(0.413262, abs=1e-6)
    nothing = clean(pairs([0.0]), adaptive_margin()).records[0]["margin"]
    assert preference_loss(one, torch.tensor([nothing])).item() == preference_loss(one).item()


def test_the_recommended_mix():
    rows, report = clean(pairs(), *recommended(0.2))
    assert report.counts == {"flip": 2, "soften": 3, "margin": 10}
    assert (rows[1]["chosen"], rows[1]["margin"]) == ("r1", 2.0)  # after the flip the votes speak for the label
    assert rows[3]["target_prob"] == pytest.approx(1 / (1 + math.exp(0.1)))
    assert rows[3]["margin"] == -0.1
    assert rows[2]["target_prob"] == 1.0


def test_rows_that_nobody_judged_stay_as_they_are():
    rows, report = clean(pairs([None, -1.0, math.nan, 1.0]), flip(1.0), adaptive_margin())
    assert report.unjudged == [0, 2]
    assert [row["margin"] for row in rows] == [0.0, 1.0, 0.0, 1.0]
    assert [row["chosen"] for row in rows] == ["c0", "r1", "c2", "c3"]
    assert report.negative == 0.5


def test_the_report_is_json():
    _, report = clean(pairs(strength_std=[0.1] * 10), flip(), soften(), drop(0.1))
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["changes"][0]["strength_std"] == 0.1
    assert plain["quantiles"][0] == -2.0 and plain["quantiles"][-1] == 4.0
    assert "changes" not in report.summary()


@given(
    st.lists(st.floats(-5, 5) | st.none(), min_size=1, max_size=40),
    st.floats(0.01, 1),
    st.sampled_from(["flip", "drop", "soften", "smooth", "margin"]),
)
def test_every_difference_is_in_the_report(strengths, share, name):
    made = {"flip": flip(share), "drop": drop(share), "soften": soften((0.0, share)), "smooth": smooth(0.1, (0, share)),
            "margin": adaptive_margin((0.0, share))}  # fmt: skip
    before = pairs(strengths)
    rows, report = clean(before, made[name])
    told = {change.row for change in report.changes}
    left = {row["prompt"]: row for row in rows}
    filled = {"margin": 0.0, "target_prob": 1.0}
    for number, row in enumerate(before):
        after = left.get(row["prompt"])
        if number not in told:
            assert after is not None and after == {**{n: filled[n] for n in filled if n in after}, **row}
    assert report.rows - report.kept == (len(told) if name == "drop" else 0)
    assert len(told) <= round(share * len(strengths)) + 1


def test_operations_by_name():
    names = [operation.name for operation in parse_operations("flip:0.1,soften:0.2-0.4, smooth:0.2,margin,drop")]
    assert names == ["flip", "soften", "smooth", "margin", "drop"]
    assert parse_operations("flip:negative")[0].bands == ((0.0, 1.0),)
    assert [operation.name for operation in parse_operations("recommended:0.1")] == ["flip", "soften", "margin"]
    for wrong in ("polish", "flip:2", "soften:0.4", "smooth:0.9", ""):
        with pytest.raises(ValueError, match="there are flip, drop"):
            parse_operations(wrong)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="no column 'strength'"):
        clean([{"prompt": "a", "chosen": "b", "rejected": "c"}], flip())
    with pytest.raises(ValueError, match="nothing to do"):
        clean(pairs())
    with pytest.raises(RecordError, match="row 1, column 'strength'"):
        clean(pairs([1.0, "strong"]), flip())
    with pytest.raises(ValueError, match="a band is two shares"):
        Operation("flip", ((0.5, 0.2),), 0.0, dict)
    with pytest.raises(ValueError, match="scale must be positive"):
        soften(scale=0.0)


RELEASED = {
    "chosen": ["Human: Hi", "Assistant: Hello", "Human: Name a color", "Assistant: Blue"],
    "rejected": ["Human: Hi", "Assistant: Hello", "Human: Name a color", "Assistant: No"],
    "mean preference difference": -0.3,
    "std preference difference": 0.2,
    "chosen score list": [1.0, 2.0],
    "rejected score list": [1.5, 2.1],
    "GPT4 label": 1,
}


def test_the_released_strengths_of_hh_rlhf():
    (row,) = from_strength_cleaned([RELEASED])
    assert row["prompt"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Name a color"},
    ]
    assert row["chosen"] == [{"role": "assistant", "content": "Blue"}]
    assert (row["strength"], row["strength_std"], row["gpt4_agrees"]) == (-0.3, 0.2, True)
    flipped = clean([row], flip(1.0)).records[0]
    assert flipped["chosen"] == [{"role": "assistant", "content": "No"}]
    assert (flipped["scores_chosen"], flipped["gpt4_agrees"]) == ([1.5, 2.1], False)


def test_released_turns_without_names_alternate():
    bare = {**RELEASED, "chosen": ["Hi", "Blue"], "rejected": ["Hi", "No"], "GPT4 label": -1}
    (row,) = from_strength_cleaned([bare])
    assert [message["role"] for message in row["prompt"] + row["chosen"]] == ["user", "assistant"]
    assert row["gpt4_agrees"] is None
    with pytest.raises(RecordError, match="row 0, column 'rejected': must have the history"):
        from_strength_cleaned([{**bare, "rejected": ["Hey", "No"]}])
    with pytest.raises(RecordError, match="row 0, column 'mean preference difference': is missing"):
        from_strength_cleaned([{**bare, "mean preference difference": None}])
