"""Rewards that are written into a replay buffer after the roll-out are those of direct scoring, wherever it wraps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from walk_env import Walk, design, expected

from rewardsmith.control.relabel import RelabelCallback, RelabeledReplayBuffer
from rewardsmith.control.sb3 import VecRewardWrapper
from rewardsmith.control.transitions import TransitionReward, from_transition_function
from rewardsmith.control.vision import VisionReward
from rewardsmith.control.wrappers import FrameInfo

ACTIONS = np.random.default_rng(1).integers(0, 2, (47, 2))


def walk() -> gym.Env:
    return FrameInfo(Walk("rgb_array"))


def filled(size: int, **options) -> tuple[RelabeledReplayBuffer, np.ndarray]:
    """A buffer after 47 steps of two environments, and (47, 2) rewards of the same steps through the wrapper."""
    plain, wrapped = DummyVecEnv([walk] * 2), VecRewardWrapper(DummyVecEnv([walk] * 2), design(frames=True))
    buffer = RelabeledReplayBuffer(
        2 * size, plain.observation_space, plain.action_space, n_envs=2, reward=design(frames=True), **options
    )
    last, direct = plain.reset(), []
    wrapped.reset()
    for actions in ACTIONS:
        observations, rewards, dones, infos = plain.step(actions)
        following = observations.copy()
        for row in np.flatnonzero(dones):
            following[row] = infos[row]["terminal_observation"]
        buffer.add(last, following, actions, rewards, dones, infos)
        last = observations
        direct.append(wrapped.step(actions)[1])
    return buffer, np.array(direct)


@pytest.mark.parametrize("size", [100, 47, 20, 7])
@pytest.mark.parametrize("max_bytes", [2**29, 600])  # 600: every six steps
def test_relabeled_rewards_are_the_direct_ones_also_round_the_end(size, max_bytes):
    buffer, direct = filled(size, max_bytes=max_bytes)
    assert len(buffer._waiting) < size and (max_bytes > 600 or len(buffer._waiting) < 6)
    np.testing.assert_allclose(direct[:, 0], [r for r, _ in expected(ACTIONS[:, 0].tolist(), True)], rtol=1e-5)
    buffer.relabel()
    for age in range(min(size, 47)):  # the newest first
        np.testing.assert_allclose(buffer.rewards[(buffer.pos - 1 - age) % size], direct[-1 - age], atol=1e-6)


def test_returns_are_logged_apart():
    buffer, direct = filled(20)
    buffer.relabel()
    ends = [np.flatnonzero([end for _, end in expected(ACTIONS[:, env].tolist())]) for env in range(2)]
    sums = [float(part.sum()) for env in range(2) for part in np.split(direct[:, env], ends[env] + 1)[:-1]]
    assert sorted(e["designed"] for e in buffer.log.finished) == pytest.approx(sorted(sums), rel=1e-5)
    assert {e["task"] for e in buffer.log.finished} == {0.0, 10.0}


def test_sampling_relabels_first():
    buffer, direct = filled(60)
    assert np.isnan(buffer.rewards[:47]).all()
    sampled = buffer.sample(500).rewards.numpy()
    assert set(np.round(sampled.ravel(), 4)) <= set(np.round(direct.ravel(), 4))
    assert not buffer._waiting


def test_continuous_actions_are_scored_as_the_environment_got_them():
    reward = from_transition_function(lambda actions: actions[:, 0])
    model = SAC(
        "MlpPolicy",
        "Pendulum-v1",  # torques in [-2, 2]
        learning_starts=100,
        replay_buffer_class=RelabeledReplayBuffer,
        replay_buffer_kwargs={"reward": reward},
        seed=0,
    )
    model.learn(50, callback=RelabelCallback())
    stored = model.replay_buffer
    np.testing.assert_allclose(stored.rewards[:50, 0], 2 * stored.actions[:50, 0, 0], atol=1e-6)
    assert np.abs(stored.rewards[:50]).max() > 1.2
    assert (stored.task_rewards[:50] < 0).all()


def test_memory_begins_anew_where_the_environment_was_reset_early():
    def count(memory: dict) -> float:
        memory["n"] = memory.get("n", 0) + 1
        return float(memory["n"])

    model = DQN(
        "MlpPolicy",
        DummyVecEnv([Walk]),
        learning_starts=1000,
        train_freq=2,
        replay_buffer_class=RelabeledReplayBuffer,
        replay_buffer_kwargs={"reward": from_transition_function(count)},
        seed=0,
    )
    for _ in range(2):  # each call resets the environment; two steps end no episode
        model.learn(2, callback=RelabelCallback())
    assert model.replay_buffer.rewards[:4, 0].tolist() == [1, 2, 1, 2]
    assert not model.replay_buffer.log.finished


def test_what_cannot_be_right_is_refused():
    spaces = (Walk.observation_space, Walk.action_space)
    with pytest.raises(ValueError, match="optimize_memory_usage loses"):
        RelabeledReplayBuffer(10, *spaces, optimize_memory_usage=True, reward=design())
    buffer, _ = filled(20)
    with pytest.raises(ValueError, match="norm_reward=False"):
        buffer.sample(4, VecNormalize(DummyVecEnv([Walk] * 2)))


class Line(gym.Env):
    """A point on a line of 16 places, drawn as 16 x 16 pixels; at the last place is success. No early end."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)
    render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        self.place, self.time = int(self.np_random.integers(0, 12)), 0
        return self._see(), {}

    def _see(self) -> np.ndarray:
        return np.array([self.place / 15], np.float32)

    def step(self, action: int):
        self.place = int(np.clip(self.place + int(action) - 1, 0, 15))
        self.time += 1
        return self._see(), float(self.place == 15), False, self.time == 20, {}

    def render(self) -> np.ndarray:
        frame = np.full((16, 16, 3), 200, np.uint8)
        frame[6:10, self.place] = (255, 0, 0)
        return frame


