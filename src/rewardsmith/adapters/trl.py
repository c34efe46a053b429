"""TRL: a reward is a reward function as it is; a weighted sum can also be given to the trainer component by component.

    GRPOTrainer(reward_funcs=reward, ...)                         # one curve, components as metrics
    funcs, weights = split_reward(reward)                         # a mean and a spread for each component, or GDPO
    GRPOTrainer(reward_funcs=funcs, args=GRPOConfig(reward_weights=weights, ...), ...)

`reward.as_async()` is a reward function that TRL runs beside the other asynchronous ones. A reward with running
statistics keeps them with the trainer's checkpoints by `callbacks=[shaping.save_reward_state(reward)]`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from rewardsmith.data.records import Text
from rewardsmith.reward import Combination, Reward, called_batch


def split_reward(reward: Reward) -> tuple[list[Component], list[float]]:
    """The components of a weighted sum as TRL reward functions, and their weights for `GRPOConfig(reward_weights=...)`.

    TRL adds up what it gets and leaves None out, so a component that fails alone would count as 0. Here a sample that
    any component could not score is None in all of them, as it is NaN in the sum. A batch is scored once.

    A scheduled weight stays inside its component (TRL's weights are constants) and gets the weight 1.

    Raises:
        TypeError: where `reward` is not a sum.
        ValueError: where the sum has a constant term, which TRL has no place for (advantages do not depend on it).
    """
    if not isinstance(reward, Combination) or reward.op != "sum":
        raise TypeError(f"{reward.__name__} is not a sum of rewards: give it to the trainer as it is")
    if reward.bias != 0:
        raise ValueError(f"the sum has a constant term, {reward.bias:g}: leave it out, advantages do not depend on it")
    shared = _SharedScores(reward)
    components = [Component(shared, index) for index in range(len(reward.rewards))]
    return components, [1.0 if callable(weight) else float(weight) for weight in reward.weights]


class Component:
    """One component of a sum, with TRL's signature. Made by `split_reward`."""

    def __init__(self, shared: _SharedScores, index: int) -> None:
        self.shared, self.index = shared, index
        self.__name__ = shared.reward.names[index]

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        completion_ids: Sequence[Sequence[int]] | None = None,
        *,
        trainer_state: Any = None,
        **columns: Any,
    ) -> list[float | None]:
        values = self.shared.values(
            self.index, prompts, completions, trainer_state, {"completion_ids": completion_ids, **columns}
        )
        return [None if np.isnan(v) else float(v) for v in values]


class _SharedScores:
    """Scores a batch when its first component is asked for, and keeps the (K, B) values for the others."""

    def __init__(self, reward: Combination) -> None:
        self.reward = reward
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._batch: tuple[Any, Any] | None = None
        self._asked: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {"reward": self.reward}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.reward = state["reward"]
        self._reset()

    def values(self, index: int, prompts: Any, completions: Any, state: Any, columns: dict[str, Any]) -> np.ndarray:
        """(B,) values of component `index`, NaN where any component failed."""
        with self._lock:
            # The trainer hands the same two lists to every component; one that asks again has a new batch.
            same = self._batch is not None and self._batch[0] is prompts and self._batch[1] is completions
            if not same or index in self._asked:
                if state is not None:
                    self.reward.set_step(int(state.global_step))
                scores = self.reward.resolved(called_batch(prompts, completions, **columns))
                values = np.stack([scores.parts[name] for name in self.reward.names])
                inside = [
                    self.reward.current_weights()[k] if callable(w) else 1.0 for k, w in enumerate(self.reward.weights)
                ]
                self._values = np.where(np.isnan(values).any(axis=0), np.nan, values * np.array(inside)[:, None])
                self._batch, self._asked = (prompts, completions), set()
            self._asked.add(index)
            return self._values[index]
