"""A grid with landmarks, small enough that the best policy for any reward, and its worth, are known exactly.

The agent walks in four directions, without end; one step in ten goes astray. What a reward sees of a cell is how near
each landmark is. The gold reward is a weighted sum of these, some to be sought and some to be kept away from, with
weights that nobody is told: what is told is how good a policy is by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rewardsmith.control.transitions import TransitionReward, Transitions

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])


@dataclass(frozen=True)
class Gridworld:
    """A task on a grid of `size` times `size` cells, S in all.

    Attributes:
        size: cells a side.
        features: (S, d) nearness of each landmark, in (0, 1].
        weights: (d,) the gold reward of being in a cell is weights . features.
        slip: probability that a move goes in a random direction.
        gamma: discount.
    """

    size: int
    features: np.ndarray
    weights: np.ndarray
    slip: float = 0.1
    gamma: float = 0.95

    @classmethod
    def random(cls, rng: np.random.Generator, size: int = 8, landmarks: int = 8) -> Gridworld:
        """Landmarks anywhere, with weights of a normal distribution."""
        cells = np.argwhere(np.ones((size, size), dtype=bool))
        places = cells[rng.choice(len(cells), landmarks, replace=False)]
        squares = np.square(cells[:, None] - places[None]).sum(-1)
        return cls(size, np.exp(-squares / 8.0), rng.standard_normal(landmarks))

    def transitions(self) -> Transitions:
        """All S * 4 moves as transitions of features, in the order of cells, then moves."""
        to = self.successors.ravel()
        rows = len(to)
        return Transitions(
            np.repeat(self.features, len(MOVES), axis=0),
            np.tile(np.arange(len(MOVES)), len(self.features)),
            self.features[to],
            terminated=np.zeros(rows, dtype=bool),
            truncated=np.zeros(rows, dtype=bool),
            start=np.ones(rows, dtype=bool),
        )

    def best_policy(self, rewards: np.ndarray) -> np.ndarray:
        """(S,) the best move in each cell for rewards (S * 4,) of `transitions`, by policy iteration.

        Raises:
            ValueError: where a reward is NaN.
        """
        if np.isnan(rewards).any():
            raise ValueError(f"the reward of {int(np.isnan(rewards).sum())} transitions is NaN")
        table = self._slipped(np.asarray(rewards, dtype=np.float64).reshape(-1, len(MOVES)))
        moves = np.zeros(len(self.features), dtype=np.int64)
        for _ in range(100):
            values = self._values(table, moves)
            q = table + self.gamma * self._chances @ values
            better = np.where(q.max(1) > q[np.arange(len(q)), moves] + 1e-9, q.argmax(1), moves)
            if (better == moves).all():
                break
            moves = better
        return moves

    def fitness(self, policy: np.ndarray) -> float:
        """Worth of a policy by the gold reward, over all starting cells: 1 for the best, 0 for walking at random."""
        low, high = self._extremes
        return float((self._values(self._gold, policy).mean() - low) / (high - low))

    def score(self, reward: TransitionReward) -> float:
        """Fitness of the best policy for a reward."""
        return self.fitness(self.best_policy(reward(self.transitions())))

    @cached_property
    def successors(self) -> np.ndarray:
        """(S, 4) cell that each move leads to when it does not go astray; walls stop."""
        cells = np.argwhere(np.ones((self.size, self.size), dtype=bool))
        to = np.clip(cells[:, None] + MOVES[None], 0, self.size - 1)
        return to[..., 0] * self.size + to[..., 1]

    @cached_property
    def _chances(self) -> np.ndarray:
        """(S, 4, S) probabilities of the cell that follows."""
        straight = np.eye(len(self.features))[self.successors]
        return self._slipped(straight)

    @cached_property
    def _gold(self) -> np.ndarray:
        return self._slipped((self.features @ self.weights)[self.successors])

    @cached_property
    def _extremes(self) -> tuple[float, float]:
        chances, gold = self._chances.mean(1), self._gold.mean(1)
        walk = np.linalg.solve(np.eye(len(gold)) - self.gamma * chances, gold)
        best = self.best_policy((self.features @ self.weights)[self.successors].ravel())
        return float(walk.mean()), float(self._values(self._gold, best).mean())

    def _slipped(self, table: np.ndarray) -> np.ndarray:
        """What comes of moves that go astray, from what comes of them when they do not: (S, 4, ...)."""
        return (1 - self.slip) * table + self.slip * table.mean(1, keepdims=True)

    def _values(self, table: np.ndarray, moves: np.ndarray) -> np.ndarray:
        rows = np.arange(len(moves))
        chances = self._chances[rows, moves]
        return np.linalg.solve(np.eye(len(moves)) - self.gamma * chances, table[rows, moves])