class Sight:
    """A stub encoder that is monotone in the place of the red mark."""

    def encode_image(self, frames: np.ndarray) -> np.ndarray:
        red = (frames[..., 1] == 0).sum(axis=1)
        place = (red @ np.arange(16)) / red.sum(axis=1)
        return np.stack([np.cos(place / 15), np.sin(place / 15)], axis=1)

    def encode_text(self, texts) -> np.ndarray:
        return np.array([{"left": (1.0, 0.0), "right": (np.cos(1.0), np.sin(1.0))}[text] for text in texts])


def success(reward: TransitionReward) -> float:
    """Share of episodes that a DQN ends at the goal, trained on frames alone."""
    model = DQN(
        "MlpPolicy",
        DummyVecEnv([lambda: FrameInfo(Line())] * 4),
        learning_rate=3e-3,
        train_freq=20,
        gradient_steps=20,
        learning_starts=400,
        target_update_interval=100,
        batch_size=64,
        gamma=0.9,
        exploration_fraction=0.6,
        policy_kwargs={"net_arch": [32]},
        replay_buffer_class=RelabeledReplayBuffer,
        replay_buffer_kwargs={"reward": reward},
        seed=0,
    )
    model.learn(4000, callback=RelabelCallback())
    at_goal, env = [], Line()
    for start in range(12):
        observation, _ = env.reset(seed=start)
        for _ in range(20):
            observation, *_ = env.step(int(model.predict(observation, deterministic=True)[0]))
        at_goal.append(env.place == 15)
    return float(np.mean(at_goal))


@pytest.mark.parametrize("sees", [True, False])
def test_an_agent_learns_from_frames_and_not_from_a_constant(sees):
    if sees:
        assert success(VisionReward(Sight(), "right", "left", 0.5)) >= 0.9
    else:
        constant = from_transition_function(lambda terminated: np.full(len(terminated), 0.5))
        assert success(constant) <= 0.3


def test_the_example_runs_offline():
    example = Path(__file__).resolve().parents[2] / "examples" / "vlm_reward_cartpole.py"
    command = [sys.executable, str(example), "--stub", "--steps", "400", "--envs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    [designed, task] = [float(number) for number in re.findall(r"([\d.]+) of 200", done.stdout)]
    assert 0 < task < 200 and 0 < designed < 200 and designed != task
