"""The maths of shaping: hand-computed numbers, closed forms, invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit

from rewardsmith.shaping import functions
from rewardsmith.shaping.running import RunningMoments

NAN = math.nan
numbers = st.floats(-30, 30)


def one(function, reward, references, **options):
    return float(function(np.array([reward]), np.array([references], dtype=float), **options)[0])


def test_par_by_hand():
    assert one(functions.preference_as_reward, 2.0, [1.0, 3.0]) == pytest.approx(0.5, abs=1e-7)
    assert one(functions.preference_as_reward, 1.0, [1.0]) == 0.5
    # The mean of sigmoids, not the sigmoid of the mean.
    expected = (expit(2.0) + expit(-4.0)) / 2
    assert one(functions.preference_as_reward, 2.0, [0.0, 6.0]) == pytest.approx(expected, abs=1e-12)


def test_lsc_by_hand():
    values = functions.log_sigmoid_centered(np.array([0.0, 2.0, -200.0]), np.zeros(3))
    np.testing.assert_allclose(values, [-0.693147, -0.126928, -200.0], atol=1e-6)
    assert values[1] + values[0] == pytest.approx(-0.820075, abs=1e-6)
    assert np.isfinite(functions.log_sigmoid_centered(np.array([-1e6, 1e6]), np.zeros(2))).all()


@given(gap=st.floats(-20, 20))
def test_the_slope_of_lsc_is_the_probability_to_lose(gap):
    step = 1e-5
    ends = functions.log_sigmoid_centered(np.array([gap + step, gap - step]), np.zeros(2))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(expit(-gap), abs=1e-6)


@given(
    rewards=hnp.arrays(np.float64, 5, elements=numbers),
    references=hnp.arrays(np.float64, (5, 3), elements=numbers),
    shift=st.floats(-100, 100),
)
def test_a_constant_per_prompt_changes_nothing(rewards, references, shift):
    for function in (functions.preference_as_reward, functions.centered):
        np.testing.assert_allclose(
            function(rewards + shift, references + shift), function(rewards, references), atol=1e-6
        )
    moved = functions.log_sigmoid_centered(rewards + shift, functions.reference_quantile(references + shift))
    np.testing.assert_allclose(
        moved, functions.log_sigmoid_centered(rewards, functions.reference_quantile(references)), atol=1e-6
    )


@given(
    references=hnp.arrays(np.float64, (1, 4), elements=st.floats(-5, 5)),
    low=st.floats(-5, 5),
    gap=st.floats(0.01, 5),
)
def test_par_rises_with_the_reward_within_its_bounds(references, low, gap):
    a, b = (functions.preference_as_reward(np.array([r]), references)[0] for r in (low, low + gap))
    assert 0 < a < b < 1


def test_missing_references_are_left_out_and_none_at_all_is_nan():
    references = np.array([[1.0, NAN], [NAN, NAN]])
    np.testing.assert_allclose(functions.preference_as_reward(np.array([1.0, 1.0]), references), [0.5, NAN])
    np.testing.assert_allclose(functions.centered(np.array([3.0, 3.0]), references), [2.0, NAN])
    for method in ("normal", "empirical"):
        assert np.isnan(functions.reference_quantile(references, method=method)).tolist() == [False, True]


def test_quantiles_of_references():
    references = np.random.default_rng(0).normal(2.0, 3.0, (1, 20000))
    normal, empirical = (functions.reference_quantile(references, method=m)[0] for m in ("normal", "empirical"))
    assert normal == pytest.approx(2 + 3 * 1.0364, abs=0.05) and empirical == pytest.approx(normal, abs=0.1)
    with pytest.raises(ValueError, match="method"):
        functions.reference_quantile(references, method="median")
    with pytest.raises(ValueError, match="q must"):
        functions.reference_quantile(references, 1.0)


def test_what_stands_in_place_of_the_sigmoid():
    z = np.linspace(-8, 8, 321)
    assert np.abs(functions.fitted_sigmoid(z) - expit(z)).max() < 0.05
    assert functions.fitted_sigmoid(np.array([-6.0, 6.0])).tolist() == [0.0, 1.0]
    np.testing.assert_allclose(functions.sigmoid(3)(z), expit(3 * z))
    assert functions.slow_growth(np.array([3.0]))[0] == 0.5 and functions.slow_growth(np.array([0.0]))[0] < 2e-4


def test_length_penalty():
    assert functions.length_penalty(np.array([299, 300, 310])).tolist() == [0.0, 0.0, pytest.approx(0.1)]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(B, M\)"):
        functions.centered(np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match="do not go"):
        functions.centered(np.zeros(2), np.zeros((3, 1)))


@given(st.lists(hnp.arrays(np.float64, st.integers(0, 6), elements=st.floats(-1e3, 1e3)), min_size=1, max_size=6))
def test_running_moments_are_those_of_all_that_was_seen(batches):
    moments = RunningMoments()
    for batch in batches:
        moments.update(np.append(batch, NAN))
    seen = np.concatenate(batches)
    assert moments.count == len(seen)
    if len(seen):
        assert moments.mean == pytest.approx(seen.mean(), abs=1e-6)
        assert moments.std == pytest.approx(seen.std(), abs=1e-6)
        assert (moments.low, moments.high) == (seen.min(), seen.max())
    again = RunningMoments()
    again.load_state_dict(moments.state_dict())
    assert again == moments


def test_a_foreign_state_is_refused():
    with pytest.raises(ValueError, match="running moments"):
        RunningMoments().load_state_dict({"mean": 1.0})
