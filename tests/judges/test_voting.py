from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rewardsmith.judges.voting import keep_votes, majority_votes, share_logit, sum_votes, winner

SAMPLES = np.array([[6.0, 5], [4, 8], [7, 6]])


def test_a_sum_and_a_majority_may_differ():
    np.testing.assert_array_equal(sum_votes(SAMPLES), [17, 19])
    np.testing.assert_array_equal(majority_votes(SAMPLES), [2, 1])


def test_unparsed_votes_count_nowhere():
    scores = np.vstack([SAMPLES, [[np.nan, np.nan]]])
    np.testing.assert_array_equal(sum_votes(scores), [17, 19])
    np.testing.assert_array_equal(majority_votes(scores), [2, 1])
    assert np.isnan(sum_votes(np.full((3, 2), np.nan))).all()
    assert np.isnan(majority_votes(np.full((3, 2), np.nan))).all()


def test_a_tie_within_a_sample_is_shared():
    np.testing.assert_array_equal(majority_votes(np.array([[5.0, 5, 1], [1, 5, 1]])), [0.5, 1.5, 0])


@given(arrays(float, (4, 6, 3), elements=st.integers(1, 10)), arrays(float, (4, 6), elements=st.floats(-5, 5)))
def test_keeping_all_votes_is_plain_voting(scores, trust):
    np.testing.assert_array_equal(keep_votes(scores, trust, 6), scores)
    np.testing.assert_array_equal(sum_votes(keep_votes(scores, trust, 9)), sum_votes(scores))
    assert (~np.isnan(keep_votes(scores, trust, 2)).any(-1)).sum() == 4 * 2


def test_the_most_trusted_votes_are_kept():
    scores = np.vstack([SAMPLES, [[np.nan, np.nan]], [[1, 2]]])
    kept = keep_votes(scores, np.array([0.2, 0.9, np.nan, 5.0, 0.4]), 2)
    np.testing.assert_array_equal(np.isnan(kept[:, 0]), [True, False, True, True, False])
    # One that cannot be read never takes the place of one that can, not even of one without trust.
    kept = keep_votes(scores, np.array([0.2, 0.9, np.nan, 5.0, 0.4]), 4)
    np.testing.assert_array_equal(np.isnan(kept[:, 0]), [False, False, False, True, False])
    with pytest.raises(ValueError, match="k_meta = 0"):
        keep_votes(SAMPLES, np.zeros(3), 0)
    with pytest.raises(ValueError, match="shape"):
        keep_votes(SAMPLES, np.zeros(2), 1)


def test_ties_go_to_any_of_the_best():
    rng = np.random.default_rng(0)
    picks = winner(np.tile([3.0, 5, 5, np.nan], (4000, 1)), rng)
    assert set(picks.tolist()) == {1, 2}
    assert abs((picks == 1).mean() - 0.5) < 0.03
    assert winner(np.full((1, 3), np.nan), rng).tolist() == [-1]


def test_share_logit_by_hand():
    logits = share_logit(np.array([1.0, 0.5, 0.0, 0.75, 0.0]), np.array([2, 4, 2, 4, 0]))
    np.testing.assert_allclose(logits[:4], [np.log(5), 0, -np.log(5), np.log(3.5 / 1.5)])
    assert np.isnan(logits[4])
    with pytest.raises(ValueError, match="smoothing"):
        share_logit(np.ones(1), np.ones(1), 0)
