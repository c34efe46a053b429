"""What can be read from an embedding: exact cases."""

from __future__ import annotations

import numpy as np
import pytest

from rewardsmith.evaluation.representations import feature_prediction_error, reward_transfer

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(400, 3)) * np.array([1.0, 2.0, 0.5])
HALF = np.arange(400) < 200


def test_linear_images_of_the_features_lose_nothing():
    vectors = FEATURES @ RNG.normal(size=(3, 5)) + 7.0
    found = feature_prediction_error(vectors, FEATURES, HALF)
    assert found.mse < 1e-20 and found.relative < 1e-20


def test_an_embedding_without_information_leaves_the_variance():
    found = feature_prediction_error(np.zeros((400, 2)), FEATURES, HALF)
    rest, mean = FEATURES[~HALF], FEATURES[HALF].mean(0)
    assert found.mse == pytest.approx(np.square(rest - mean).mean())
    assert found.relative == pytest.approx(found.mse / rest.var(0).mean()) and found.relative >= 1.0
    with pytest.raises(ValueError, match="400 vectors, 399 features"):
        feature_prediction_error(np.zeros((400, 2)), FEATURES[1:], HALF)
    with pytest.raises(ValueError, match="to predict"):
        feature_prediction_error(np.zeros((400, 2)), FEATURES, np.ones(400, dtype=bool))


def test_more_preferences_teach_more_and_noise_teaches_nothing():
    few = reward_transfer(FEATURES, FEATURES, HALF, queries=5, tests=500)
    many = reward_transfer(FEATURES, FEATURES, HALF, queries=200, tests=500)
    assert few.shape == (10,) and many.mean() > max(few.mean(), 0.9)
    nothing = reward_transfer(RNG.normal(size=(400, 3)), FEATURES, HALF, queries=200, tests=500)
    assert nothing.mean() == pytest.approx(0.5, abs=0.06)
    scaled = reward_transfer(FEATURES * np.array([100.0, 1.0, 0.01]) - 5, FEATURES, HALF, queries=200, tests=500)
    np.testing.assert_allclose(scaled, many)
