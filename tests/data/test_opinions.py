"""Opinion summaries: what becomes of a record, what is refused, and how synthetic pairs are made and mixed in."""

from __future__ import annotations

import pytest

from rewardsmith.data.convert import candidates_to_preferences
from rewardsmith.data.opinions import OPINION, mixed_in, opinion_pairs
from rewardsmith.data.records import RecordError


def record(choice=2, **changes):
    def summary(text, score):
        return {"summary-text": text, "summary-score": dict.fromkeys(OPINION, score)}

    pair = {"summary-one": summary("first", 3.0), "summary-two": summary("second", 4.5)}
    whole = {"unique-id": "p1", "reviews": ["good", "bad"], "summary-pairs": pair, "preference-data": choice}
    return {**whole, "source": "ann", **changes}


def test_a_record_becomes_a_preference_and_two_rows_of_scores():
    pairs, scored = opinion_pairs([record()])
    prompt = "1. good\n2. bad"
    assert pairs == [{"prompt": prompt, "chosen": "second", "rejected": "first", "id": "p1", "user": "ann"}]
    assert scored == [
        {"prompt": prompt, "completion": "first", **dict.fromkeys(OPINION, 3.0)},
        {"prompt": prompt, "completion": "second", **dict.fromkeys(OPINION, 4.5)},
    ]
    assert opinion_pairs([record(1)])[0][0]["chosen"] == "first"


def test_a_score_that_is_not_there_is_none_and_not_zero():
    whole = record()
    del whole["summary-pairs"]["summary-one"]["summary-score"]["relevance"]
    assert opinion_pairs([whole])[1][0]["relevance"] is None


def test_what_is_no_record_is_named_by_row():
    with pytest.raises(RecordError, match="row 1, column 'preference-data': must be 1 or 2, not 3"):
        opinion_pairs([record(), record(3)])
    with pytest.raises(RecordError, match="row 0: has no 'reviews'"):
        opinion_pairs([{"preference-data": 1}])


def test_summaries_of_different_grades_are_pairs_and_of_one_grade_are_none():
    graded = {"prompt": "reviews", "candidates": ["a", "b", "c", "d"], "ranks": [1, 1, 2, 3]}
    pairs = {(row["chosen"], row["rejected"]) for row in candidates_to_preferences([graded])}
    assert pairs == {("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")}


def test_a_quarter_of_the_whole_is_mixed_in():
    human, synthetic = [{"id": f"h{i}"} for i in range(30)], [{"id": f"s{i}"} for i in range(40)]
    mixed = mixed_in(human, synthetic)
    assert mixed[:30] == human
    assert len(mixed) == 40
    assert len({row["id"] for row in mixed}) == 40
    assert mixed != mixed_in(human, synthetic, seed=1)
    assert mixed_in(human, [], 0.0) == human
    with pytest.raises(ValueError, match="is 90, and there are 40"):
        mixed_in(human, synthetic, 0.75)
    with pytest.raises(ValueError, match="share must lie"):
        mixed_in(human, synthetic, 1.0)
