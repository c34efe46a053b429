"""How fast a model comes to know a user: the curve, the stranger, the map and the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
from personal_head import OneOfTwo

from rewardsmith.evaluation import evaluate_personal
from rewardsmith.evaluation.personal import accuracy_of_known_users
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.personal import PersonalModel
from rewardsmith.report import personal_report


def rows(users=12, each=30, spread=3.0):
    generator = np.random.default_rng(0)
    made = []
    for user in range(users):
        for _ in range(each):
            a, b = generator.normal(size=(2, 2)) * spread
            if (a - b)[user % 2] < 0:
                a, b = b, a
            made.append({"prompt": "", "chosen": a.tolist(), "rejected": b.tolist(), "user": f"u{user}"})
    return made


def model():
    return PersonalModel(ArrayBackbone(2), OneOfTwo())


def test_her_own_choices_tell_and_nobody_at_first():
    result = evaluate_personal(model(), rows(), shots=(0, 1, 10), baseline=model().for_user([]))
    by = {row["shots"]: row for row in result.curve}
    assert by[0]["accuracy"].value == by[0]["stranger"].value == result.baseline.value < 0.85
    assert by[10]["accuracy"].value > 0.98 > by[1]["accuracy"].value > by[0]["accuracy"].value
    assert by[10]["stranger"].value < 0.85  # half of the strangers care about the other number
    assert by[10]["accuracy"].n == 12 * 20 and result.users == 12 and result.known is None
    sides = {np.sign(round(point["x"], 3)) for point in result.map if int(point["user"][1:]) % 2}
    assert len(sides) == 1 and result.explained[0] == pytest.approx(1.0)


def test_users_with_too_few_choices_are_counted():
    result = evaluate_personal(model(), [*rows(4, 8), *rows(6, 3)[-6:]], shots=(0, 5))
    assert (result.users, result.left_out) == (4, 2)
    with pytest.raises(ValueError, match="0 of 4 users have more than 9 choices"):
        evaluate_personal(model(), rows(4, 8), shots=(9,))


def test_users_that_training_saw_are_taken_by_their_choices():
    every = rows()
    found = accuracy_of_known_users(model(), every[::2], every[1::2])
    assert found.value > 0.98 and found.n == 180
    with pytest.raises(ValueError, match="'u11' has no choice"):
        accuracy_of_known_users(model(), every[:60], every[-30:])


def test_the_page_says_what_was_found(tmp_path):
    result = evaluate_personal(model(), rows(), shots=(0, 10))
    json.dumps(result.to_dict(), allow_nan=False)
    report = personal_report(result, name="a test")
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "points more than a stranger" in page and "u11" in page
    report.save_figures(tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"shots.png", "users.png"}
    same = [{**row, "user": i % 6} for i, row in enumerate(rows(2, 60, spread=0.01)[:60])]
    nothing = evaluate_personal(model(), same, shots=(0, 2))
    assert "no more than a stranger" in personal_report(nothing).lede
