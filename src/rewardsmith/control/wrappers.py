"""Gymnasium environments that pay a designed reward, and log it beside the task's own.

`RewardWrapper` is for one environment, `VectorRewardWrapper` for `gymnasium.vector` under any autoreset mode (`sb3` has
the one for Stable-Baselines3). Each step's info holds `task_reward` and `reward_parts`; the last step of an episode
also `returns`: the sums of `designed`, `task` and each part over the episode, and its `length`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from rewardsmith.control.transitions import Arrays, TransitionReward, Transitions
from rewardsmith.reward import RewardError, Scores

FRAME_HINT = "put FrameInfo around each single environment, with render_mode='rgb_array'"


class ReturnLog:
    """Sums of designed and task reward over running episodes.

    Args:
        num_envs: E, how many environments run.
        window: how many finished episodes are kept.

    Attributes:
        finished: the last `window` finished episodes, oldest first, each with `designed`, `task`, `length` and
            `part/<name>` of the terms.
    """

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self.finished: deque[dict[str, float]] = deque(maxlen=window)
        self.num_envs = num_envs
        self._sums: dict[str, np.ndarray] = {}

    def reset(self, env: Iterable[int] | None = None) -> None:
        """Drop the sums of unfinished episodes of these environments, or of all."""
        for total in self._sums.values():
            total[slice(None) if env is None else list(env)] = 0.0

    def add(
        self,
        env: np.ndarray,
        task: np.ndarray,
        designed: np.ndarray,
        parts: Mapping[str, np.ndarray],
        done: np.ndarray,
    ) -> dict[int, dict[str, float]]:
        """Count one step of each of the environments `env` (N,), all different; arguments are (N,).

        Returns:
            row -> the sums of the episode that ended there.
        """
        columns = {"designed": designed, "task": task, "length": np.ones(len(env))}
        columns |= {f"part/{name}": part for name, part in parts.items()}
        for name, column in columns.items():
            self._sums.setdefault(name, np.zeros(self.num_envs))[env] += column
        ended = {}
        for row in np.flatnonzero(done).tolist():
            ended[row] = {name: float(total[env[row]]) for name, total in self._sums.items()}
            self.finished.append(ended[row])
        if ended:
            self.reset(env[list(ended)])
        return ended

    def means(self) -> dict[str, float]:
        """Mean over the kept episodes of every sum; empty before the first episode has ended."""
        names = dict.fromkeys(name for episode in self.finished for name in episode)
        return {name: float(np.mean([e[name] for e in self.finished if name in e])) for name in names}


def scored_step(
    reward: TransitionReward, transitions: Transitions, failed_reward: float | None
) -> tuple[Scores, np.ndarray]:
    """Score steps for a learner, which can do with no NaN.

    Returns:
        the scores, and (N,) their values with `failed_reward` where a step has none.

    Raises:
        RewardError: where a step could not be scored and `failed_reward` is None.
    """
    scores = reward.score(transitions)
    if not scores.failures:
        return scores, scores.values
    if failed_reward is None:
        row, failure = next(iter(scores.failures.items()))
        raise RewardError(
            f"environment {transitions.env[row]}: {failure.kind}: {failure.reason}; "
            "give the wrapper failed_reward to go on with a number of your choice"
        )
    return scores, np.where(scores.ok, scores.values, failed_reward)


def copied(observations: Any) -> Any:
    """A copy of an observation or a batch of them; environments may write into theirs."""
    if isinstance(observations, Mapping):
        return {key: np.array(array) for key, array in observations.items()}
    return np.array(observations)


class FrameInfo(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Puts the picture after each step into `info["frame"]`, (H, W, 3) uint8.

    A vector environment resets by itself, so a picture taken of it after the last step shows the next episode; this
    one is taken before. Classic control draws without a display; MuJoCo needs MUJOCO_GL=egl or osmesa there.

    Raises:
        ValueError: where the environment does not render to arrays.
    """

    def __init__(self, env: gym.Env) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        if env.render_mode != "rgb_array":
            raise ValueError(f"frames need an environment made with render_mode='rgb_array', not {env.render_mode!r}")

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {**info, "frame": self.env.render()}


