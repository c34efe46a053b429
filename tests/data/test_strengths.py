"""Strengths: which votes count, which side wins, what becomes of the strength, what is left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.data.checks import check
from rewardsmith.data.records import RecordError
from rewardsmith.data.strengths import aggregate_strength, attribute_ratings, prefer_by_strength

VOTES = st.lists(st.integers(-3, 3), min_size=3, max_size=6)


def row(strength, **further):
    return {"prompt": "q", "response_1": "one", "response_2": "two", "preference_strength": strength, **further}


@pytest.mark.parametrize(
    ("votes", "strength"),
    [
        ([2, 2, 3, -3], 2),  # 2, 2, 3 agree most
        ([1, -3, 3], None),  # the nearest three are six steps apart
        ([0, 0, 0], 0),
        ([3, 3, 3, 1, 1], 3),  # 1, 3, 3 and 1, 1, 3 have a range of two, 3, 3, 3 of none
        ([-1, 0, 1, 2], 0),  # two triples as near as each other: the weaker preference
        ([-2, -2, 0, 2, 2], None),  # three for either side
        ([1, 3, 3], 2),
    ],
)
def test_the_three_votes_that_agree_most_make_the_strength(votes, strength):
    assert aggregate_strength(votes) == strength


@given(VOTES)
def test_the_other_side_of_the_votes_is_the_other_side_of_the_strength(votes):
    strength = aggregate_strength(votes)
    assert aggregate_strength([-vote for vote in votes]) == (None if strength is None else -strength)
    assert aggregate_strength(votes[::-1]) == strength


@pytest.mark.parametrize("votes", [[1, 2], [1, 2, 2.5], [True, 1, 1]])
def test_too_few_votes_and_what_is_no_integer_are_refused(votes):
    with pytest.raises(ValueError, match="three or more integers"):
        aggregate_strength(votes)


def test_the_sign_says_who_wins_and_the_size_becomes_margin_or_weight():
    rows = [row(-3, split="train"), row(1)]
    plain, left_out = prefer_by_strength(rows, "plain")
    assert left_out == {}
    assert plain[0] == {
        "prompt": "q", "split": "train", "chosen": "one", "rejected": "two", "strength": 3.0, "chosen_position": 1
    }  # fmt: skip
    assert (plain[1]["chosen"], plain[1]["strength"], plain[1]["chosen_position"]) == ("two", 1.0, 2)
    for use in ("margin", "weight"):
        pairs, _ = prefer_by_strength(rows, use)
        assert [pair[use] for pair in pairs] == [3.0, 1.0]
        assert check(pairs, "preference")[1].kept == 2


def test_exchanging_the_responses_and_the_sign_changes_nothing_but_the_position():
    one, _ = prefer_by_strength([row(2)])
    other, _ = prefer_by_strength([{**row(-2), "response_1": "two", "response_2": "one"}])
    assert {**one[0], "chosen_position": 1} == other[0]


def test_ties_and_quarrels_are_left_out_and_counted():
    assert prefer_by_strength([row(np.int64(2))])[0][0]["weight"] == 2.0
    pairs, left_out = prefer_by_strength([row(0), row([1, -3, 3]), row([0, 0, 0]), row([2, 2, 3, -3])])
    assert [pair["weight"] for pair in pairs] == [2.0]
    assert left_out == {"no preference": 2, "no agreement": 1}


@pytest.mark.parametrize("strength", [None, "much", float("nan"), True, [1, 2], [1, "a", 2]])
def test_a_strength_that_is_none_is_an_error_by_row_and_column(strength):
    with pytest.raises(RecordError) as error:
        prefer_by_strength([row(1), row(strength)])
    assert (error.value.row, error.value.column) == (1, "preference_strength")


def test_bad_use_and_missing_responses_are_refused():
    with pytest.raises(ValueError, match="'plain', 'margin' or 'weight'"):
        prefer_by_strength([row(1)], "strong")
    with pytest.raises(RecordError, match="row 0, column 'response_2': is missing"):
        prefer_by_strength([{**row(1), "response_2": None}])


def test_columns_of_ratings_become_attributes():
    rated = {"prompt": "q", "response": "a", "helpfulness": 3, "correctness": -100, "coherence": 4, "id": "7"}
    expected = {"helpfulness": 3, "correctness": None, "coherence": 4, "complexity": None, "verbosity": None}
    assert attribute_ratings([rated]) == [{"prompt": "q", "id": "7", "completion": "a", "attributes": expected}]
    assert attribute_ratings([rated], ["helpfulness"])[0]["attributes"] == {"helpfulness": 3}
    assert check(attribute_ratings([rated]), "attributes")[1].kept == 1
    with pytest.raises(RecordError, match="row 0: has no rating of correctness"):
        attribute_ratings([rated], ["correctness"])
    with pytest.raises(RecordError, match="'response'"):
        attribute_ratings([{"prompt": "q", "helpfulness": 1}])
