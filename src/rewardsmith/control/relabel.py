"""A replay buffer of Stable-Baselines3 whose rewards are written after the roll-out, in large batches.

For rewards that are costly one step at a time, such as those of pictures (Rocamonde et al. 2024, Section 4: episodes
are collected first, then their frames are scored together and the rewards written over the task's own):

    DQN("MlpPolicy", env, replay_buffer_class=RelabeledReplayBuffer, replay_buffer_kwargs={"reward": reward})
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from rewardsmith.control.sb3 import info_column
from rewardsmith.control.transitions import TransitionReward, Transitions
from rewardsmith.control.wrappers import ReturnLog, scored_step


class RelabeledReplayBuffer(ReplayBuffer):
    """Stores steps with no reward (NaN), and scores all that wait at once before anything is sampled.

    Infos that the reward needs, `frame` for instance, are kept only until then. Terminal states are told from time
    limits as SB3 does it, and continuous actions are scored as the environment got them, not scaled to [-1, 1].

    Args:
        buffer_size: steps of all environments together; the others up to `handle_timeout_termination` as in SB3.
        reward: of transitions.
        max_bytes: score at the latest when the infos that wait are this large; a frame of CartPole has 720,000.
        failed_reward: what a step pays that could not be scored; None raises.

    Attributes:
        task_rewards: (buffer_size, n_envs) what the environment paid, beside `rewards`.
        log: returns of the last finished episodes, designed and task.

    Raises:
        ValueError: under `optimize_memory_usage`, which does not keep the last observations of episodes.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        reward: TransitionReward,
        max_bytes: int = 2**29,
        failed_reward: float | None = None,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage loses the last observation of each episode; leave it off")
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs=n_envs,
            handle_timeout_termination=handle_timeout_termination,
        )
        self.reward, self.failed_reward, self.max_bytes = reward, failed_reward, max_bytes
        self.task_rewards = np.zeros_like(self.rewards)
        self.log = ReturnLog(n_envs)
        self._steps = self._bytes = 0
        self._waiting: list[tuple[int, np.ndarray, np.ndarray, dict[str, np.ndarray]]] = []
        self._last_next: np.ndarray | None = None
        self._last_done = np.ones(n_envs, dtype=bool)

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        position = self.pos
        # An episode also starts where the environment was reset before its end, as each call of `learn` does.
        jumped = np.ones(self.n_envs, dtype=bool)
        if self._last_next is not None:
            jumped = np.any((np.asarray(obs) != self._last_next).reshape(self.n_envs, -1), axis=1)
        done = np.asarray(done, dtype=bool)
        truncated = done & np.array([info.get("TimeLimit.truncated", False) for info in infos], dtype=bool)
        columns = {name: info_column(name, reward, infos, self.reward) for name in self.reward.needs}
        super().add(obs, next_obs, action, reward, done, infos)
        self.task_rewards[position] = reward
        self.rewards[position] = np.nan
        self._waiting.append((position, self._last_done | jumped, truncated, columns))
        self._last_next, self._last_done = np.array(next_obs), done
        self._steps += self.n_envs
        self._bytes += sum(column.nbytes for column in columns.values())
        if self._bytes >= self.max_bytes or len(self._waiting) == self.buffer_size:
            self.relabel()

    def relabel(self) -> None:
        """Score the steps that wait for it, write their rewards, and let go of their infos."""
        if not self._waiting:
            return
        positions = np.array([position for position, *_ in self._waiting])
        steps, envs = len(positions), self.n_envs
        start, truncated = (np.stack([one[k] for one in self._waiting]).ravel() for k in (1, 2))  # type: ignore[misc]
        done = self.dones[positions].ravel().astype(bool)
        transitions = Transitions(
            _as_given(self.observations[positions], self.observation_space),
            _as_given(self._unscaled(self.actions[positions]), self.action_space),
            _as_given(self.next_observations[positions], self.observation_space),
            done & ~truncated,
            truncated,
            infos={name: np.concatenate([one[3][name] for one in self._waiting]) for name in self.reward.needs},
            env=np.tile(np.arange(envs), steps),
            start=start,
        )
        self.reward.set_step(self._steps)
        scores, values = scored_step(self.reward, transitions, self.failed_reward)
        self.rewards[positions] = values.reshape(steps, envs)
        task = self.task_rewards[positions].ravel()
        for row in range(0, steps * envs, envs):
            now = slice(row, row + envs)
            if start[now].any():
                self.log.reset(np.flatnonzero(start[now]))
            parts = {name: part[now] for name, part in scores.parts.items()}
            self.log.add(np.arange(envs), task[now], values[now], parts, done[now])
        self._waiting.clear()
        self._bytes = 0

    def _unscaled(self, actions: np.ndarray) -> np.ndarray:
        if not isinstance(self.action_space, spaces.Box):
            return actions
        low, high = self.action_space.low.ravel(), self.action_space.high.ravel()
        return low + 0.5 * (actions + 1.0) * (high - low)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        if env is not None and env.norm_reward:
            raise ValueError("VecNormalize has seen the task's rewards, not the designed ones: set norm_reward=False")
        self.relabel()
        return super().sample(batch_size, env)


def _as_given(stored: np.ndarray, space: spaces.Space) -> np.ndarray:
    """(steps, envs, ...) -> (N, ...) in the shape of the space; SB3 adds a dimension to numbers."""
    return stored.reshape(-1, *(space.shape or ()))


class RelabelCallback(BaseCallback):
    """Relabels at the end of each roll-out and logs `reward/designed`, `reward/task` and `reward/part/<name>`."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.replay_buffer  # type: ignore[attr-defined]
        buffer.relabel()
        for name, mean in buffer.log.means().items():
            self.logger.record(f"reward/{name}", mean)
