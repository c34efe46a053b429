"""Histories of choices, and splits that keep users apart."""

from __future__ import annotations

import pytest
from datasets import Dataset

from rewardsmith.data import RecordError, check, split_by_user, with_histories


def rows(users=("ann", "bo"), each=5):
    return [
        {"prompt": f"p{i}", "chosen": f"{user} likes {i}", "rejected": f"{user} dislikes {i}", "user": user}
        for user in users
        for i in range(each)
    ]


def test_a_history_holds_other_choices_of_the_same_user():
    made = with_histories(rows(), size=3, seed=1)
    assert [row["chosen"] for row in made] == [row["chosen"] for row in rows()]
    for row in made:
        chosen = [pair["chosen"] for pair in row["history"]]
        assert len(set(chosen)) == 3 and row["chosen"] not in chosen
        assert all(text.startswith(row["user"]) for text in chosen)
    assert check(made)[1].kept == 10


def test_sizes_are_drawn_between_the_bounds_and_bounded_by_what_there_is():
    sizes = {len(row["history"]) for row in with_histories(rows(each=30), size=(2, 8), seed=0)}
    assert sizes == set(range(2, 9))
    assert [len(row["history"]) for row in with_histories(rows(each=3), size=8)] == [2] * 6
    assert [row["history"] for row in with_histories(rows(each=1))] == [[], []]
    assert with_histories(rows(), seed=3) == with_histories(rows(), seed=3) != with_histories(rows(), seed=4)


def test_no_user_is_on_both_sides():
    parts = split_by_user(Dataset.from_list(rows(users="abcdefghij")), test_size=0.3, seed=2)
    train, test = set(parts["train"]["user"]), set(parts["test"]["user"])
    assert len(test) == 3 and len(train) == 7 and not train & test
    assert len(parts["train"]) == 35


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="no column 'user'"):
        with_histories([{"prompt": "p", "chosen": "a", "rejected": "b"}])
    with pytest.raises(RecordError, match="row 1, column 'user'"):
        with_histories([*rows(each=1)[:1], {"prompt": "p", "chosen": "a", "rejected": "b", "user": None}])
    with pytest.raises(ValueError, match="nobody can be held out"):
        split_by_user(rows(users=("ann",)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completion": "a", "attributes": {"helpfulness": "high"}}, "helpfulness must be a number"),
        ({"completion": "a", "attributes": {"helpfulness": None}}, "at least one attribute"),
        ({"chosen": "a", "rejected": "b", "weight": -1}, r"must lie in \[0"),
        ({"chosen": "a", "rejected": "b", "history": [{"prompt": "q", "chosen": "a"}]}, "rejected of choice 0 is miss"),
        ({"candidates": ["a", "b", "c"], "odd": 3}, "must be 0, 1 or 2"),
        ({"candidates": ["a", "b"], "odd": 1}, "a similarity is between three"),
    ],
)
def test_columns_of_learned_rewards_are_checked(row, message):
    with pytest.raises(RecordError, match=message):
        check([{"prompt": "p", **row}])
