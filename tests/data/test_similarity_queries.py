"""Triples of different items, and two ways to answer that say the same."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.data.records import RecordError
from rewardsmith.data.similarity import PAIRS, draw_triples, similarity_rows


def test_triples_are_of_three_different_items():
    items = np.repeat(np.arange(5.0), 4)[:, None]  # every item four times
    triples = draw_triples(items, 400, seed=1)
    assert triples.shape == (400, 3) and triples.min() >= 0 and triples.max() < 20
    assert all(len(set(row)) == 3 for row in items[triples, 0])
    assert np.bincount(triples.ravel(), minlength=20).min() > 20
    assert np.array_equal(triples, draw_triples(items, 400, seed=1))
    assert len(set(np.array(["a", "b", "b", "c"])[draw_triples(["a", "b", "b", "c"], 9)[3]])) == 3
    with pytest.raises(ValueError, match="fewer than three differ"):
        draw_triples(np.zeros((9, 2)), 3)


def test_odd_one_and_chosen_pair_are_the_same_answer():
    items = np.arange(8.0).reshape(4, 2)
    triples = np.array([[0, 1, 2], [3, 2, 1], [1, 3, 0]])
    by_odd = similarity_rows(items, triples, [0, 1, 2])
    assert by_odd == similarity_rows(items, triples, [PAIRS[0], PAIRS[1], PAIRS[2]])
    assert by_odd == similarity_rows(items, triples, [(2, 1), [2, 0], np.array([1, 0])])
    assert by_odd[1] == {"candidates": [[6.0, 7.0], [4.0, 5.0], [2.0, 3.0]], "odd": 1}
    assert similarity_rows(["x", "y", "z"], [[2, 1, 0]], [0])[0]["candidates"] == ["z", "y", "x"]


@pytest.mark.parametrize("answer", [3, True, (0, 0), (0, 3), "0", None])
def test_other_answers_are_refused(answer):
    with pytest.raises(RecordError, match="row 0, column 'odd'"):
        similarity_rows(np.eye(3), np.array([[0, 1, 2]]), [answer])
