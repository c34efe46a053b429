"""Worlds of behaviours: every path once, features by hand, and a person who answers as she should."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.worlds.trajectories import choices, distractors, grid_robot, odd_ones


def test_every_way_across_the_grid():
    world = grid_robot(np.random.default_rng(0))
    assert world.raw.shape == (490, 19) and world.features.shape == (490, 4)
    assert len(np.unique(world.raw, axis=0)) == 490
    cells = (world.raw[:, :18].reshape(490, 9, 2) + 1) * 2
    assert (cells[:, 0] == 0).all() and (cells[:, -1] == 4).all()
    steps = np.diff(cells, axis=1)
    assert (np.sort(steps, axis=-1) == [0, 1]).all()  # one cell right or up
    assert world.features.min(0).tolist() == [0] * 4 and world.features.max(0).tolist() == [1] * 4
    np.testing.assert_allclose(world.features[:, 3], np.abs(world.raw[:, 18]))
    assert len(np.unique(world.raw[:, 18])) == 7


def test_distances_by_hand():
    world = grid_robot(np.random.default_rng(3), size=2, objects=1, angles=1)
    place = np.random.default_rng(3).uniform(0, 1, (1, 2))[0]
    # Two ways: over (1, 0) and over (0, 1).
    far = [np.linalg.norm(place - cell) for cell in ((1, 0), (0, 1))]
    over = (world.raw[:, 2:4] + 1) / 2
    assert world.features[np.argmax([tuple(c) == (1, 0) for c in over]), 0] == float(far[0] > far[1])


def test_distractors_vary_more_than_what_matters():
    world = distractors(np.random.default_rng(0), 4000)
    np.testing.assert_allclose(world.raw.std(0), [1.5] * 3 + [4.5] * 17, rtol=0.1)
    np.testing.assert_array_equal(world.features, world.raw[:, :3] / 0.5)


def test_the_odd_one_is_the_far_one():
    features = np.array([[[0.0], [1.0], [9.0]], [[0.0], [9.0], [1.0]], [[9.0], [0.0], [1.0]]])
    rng = np.random.default_rng(0)
    assert odd_ones(features, rng).tolist() == [2, 1, 0]
    many = np.repeat(features, 3000, axis=0)
    truth = np.repeat([2, 1, 0], 3000)
    assert np.mean(odd_ones(many, rng, random_share=0.3) == truth) == pytest.approx(0.7 + 0.1, abs=0.02)
    near = many / 9  # distances of 1/9, 8/9 and 1
    weights = np.exp(-3.0 * np.array([1 / 9, 8 / 9, 1.0]))
    share = np.mean(odd_ones(near, rng, sharpness=3.0) == truth)
    assert share == pytest.approx(weights[0] / weights.sum(), abs=0.02)


def test_choices_are_logistic():
    rng = np.random.default_rng(0)
    assert choices(np.full(20000, 1.0), rng, beta=2.0).mean() == pytest.approx(1 / (1 + np.exp(-2)), abs=0.01)
    assert choices(np.array([1e3, -1e3]), rng).tolist() == [True, False]