class RewardWrapper(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """One environment with a designed reward in place of its own.

    A reward that needs `frame` gets what the environment renders after the step. Several wrappers may share one
    reward: each has its own number in `Transitions.env`. The reward's step, for scheduled weights, is the number of
    steps taken here.

    Args:
        env: to wrap; with `render_mode="rgb_array"` where the reward needs frames.
        reward: of transitions.
        failed_reward: what a step pays that could not be scored; None raises. Its info then has `reward_failure`.

    Attributes:
        log: returns of the last finished episodes.

    Raises:
        ValueError: where the reward needs frames and the environment does not render to arrays.
    """

    _numbers = itertools.count()

    def __init__(self, env: gym.Env, reward: TransitionReward, *, failed_reward: float | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, reward=reward, failed_reward=failed_reward)
        gym.Wrapper.__init__(self, env)
        if "frame" in reward.needs and env.render_mode != "rgb_array":
            raise ValueError(
                f"{reward.__name__} needs frames: make the environment with render_mode='rgb_array', "
                f"not {env.render_mode!r}"
            )
        self.reward, self.failed_reward = reward, failed_reward
        self.log = ReturnLog(1)
        self.number = next(self._numbers)
        self._steps = 0
        self._last: Any = None
        self._start = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._last, self._start = copied(observation), True
        self.reward.reset([self.number])
        self.log.reset()
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, task, terminated, truncated, info = self.env.step(action)
        following = copied(observation)
        transitions = Transitions(
            _one(self._last),
            np.asarray(action)[None],
            _one(following),
            np.array([terminated]),
            np.array([truncated]),
            infos={name: np.asarray(self._info(name, task, info))[None] for name in self.reward.needs},
            env=np.array([self.number]),
            start=np.array([self._start]),
        )
        self._steps += 1
        self.reward.set_step(self._steps)
        scores, values = scored_step(self.reward, transitions, self.failed_reward)
        self._last, self._start = following, False
        parts = {name: float(part[0]) for name, part in scores.parts.items()}
        info = {**info, "task_reward": float(task), "reward_parts": parts}
        if scores.failures:
            info["reward_failure"] = f"{scores.failures[0].kind}: {scores.failures[0].reason}"
        done = np.array([terminated or truncated])
        for returns in self.log.add(np.zeros(1, int), np.array([float(task)]), values, scores.parts, done).values():
            info["returns"] = returns
        return observation, float(values[0]), terminated, truncated, info

    def _info(self, name: str, task: Any, info: Mapping[str, Any]) -> Any:
        if name == "task_reward":
            return float(task)
        if name in info:
            return info[name]
        if name == "frame":
            return self.env.render()
        raise ValueError(
            f"{self.reward.__name__} needs the info {name!r}, but a step gave only {', '.join(sorted(info)) or 'none'}"
        )


def _one(observation: Any) -> Arrays:
    if isinstance(observation, Mapping):
        return {key: array[None] for key, array in observation.items()}
    return observation[None]


class VectorRewardWrapper(VectorWrapper):
    """A `gymnasium.vector` environment with a designed reward in place of its own.

    Right under every autoreset mode: under NEXT_STEP the step that only resets pays 0 and reaches neither the reward
    nor the log; under SAME_STEP the true last observation and infos are read from `final_obs` and `final_info`.

    Args:
        env: to wrap. Where the reward needs frames, each single environment in `FrameInfo`.
        reward: of transitions; `Transitions.env` is the index of the environment.
        failed_reward: what a step pays that could not be scored; None raises.

    Attributes:
        log: returns of the last finished episodes.
    """

    def __init__(self, env: VectorEnv, reward: TransitionReward, *, failed_reward: float | None = None) -> None:
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if mode is None:
            raise ValueError("the vector environment does not say its metadata['autoreset_mode']")
        self.reward, self.failed_reward = reward, failed_reward
        self.mode = AutoresetMode(mode)
        self.log = ReturnLog(self.num_envs)
        self._steps = 0
        self._last: Any = None
        self._start = np.ones(self.num_envs, dtype=bool)
        self._resets = np.zeros(self.num_envs, dtype=bool)  # whose next step is only a reset

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))  # read first: Gymnasium pops it
        observations, infos = self.env.reset(seed=seed, options=options)
        self._last = copied(observations)
        self._start[mask], self._resets[mask] = True, False
        self.reward.reset(np.flatnonzero(mask).tolist())
        self.log.reset(np.flatnonzero(mask))
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        observations, task, terminated, truncated, infos = self.env.step(actions)
        task, following = np.asarray(task, dtype=np.float64), copied(observations)
        done = terminated | truncated
        final = np.flatnonzero(done) if self.mode is AutoresetMode.SAME_STEP else np.empty(0, dtype=int)
        true_next = copied(following) if len(final) else following
        for row in final.tolist():
            put_row(true_next, row, infos["final_obs"][row])
        rows = np.flatnonzero(~self._resets)
        if not len(rows):  # every environment only resets
            self._last, self._start, self._resets = following, np.ones(self.num_envs, dtype=bool), done
            return observations, np.zeros(self.num_envs), terminated, truncated, infos
        everything = Transitions(
            self._last,
            np.asarray(actions),
            true_next,
            terminated,
            truncated,
            infos={name: self._info(name, task, infos, rows, final) for name in self.reward.needs},
            env=np.arange(self.num_envs),
            start=self._start,
        )
        self._steps += len(rows)
        self.reward.set_step(self._steps)
        designed = np.zeros(self.num_envs)
        scores, designed[rows] = scored_step(
            self.reward, everything if len(rows) == self.num_envs else everything.take(rows), self.failed_reward
        )
        infos = {**infos, "task_reward": task, "_task_reward": ~self._resets}
        infos["reward_parts"] = {name: _spread(part, rows, self.num_envs) for name, part in scores.parts.items()}
        infos["_reward_parts"] = ~self._resets
        if ended := self.log.add(rows, task[rows], designed[rows], scores.parts, done[rows]):
            where = rows[list(ended)]
            names = dict.fromkeys(name for sums in ended.values() for name in sums)
            infos["returns"] = {
                name: _spread(np.array([sums[name] for sums in ended.values()]), where, self.num_envs) for name in names
            }
            infos["_returns"] = np.isin(np.arange(self.num_envs), where)
        self._start = np.zeros(self.num_envs, dtype=bool)
        if self.mode is AutoresetMode.NEXT_STEP:
            self._start[self._resets] = True
            self._resets = done.copy()
        elif self.mode is AutoresetMode.SAME_STEP:
            self._start[final] = True
        if np.any(done):
            self.reward.reset(np.flatnonzero(done).tolist())
        self._last = following
        return observations, designed, terminated, truncated, infos

    def _info(
        self, name: str, task: np.ndarray, infos: Mapping[str, Any], rows: np.ndarray, final: Sequence[int] | np.ndarray
    ) -> np.ndarray:
        """(E, ...) values of an info; those of steps that only reset mean nothing."""
        if name == "task_reward":
            return task
        last = infos.get("final_info", {})
        column, here = infos.get(name), infos.get(f"_{name}", np.zeros(self.num_envs, dtype=bool)).copy()
        if len(final) and name in last:
            column = np.array(last[name] if column is None else column)
            column[final] = last[name][final]
        here[final] = last.get(f"_{name}", np.zeros(self.num_envs, dtype=bool))[final]
        if column is None or not here[rows].all():
            absent = [int(row) for row in rows if not here[row]]
            hint = f"; {FRAME_HINT}" if name == "frame" else ""
            raise ValueError(f"{self.reward.__name__} needs the info {name!r}; environments {absent} gave none{hint}")
        return column


def put_row(batch: Any, row: int, observation: Any) -> None:
    """Write one observation into a batch of them, in place."""
    if isinstance(batch, Mapping):
        for key, array in batch.items():
            array[row] = observation[key]
    else:
        batch[row] = observation


def _spread(values: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    column = np.zeros(size)
    column[rows] = values
    return column
