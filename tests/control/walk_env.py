"""A walk on a line for the tests of wrappers: position 0 to 3, over at 3, cut off after five steps."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from rewardsmith.control.composer import Composer
from rewardsmith.control.potential import PotentialShaping
from rewardsmith.control.transitions import TaskReward, from_transition_function

GAMMA = 0.9


class Walk(gym.Env):
    """Action 1 goes right, 0 stays. With `reuse` it always observes with the same array, as some environments do."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 10, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, dictionary: bool = False, reuse: bool = False) -> None:
        self.render_mode, self.dictionary, self.reuse = render_mode, dictionary, reuse
        self.buffer = np.zeros(2, np.float32)
        if dictionary:
            self.observation_space = gym.spaces.Dict({"place": gym.spaces.Box(0, 10, (2,), np.float32)})

    def _observe(self) -> Any:
        seen = self.buffer if self.reuse else self.buffer.copy()
        return {"place": seen} if self.dictionary else seen

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.buffer[:] = 0
        return self._observe(), {"squared": 0.0}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        self.buffer += (action, 1)
        done = bool(self.buffer[0] == 3)
        info = {"squared": float(self.buffer[0]) ** 2}
        return self._observe(), float(10 * done), done, bool(self.buffer[1] == 5), info

    def render(self) -> np.ndarray:
        frame = np.zeros((4, 4, 3), np.uint8)
        frame[:, int(self.buffer[0])] = 50 + int(self.buffer[1])
        return frame


def place(observations: Any) -> np.ndarray:
    """The potential: the position, up to 3."""
    observations = observations["place"] if isinstance(observations, dict) else observations
    return observations[:, 0] + 1.0


def new_places(next_observation: Any, memory: dict) -> float:
    """1 for each position that is new in this episode."""
    here = float((next_observation["place"] if isinstance(next_observation, dict) else next_observation)[0])
    seen = memory.setdefault("seen", set())
    new = here not in seen
    seen.add(here)
    return float(new)


def far(squared: np.ndarray) -> np.ndarray:
    """Reads an info."""
    return squared * 0.01


def brightness(frame: np.ndarray) -> np.ndarray:
    """Mean of the pixels: 4 of 16 are lit."""
    return frame.astype(float).mean(axis=(1, 2, 3))


def design(frames: bool = False) -> Composer:
    """Everything that a wrapper has to get right: task, potential, memory, an info, and frames."""
    reward = (
        TaskReward()
        + 2 * PotentialShaping(place, GAMMA)
        + from_transition_function(new_places)
        + from_transition_function(far)
    )
    return reward + from_transition_function(brightness) if frames else reward


def expected(actions: list[int], frames: bool = False) -> list[tuple[float, bool]]:
    """(designed reward, episode ended) of each step by hand, resetting where an episode ends."""
    out, position, time, seen = [], 0, 0, set()
    for action in actions:
        before, position, time = position, position + action, time + 1
        terminated, truncated = position == 3, time == 5
        shaped = GAMMA * (0 if terminated else position + 1) - (before + 1)
        new = float(position not in seen)
        seen.add(position)
        reward = 10 * terminated + 2 * shaped + new + 0.01 * position**2 + frames * (50 + time) / 4
        out.append((reward, terminated or truncated))
        if terminated or truncated:
            position, time, seen = 0, 0, set()
    return out
