"""Running statistics of rewards, which save and resume with a training run."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass
class RunningMoments:
    """Mean, population standard deviation and extremes of every reward seen so far (Chan et al. 1979, parallel update).

    Attributes:
        count: rewards seen. NaN is not one.
        mean: of them, 0 before the first.
        sum_squares: sum of squared distances from the mean.
        low, high: extremes; infinities before the first.
    """

    count: int = 0
    mean: float = 0.0
    sum_squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def update(self, values: np.ndarray) -> None:
        """Take a batch (B,) in; NaN entries are passed over."""
        values = np.asarray(values, dtype=np.float64)
        values = values[~np.isnan(values)]
        if not len(values):
            return
        total = self.count + len(values)
        delta = float(values.mean()) - self.mean
        self.sum_squares += float(np.square(values - values.mean()).sum()) + delta**2 * self.count * len(values) / total
        self.mean += delta * len(values) / total
        self.count = total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    @property
    def std(self) -> float:
        """Population standard deviation, 0 before the first reward."""
        return math.sqrt(self.sum_squares / self.count) if self.count else 0.0

    def state_dict(self) -> dict[str, Any]:
        """JSON; before the first reward the extremes are null."""
        return {name: None if math.isinf(value) else value for name, value in asdict(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if set(state) != set(asdict(self)):
            raise ValueError(f"not the state of running moments: {sorted(state)}")
        empty = RunningMoments()
        for name, value in state.items():
            setattr(self, name, getattr(empty, name) if value is None else value)
