"""Balance a pole with a sentence as the only reward (Rocamonde et al. 2024), with CLIP or SigLIP and DQN.

    python examples/vlm_reward_cartpole.py                                # downloads openai/clip-vit-base-patch32
    python examples/vlm_reward_cartpole.py --model google/siglip-base-patch16-224 --alpha 0.5
    python examples/vlm_reward_cartpole.py --stub --steps 2000            # offline: a stand-in reads the angle

Needs `pip install stable-baselines3 "gymnasium[classic-control]"`; draws without a display.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from rewardsmith.control.relabel import RelabelCallback, RelabeledReplayBuffer
from rewardsmith.control.vision import CachedEncoder, ClipEncoder, VisionReward
from rewardsmith.control.wrappers import FrameInfo

GOAL, BASELINE = "pole vertically upright on top of the cart", "pole and cart"
LENGTH = 200


class FixedLength(gym.Wrapper):
    """CartPole that goes on when the pole has fallen: an early end would tell the agent what the picture should."""

    def step(self, action):
        observation, _, _, truncated, info = self.env.step(action)
        self.unwrapped.steps_beyond_terminated = None
        upright = abs(observation[2]) < 0.21 and abs(observation[0]) < 2.4
        return observation, float(upright), False, truncated, info


class AngleStub:
    """Stands in for CLIP offline: finds the pole by its color and embeds its lean."""

    def encode_image(self, frames):
        embeddings = []
        for frame in frames[:, ::4, ::4].astype(int):
            rows, columns = np.nonzero(np.abs(frame - (202, 152, 101)).sum(axis=2) < 30)
            lean = 1.0  # out of sight
            if len(rows) > 5:
                lean = 2 * np.arctan2(max(np.ptp(columns) - 2, 0), np.ptp(rows) + 1) / np.pi
            embeddings.append((np.cos(lean), np.sin(lean)))
        return np.array(embeddings)

    def encode_text(self, texts):
        return np.array([{GOAL: (1.0, 0.0), BASELINE: (np.cos(0.5), np.sin(0.5))}[text] for text in texts])


def make_env() -> gym.Env:
    return FrameInfo(FixedLength(gym.make("CartPole-v1", render_mode="rgb_array", max_episode_steps=LENGTH)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="openai/clip-vit-base-patch32", help="id or folder of a CLIP or SigLIP model"
    )
    parser.add_argument("--alpha", type=float, default=0.5, help="goal-baseline regularization, 0 to 1")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--envs", type=int, default=4)
    parser.add_argument("--stub", action="store_true", help="no model: a stand-in that reads the angle")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    encoder = AngleStub() if args.stub else ClipEncoder.from_pretrained(args.model)
    reward = VisionReward(CachedEncoder(encoder, batch_size=400), GOAL, BASELINE, args.alpha)
    model = DQN(
        "MlpPolicy",
        DummyVecEnv([make_env] * args.envs),
        learning_rate=2.3e-3,
        train_freq=LENGTH,  # whole episodes of all environments, then their frames in large batches
        gradient_steps=LENGTH,
        learning_starts=LENGTH * args.envs,
        target_update_interval=LENGTH,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        replay_buffer_class=RelabeledReplayBuffer,
        replay_buffer_kwargs={"reward": reward},
        seed=args.seed,
    )
    model.learn(args.steps, callback=RelabelCallback())
    means = model.replay_buffer.log.means()
    print(f"steps {model.num_timesteps}, episodes {len(model.replay_buffer.log.finished)} (the last 100 are kept)")
    print(f"return of the sentence  {means['designed']:8.2f} of {LENGTH}")
    print(f"steps with the pole up  {means['task']:8.2f} of {LENGTH}")


if __name__ == "__main__":
    main()
