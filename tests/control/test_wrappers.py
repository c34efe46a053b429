"""Every wrapper pays what one computes by hand, whatever resets by itself; designed and task reward are kept apart."""

from __future__ import annotations

import functools
import math
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize
from walk_env import GAMMA, Walk, design, expected

from rewardsmith.control.potential import PotentialShaping
from rewardsmith.control.sb3 import ReturnsCallback, VecRewardWrapper
from rewardsmith.control.transitions import TaskReward, from_transition_function
from rewardsmith.control.wrappers import FrameInfo, ReturnLog, RewardWrapper, VectorRewardWrapper
from rewardsmith.reward import RewardError

ACTIONS = np.random.default_rng(0).integers(0, 2, (60, 3))  # (steps, environments)


def walk(frames: bool, dictionary: bool = False) -> gym.Env:
    env = Walk("rgb_array" if frames else None, dictionary)
    return FrameInfo(env) if frames else env


def rewarded() -> gym.Env:
    return RewardWrapper(Walk("rgb_array"), design(frames=True))


def columns(frames: bool) -> list[list[tuple[float, bool]]]:
    return [expected(ACTIONS[:, env].tolist(), frames) for env in range(3)]


def assert_logged(log: ReturnLog, frames: bool) -> None:
    """The log's finished episodes are those that one gets by hand, each at its own sum."""
    by_hand = []
    for column in columns(frames):
        total = 0.0
        for reward, ended in column:
            total += reward
            if ended:
                by_hand.append(total)
                total = 0.0
    assert sorted(e["designed"] for e in log.finished) == pytest.approx(sorted(by_hand))
    assert {e["task"] for e in log.finished} == {0.0, 10.0}
    assert all(e["part/task"] == e["task"] and 3 <= e["length"] <= 5 for e in log.finished)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("dictionary", [False, True])
def test_one_environment(frames, dictionary):
    env = RewardWrapper(Walk("rgb_array" if frames else None, dictionary, reuse=True), design(frames))
    env.reset(seed=0)
    for action, (reward, ended) in zip(ACTIONS[:, 0], columns(frames)[0]):
        _, got, terminated, truncated, info = env.step(int(action))
        assert got == pytest.approx(reward)
        assert (terminated or truncated) == ended == ("returns" in info)
        assert info["reward_parts"]["task"] == info["task_reward"]
        if ended:
            env.reset()
    ended = sum(end for _, end in columns(frames)[0])
    assert len(env.log.finished) == ended


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("dictionary", [False, True])
def test_stable_baselines_sees_the_last_observation(frames, dictionary):
    make = functools.partial(walk, frames, dictionary)
    venv = VecRewardWrapper(DummyVecEnv([make] * 3), design(frames))
    venv.reset()
    for step, actions in enumerate(ACTIONS):
        _, rewards, dones, infos = venv.step(actions)
        for env, column in enumerate(columns(frames)):
            assert rewards[env] == pytest.approx(column[step][0], rel=1e-6)
            assert dones[env] == column[step][1] == ("returns" in infos[env])
            assert infos[env]["task_reward"] == infos[env]["reward_parts"]["task"]
    assert_logged(venv.log, frames)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("dictionary", [False, True])
def test_gymnasium_resets_in_the_same_step(frames, dictionary):
    make = functools.partial(walk, frames, dictionary)
    venv = VectorRewardWrapper(SyncVectorEnv([make] * 3, autoreset_mode=AutoresetMode.SAME_STEP), design(frames))
    venv.reset(seed=0)
    for step, actions in enumerate(ACTIONS):
        _, rewards, terminated, truncated, infos = venv.step(actions)
        np.testing.assert_allclose(rewards, [column[step][0] for column in columns(frames)])
        ended = [column[step][1] for column in columns(frames)]
        assert (terminated | truncated).tolist() == ended
        assert infos.get("_returns", np.zeros(3, bool)).tolist() == ended
    assert_logged(venv.log, frames)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("frames", [False, True])
