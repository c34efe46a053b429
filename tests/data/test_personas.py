"""Users made from ratings and from animals: who prefers what, and where the histories come from."""

from __future__ import annotations

import pytest

from rewardsmith.data import RecordError, check
from rewardsmith.data.personas import attribute_users, pets, pool_histories

PAIR = ("helpfulness", "honesty")


def rated(prompt: str, completion: str, helpful: float, honest: float):
    return {"prompt": prompt, "completion": completion, "attributes": {"helpfulness": helpful, "honesty": honest}}


ROWS = [
    rated("p", "kind lie", 5, 1), rated("p", "blunt truth", 1, 5), rated("p", "nonsense", 1, 1),
    rated("q", "good", 5, 5), rated("q", "bad", 1, 1),
]  # fmt: skip


def test_users_care_about_one_attribute_each():
    made = attribute_users(ROWS, PAIR)
    assert [(row["user"], row["chosen"], row["rejected"]) for row in made] == [
        ("helpfulness", "kind lie", "blunt truth"), ("honesty", "blunt truth", "kind lie"),
    ]  # fmt: skip
    every = attribute_users(ROWS, PAIR, controversial=False, pairs=None)
    assert len(every) == 2 * 4
    assert {row["chosen"] for row in every if row["prompt"] == "q"} == {"good"}
    assert len(attribute_users(ROWS, PAIR, controversial=False, pairs=1)) == 2 * 2


def test_ties_are_for_a_coin():
    many = [rated(f"p{i}", name, 3, worth) for i in range(200) for name, worth in (("a", 1), ("b", 5))]
    made = attribute_users(many, PAIR, controversial=False)
    by_coin = [row["chosen"] for row in made if row["user"] == "helpfulness"]
    assert 70 < by_coin.count("a") < 130
    assert {row["chosen"] for row in made if row["user"] == "honesty"} == {"b"}
    assert attribute_users(many, PAIR, controversial=False) == made
    assert attribute_users(many, PAIR) == []  # one user does not care, so they do not disagree


def test_what_cannot_be_read_is_named():
    with pytest.raises(RecordError, match="has no number for honesty") as error:
        attribute_users([ROWS[0], {"prompt": "p", "completion": "x", "attributes": {"helpfulness": 1.0}}], PAIR)
    assert error.value.row == 1
    with pytest.raises(ValueError, match="at least two attributes"):
        attribute_users(ROWS, ("honesty",))


def test_histories_come_from_a_pool_of_questions():
    rows = [
        {"prompt": f"p{i}", "chosen": f"{user} {i}", "rejected": "x", "user": user} for i in range(30) for user in "ab"
    ]
    made = pool_histories(rows, questions=12, size=(2, 4))
    assert len(made) == 2 * 18 and {len(row["history"]) for row in made} == {2, 3, 4}
    pool = {pair["prompt"] for row in made for pair in row["history"]}
    assert len(pool) <= 12 and not pool & {row["prompt"] for row in made}
    for row in made:
        texts = [pair["chosen"] for pair in row["history"]]
        assert all(text.startswith(row["user"]) for text in texts) and len(set(texts)) == len(texts)
    assert check(made)[1].kept == len(made)
    given = pool_histories(rows[:10], pool=rows[10:], size=(3, 3))
    assert len(given) == 10 and all(len(row["history"]) == 3 for row in given)
    with pytest.raises(ValueError, match="cannot give a pool"):
        pool_histories(rows, questions=30)
    with pytest.raises(ValueError, match="fewer than 9"):
        pool_histories(rows, questions=5, size=(2, 9))


def test_pets_divide_their_friends():
    rows = pets(4, 30)
    assert len(rows) == 120 and check(rows)[1].kept == 120
    order = {"cat": ["cat", "bird", "rabbit", "dog"], "dog": ["dog", "bird", "rabbit", "cat"]}

    def animal(text: str) -> str:
        return next(name for name in order["cat"] if name in text.lower())

    for row in rows:
        mine = order[row["user"].split()[0]]
        assert mine.index(animal(row["chosen"])) < mine.index(animal(row["rejected"]))
    assert {row["user"] for row in rows} == {"cat 0", "dog 1", "cat 2", "dog 3"}
    flipped = pets(4, 30, wrong=1.0)
    assert (flipped[0]["user"], len(flipped)) == (rows[0]["user"], 120)
    with pytest.raises(ValueError, match="wrong must lie"):
        pets(wrong=2)
