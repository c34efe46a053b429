"""Stable-Baselines3 environments that pay a designed reward, and log it beside the task's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from rewardsmith.control.transitions import TransitionReward, Transitions
from rewardsmith.control.wrappers import FRAME_HINT, ReturnLog, copied, put_row, scored_step


def info_column(name: str, task: np.ndarray, infos: list[dict[str, Any]], reward: TransitionReward) -> np.ndarray:
    """(E, ...) values of one info of a step of E environments; `task_reward` is `task`.

    Raises:
        ValueError: where an environment gave none.
    """
    if name == "task_reward":
        return np.asarray(task, dtype=np.float64)
    if absent := [index for index, info in enumerate(infos) if name not in info]:
        hint = f"; {FRAME_HINT}" if name == "frame" else ""
        raise ValueError(f"{reward.__name__} needs the info {name!r}; environments {absent} gave none{hint}")
    return np.stack([np.asarray(info[name]) for info in infos])


class VecRewardWrapper(VecEnvWrapper):
    """A `VecEnv` with a designed reward in place of its own, scored for all environments at once.

    The observation after the last step of an episode is `terminal_observation`, not the first one of the next episode.
    Put it inside `VecNormalize`, so that the reward sees observations as they are; a `Monitor` inside it logs the
    task's return, a `VecMonitor` around it the designed one, and `returns` in the infos has both.

    Args:
        venv: to wrap. Where the reward needs frames, each single environment in `FrameInfo`.
        reward: of transitions; `Transitions.env` is the index of the environment. Its step, for scheduled weights, is
            the number of steps of all environments, SB3's `num_timesteps`.
        failed_reward: what a step pays that could not be scored; None raises.

    Attributes:
        log: returns of the last finished episodes.
    """

    def __init__(self, venv: VecEnv, reward: TransitionReward, *, failed_reward: float | None = None) -> None:
        super().__init__(venv)
        self.reward, self.failed_reward = reward, failed_reward
        self.log = ReturnLog(venv.num_envs)
        self._steps = 0
        self._last: Any = None
        self._actions: Any = None
        self._start = np.ones(venv.num_envs, dtype=bool)

    def reset(self) -> Any:
        observations = self.venv.reset()
        self._last = copied(observations)
        self._start[:] = True
        self.reward.reset(range(self.num_envs))
        self.log.reset()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observations, task, done, infos = self.venv.step_wait()
        following = copied(observations)
        true_next = copied(following) if done.any() else following
        for row in np.flatnonzero(done).tolist():
            put_row(true_next, row, infos[row]["terminal_observation"])
        truncated = done & np.array([info.get("TimeLimit.truncated", False) for info in infos], dtype=bool)
        transitions = Transitions(
            self._last,
            self._actions,
            true_next,
            done & ~truncated,
            truncated,
            infos={name: info_column(name, task, infos, self.reward) for name in self.reward.needs},
            env=np.arange(self.num_envs),
            start=self._start,
        )
        self._steps += self.num_envs
        self.reward.set_step(self._steps)
        scores, designed = scored_step(self.reward, transitions, self.failed_reward)
        ended = self.log.add(transitions.env, task, designed, scores.parts, done)
        for row, info in enumerate(infos):
            info["task_reward"] = float(task[row])
            info["reward_parts"] = {name: float(part[row]) for name, part in scores.parts.items()}
            if row in ended:
                info["returns"] = ended[row]
            if row in scores.failures:
                info["reward_failure"] = f"{scores.failures[row].kind}: {scores.failures[row].reason}"
        if done.any():
            self.reward.reset(np.flatnonzero(done).tolist())
        self._last, self._start = following, done.copy()
        return observations, designed.astype(np.float32), done, infos


class ReturnsCallback(BaseCallback):
    """Logs means of `returns` over the last 100 episodes: `reward/designed`, `reward/task`, `reward/part/<name>`.

    Reads the infos, so that it works with `VecRewardWrapper` as with `RewardWrapper` in any `VecEnv`.
    """

    def __init__(self, window: int = 100) -> None:
        super().__init__()
        self.log = ReturnLog(1, window)

    def _on_step(self) -> bool:
        if ended := [info["returns"] for info in self.locals["infos"] if "returns" in info]:
            self.log.finished.extend(ended)
            for name, mean in self.log.means().items():
                self.logger.record(f"reward/{name}", mean)
        return True