def test_gymnasium_resets_in_the_next_step_or_by_hand(mode, frames):
    make = functools.partial(walk, frames)
    venv = VectorRewardWrapper(SyncVectorEnv([make] * 3, autoreset_mode=mode), design(frames))
    venv.reset(seed=0)
    position, resets = np.zeros(3, int), np.zeros(3, bool)
    while (position < len(ACTIONS)).all():
        actions = ACTIONS[position, np.arange(3)]
        _, rewards, terminated, truncated, infos = venv.step(actions)
        for env, column in enumerate(columns(frames)):
            if resets[env]:
                assert rewards[env] == 0.0 and not infos.get("_task_reward", np.zeros(3))[env]
            else:
                assert rewards[env] == pytest.approx(column[position[env]][0])
                assert (terminated | truncated)[env] == column[position[env]][1]
        position += ~resets
        done = terminated | truncated
        if mode is AutoresetMode.NEXT_STEP:
            resets = done
        elif done.any():
            venv.reset(options={"reset_mask": done})
    assert position.min() > 40
    assert len(venv.log.finished) >= 3 * 8


def test_worker_processes_of_both_libraries():
    for venv in (
        VecRewardWrapper(SubprocVecEnv([functools.partial(walk, True)] * 2, start_method="fork"), design(True)),
        SubprocVecEnv([rewarded] * 2, start_method="fork"),
    ):
        venv.reset()
        total = [venv.step(actions[:2])[1] for actions in ACTIONS[:12]]
        by_hand = [[column[step][0] for column in columns(True)[:2]] for step in range(12)]
        np.testing.assert_allclose(total, by_hand, rtol=1e-6)
        venv.close()
    venv = AsyncVectorEnv([rewarded] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    venv.reset(seed=0)
    total = [venv.step(actions[:2])[1] for actions in ACTIONS[:12]]
    venv.close()
    np.testing.assert_allclose(total, by_hand)


def test_a_wrapped_environment_can_be_pickled():
    env = pickle.loads(pickle.dumps(RewardWrapper(Walk(), design())))
    env.reset()
    assert env.step(1)[1] == pytest.approx(expected([1])[0][0])


def test_environments_that_share_a_reward_do_not_share_its_memory():
    reward = design()
    venv = DummyVecEnv([lambda: RewardWrapper(Walk(), reward)] * 3)
    venv.reset()
    for step, actions in enumerate(ACTIONS[:20]):
        np.testing.assert_allclose(venv.step(actions)[1], [c[step][0] for c in columns(False)], rtol=1e-6)


def test_the_checkers_find_no_more_than_in_the_bare_environment():
    def complaints(env: gym.Env) -> set[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gymnasium_check(env, skip_render_check=True)
            sb3_check(env)
        return {str(w.message) for w in caught if "different from the unwrapped" not in str(w.message)}

    reward = TaskReward() + PotentialShaping(lambda o: o[:, 0], 0.99)
    assert complaints(RewardWrapper(gym.make("CartPole-v1"), reward)) <= complaints(gym.make("CartPole-v1"))
    again = gym.make(RewardWrapper(gym.make("CartPole-v1"), reward).spec)
    assert again.has_wrapper_attr("reward")


def test_shaped_cartpole_trains_and_logs_both_returns(tmp_path):
    shaping = PotentialShaping(lambda o: -np.abs(o[:, 2]), 0.99)
    venv = VecRewardWrapper(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2), TaskReward() + shaping)
    model = PPO("MlpPolicy", VecNormalize(venv), n_steps=64, batch_size=64, n_epochs=1, seed=0)
    recorded: dict[str, float] = {}

    class Sink(Logger):
        def record(self, key, value, exclude=None):
            recorded[key] = value

    model.set_logger(Sink(None, []))
    model.learn(512, callback=ReturnsCallback())
    assert recorded["reward/task"] == recorded["reward/part/task"] > 8
    # without discounting the shaping of an episode that falls would be |angle at the start|; it is near 0 here
    assert recorded["reward/designed"] == pytest.approx(
        recorded["reward/part/task"] + recorded["reward/part/shaping"], rel=1e-6
    )
    assert recorded["reward/designed"] != recorded["reward/task"]


def test_a_reward_without_a_score_stops_or_pays_what_was_chosen():
    broken = from_transition_function(lambda actions: np.where(actions == 1, np.nan, 2.0)).named("broken")
    env = RewardWrapper(Walk(), broken)
    env.reset()
    assert env.step(0)[1] == 2.0
    with pytest.raises(RewardError, match="nonfinite: the score was nan; give the wrapper failed_reward"):
        env.step(1)
    for wrapped in (
        VecRewardWrapper(DummyVecEnv([Walk]), broken, failed_reward=-1.0),
        DummyVecEnv([lambda: RewardWrapper(Walk(), broken, failed_reward=-1.0)]),
    ):
        wrapped.reset()
        _, rewards, _, infos = wrapped.step(np.array([1]))
        assert rewards.tolist() == [-1.0]
        assert infos[0]["reward_failure"].startswith("nonfinite")
        assert math.isnan(infos[0]["reward_parts"].get("broken", math.nan))


def test_what_is_missing_is_named():
    frames = from_transition_function(lambda frame: frame.mean(axis=(1, 2, 3))).named("eyes")
    with pytest.raises(ValueError, match="eyes needs frames: make the environment with render_mode='rgb_array'"):
        RewardWrapper(Walk(), frames)
    with pytest.raises(ValueError, match="render_mode='rgb_array', not None"):
        FrameInfo(Walk())
    for venv, step in (
        (VecRewardWrapper(DummyVecEnv([lambda: Walk("rgb_array")]), frames), np.array([1])),
        (VectorRewardWrapper(SyncVectorEnv([lambda: Walk("rgb_array")]), frames), np.array([1])),
    ):
        venv.reset()
        with pytest.raises(ValueError, match=r"needs the info 'frame'; environments \[0\] gave none; put FrameInfo"):
            venv.step(step)
    caption = RewardWrapper(Walk(), from_transition_function(lambda caption: caption).named("reader"))
    caption.reset()
    with pytest.raises(ValueError, match="reader needs the info 'caption', but a step gave only squared"):
        caption.step(0)


def test_weights_follow_the_steps_of_the_wrapper():
    class Steps:
        def __call__(self, step: int) -> float:
            return float(step)

    venv = VecRewardWrapper(
        DummyVecEnv([Walk, Walk]), from_transition_function(lambda actions: actions + 1.0) * Steps()
    )
    venv.reset()
    assert [venv.step(np.zeros(2, int))[1].tolist() for _ in range(3)] == [[2, 2], [4, 4], [6, 6]]


def test_an_unfinished_episode_is_dropped_at_reset():
    env = RewardWrapper(Walk(), design())
    env.reset()
    env.step(1)
    env.reset()
    rewards = [env.step(1)[1] for _ in range(3)]
    assert env.log.finished[0]["designed"] == pytest.approx(sum(rewards))
    assert env.log.means()["length"] == 3
    assert rewards == pytest.approx([r for r, _ in expected([1, 1, 1])])


def test_relative_values_of_an_optimal_walk():
    # gamma-discounted, the shaping of a walk to the terminal state is -phi(0) = -1, whatever the way
    reward = PotentialShaping(lambda o: o[:, 0] + 1.0, GAMMA)
    for actions in ([1, 1, 1], [0, 1, 1, 0, 1]):
        env = RewardWrapper(Walk(), reward)
        env.reset()
        total = sum(GAMMA**t * env.step(a)[1] for t, a in enumerate(actions))
        assert total == pytest.approx(-1.0)


def test_dqn_stores_the_designed_reward():
    venv = VecRewardWrapper(DummyVecEnv([Walk]), design())
    model = DQN("MlpPolicy", venv, learning_starts=1000, seed=0)
    model.learn(20)
    stored = model.replay_buffer.rewards[:20, 0]
    actions = model.replay_buffer.actions[:20, 0, 0].tolist()
    np.testing.assert_allclose(stored, [r for r, _ in expected(actions)], rtol=1e-6)
