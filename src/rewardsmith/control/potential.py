"""Potential-based shaping: Ng, Harada and Russell 1999, "Policy invariance under reward transformations", Theorem 1.

F(s, a, s') = gamma * phi(s') - phi(s), with phi = 0 in terminal states. A time limit is no terminal state: the return
that the learner bootstraps there holds phi(s'), so zeroing it would change which policy is best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rewardsmith.control.transitions import Arrays, TransitionReward, Transitions
from rewardsmith.reward import Scores


class PotentialShaping(TransitionReward):
    """gamma * phi(s') - phi(s): changes how quickly a task is learned, not which policies are best.

    Nothing is remembered between steps, so autoreset cannot mix two episodes.

    Args:
        phi: potential of M observations (M, ...), a mapping of arrays for a Dict space -> (M,). Called once a batch
            with the 2 N observations before and after.
        gamma: the learner's own discount, in (0, 1]; with another one the best policies may change.

    Raises:
        ValueError: for gamma outside (0, 1].
    """

    __name__ = "shaping"

    def __init__(self, phi: Callable[[Any], np.ndarray], gamma: float, *, name: str | None = None) -> None:
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma must be the learner's discount in (0, 1], not {gamma}")
        self.phi, self.gamma = phi, float(gamma)
        if name is not None:
            self.__name__ = name

    def score(self, transitions: Transitions) -> Scores:
        rows = len(transitions)
        both = _stack(transitions.observations, transitions.next_observations)
        potential = np.asarray(self.phi(both), dtype=np.float64)
        if potential.shape != (2 * rows,):
            raise ValueError(f"phi returned shape {potential.shape} for {2 * rows} observations; it must be (M,)")
        before, after = potential[:rows], np.where(transitions.terminated, 0.0, potential[rows:])
        return Scores(self.gamma * after - before)


def _stack(first: Arrays, second: Arrays) -> Arrays:
    if isinstance(first, Mapping):
        return {key: np.concatenate([first[key], second[key]]) for key in first}
    return np.concatenate([first, second])
