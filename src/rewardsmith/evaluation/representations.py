"""How good an embedding is for rewards (paper 62, Bobu et al. 2023): what can be read from it, and what it teaches.

Both measures need the true features of a simulated world.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rewardsmith.evaluation.metrics import sigmoid


@dataclass(frozen=True)
class FeatureError:
    """Feature prediction error.

    Attributes:
        mse: mean squared error of the features, on the rows that were not fitted.
        relative: `mse` over the variance of the features there: 0 is perfect, 1 what their mean would give.
    """

    mse: float
    relative: float


def feature_prediction_error(vectors: np.ndarray, features: np.ndarray, fitted: np.ndarray) -> FeatureError:
    """How well least squares reads the true features from an embedding.

    Args:
        vectors: (N, m) embeddings.
        features: (N, K) true features.
        fitted: (N,) bool: the rows that are fitted; the others are predicted.

    Raises:
        ValueError: where the rows differ in number, or fewer than two are left to predict.
    """
    vectors, features = np.asarray(vectors, dtype=np.float64), np.asarray(features, dtype=np.float64)
    fitted = np.asarray(fitted, dtype=bool)
    if not len(vectors) == len(features) == len(fitted):
        raise ValueError(f"{len(vectors)} vectors, {len(features)} features, {len(fitted)} marks")
    if (~fitted).sum() < 2 or not fitted.any():
        raise ValueError("there must be rows to fit, and two or more to predict")
    center = vectors[fitted].mean(0)
    inputs = np.column_stack([vectors - center, np.ones(len(vectors))])
    weights = np.linalg.lstsq(inputs[fitted], features[fitted], rcond=None)[0]
    rest = features[~fitted]
    mse = float(np.square(inputs[~fitted] @ weights - rest).mean())
    return FeatureError(mse, mse / float(rest.var(axis=0).mean()))


def reward_transfer(
    vectors: np.ndarray,
    features: np.ndarray,
    fitted: np.ndarray,
    *,
    queries: int = 20,
    rewards: int = 10,
    tests: int = 2000,
    beta: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Test preference accuracy: how well new rewards are learned from a few preferences on an embedding.

    Each reward is linear in the true features, with a random direction of norm 1. Its preferences are Boltzmann choices
    between two random rows of those marked; logistic regression on the difference of their vectors, each dimension with
    unit variance, predicts which of two others has the higher reward.

    Args:
        vectors: (N, m) embeddings.
        features: (N, K) true features.
        fitted: (N,) bool: rows for preferences; the others are for tests.
        queries: preferences per reward.
        rewards: how many.
        tests: pairs per reward.
        beta: inverse temperature of the choices, per standard deviation of the reward.
        seed: of rewards, pairs and choices: equal seeds ask the same of every embedding.

    Returns:
        (rewards,) accuracies.
    """
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    fitted = np.asarray(fitted, dtype=bool)
    spread = vectors[fitted].std(0)
    scaled = (vectors - vectors[fitted].mean(0)) / np.where(spread > 0, spread, 1.0)
    rows, rest = np.flatnonzero(fitted), np.flatnonzero(~fitted)
    out = np.empty(rewards)
    for number in range(rewards):
        theta = rng.normal(size=features.shape[1])
        returns = features @ (theta / np.linalg.norm(theta))
        returns = returns / returns[fitted].std()
        a, b = rng.choice(rows, (2, queries))
        won = rng.random(queries) < sigmoid(beta * (returns[a] - returns[b]))
        first, second = rng.choice(rest, (2, tests))
        gap, truth = scaled[first] - scaled[second], returns[first] - returns[second]
        if won.all() or not won.any():  # one class: both orders of each pair say the same
            a, b, won = np.r_[a, b], np.r_[b, a], np.r_[won, ~won]
        found = LogisticRegression(fit_intercept=False).fit(scaled[a] - scaled[b], won)
        differ = truth != 0
        out[number] = np.mean((gap @ found.coef_[0] > 0)[differ] == (truth > 0)[differ])
    return out
