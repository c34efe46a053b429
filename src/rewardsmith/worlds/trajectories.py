"""Trajectories whose true features are known, and a person who sees them: what similarity queries are tested on.

`grid_robot` is after the GridRobot of paper 62 (Bobu et al. 2023); `distractors` hides the features among numbers that
vary more and mean nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trajectories:
    """N behaviours.

    Attributes:
        raw: (N, D) what a model sees.
        features: (N, K) what people see.
    """

    raw: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.raw)


def distractors(
    rng: np.random.Generator, count: int, *, matter: int = 3, nuisance: int = 17, spread: float = 4.5
) -> Trajectories:
    """Vectors of `matter` dimensions of standard deviation 1.5, which matter, and `nuisance` others of `spread`."""
    scales = np.repeat([1.5, spread], [matter, nuisance])
    raw = rng.normal(size=(count, matter + nuisance)) * scales
    return Trajectories(raw, raw[:, :matter] / 0.5)


def grid_robot(rng: np.random.Generator, size: int = 5, objects: int = 3, angles: int = 7) -> Trajectories:
    """Every way of a robot arm across a grid, from corner to corner without going back, with every end angle.

    The raw numbers are the cells (x, y in [-1, 1]) in order and the angle (in [-1, 1]): 19 for 5 x 5 cells. The
    features are the sum of distances to each of a few objects at random places, and how far the angle is from upright;
    each in [0, 1] over all behaviours.
    """
    moves = 2 * (size - 1)
    paths = np.zeros((0, moves + 1, 2))
    for ups in itertools.combinations(range(moves), size - 1):
        step = np.zeros((moves, 2))
        step[:, 0] = 1
        step[list(ups)] = (0, 1)
        paths = np.concatenate([paths, np.concatenate([np.zeros((1, 2)), step.cumsum(0)])[None]])
    places = rng.uniform(0, size - 1, (objects, 2))
    distances = np.linalg.norm(paths[:, :, None] - places, axis=-1).sum(1)  # (paths, objects)
    angle = np.linspace(-1, 1, angles)
    which, turned = (grid.ravel() for grid in np.meshgrid(np.arange(len(paths)), angle, indexing="ij"))
    features = np.column_stack([distances[which], np.abs(turned)])
    width = np.ptp(features, axis=0)
    features = (features - features.min(0)) / np.where(width > 0, width, 1.0)
    cells = paths.reshape(len(paths), -1) / (size - 1) * 2 - 1
    return Trajectories(np.column_stack([cells[which], turned]), features)


def odd_ones(
    features: np.ndarray, rng: np.random.Generator, *, sharpness: float | None = None, random_share: float = 0.0
) -> np.ndarray:
    """(Q,) the odd one out of each triple, to somebody who sees the true features.

    Args:
        features: (Q, 3, K).
        rng: of the answers.
        sharpness: the two most alike are a pair with probability proportional to exp(-sharpness * distance); None: the
            nearest pair.
        random_share: of answers that are random.
    """
    pairs = np.array([(1, 2), (0, 2), (0, 1)])  # by the odd one out
    distances = np.linalg.norm(features[:, pairs[:, 0]] - features[:, pairs[:, 1]], axis=-1)  # (Q, 3)
    worth = -distances
    if sharpness is not None:
        worth = sharpness * worth + rng.gumbel(size=distances.shape)
    odd = worth.argmax(1)
    return np.where(rng.random(len(odd)) < random_share, rng.integers(0, 3, len(odd)), odd)


def choices(gaps: np.ndarray, rng: np.random.Generator, beta: float = 1.0) -> np.ndarray:
    """(P,) bool: whether the first of a pair is chosen, with probability sigmoid(beta * gap) of its reward's lead."""
    return beta * np.asarray(gaps) + rng.logistic(size=len(gaps)) > 0
