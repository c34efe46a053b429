"""Paper 29, Rocamonde et al. 2024: goal-baseline regularization takes out of a picture what is not about the goal.

The world: a red point on a grid, drawn as 16 x 16 pixels over a landscape that moves with it and flickers; the task is
to be at the right edge. The vision-language model is a stand-in with the structure of the real thing: the embedding of
a frame is what all these frames share, plus the column of the red point, plus a random projection of the landscape in
30 directions, each of three times the point's spread. Both sentences, "a point at the right" and "a point", carry noise
in all directions, so that the line between them is not quite the task's.

A random agent collects the same steps for every reward; the rewards are written into its replay buffer after the
roll-out, and Q-iteration on the buffer gives the policy that is judged by the gold task. The strength alpha is chosen
by the distance to the 0/1 labels of 40 frames. There are two controls: on plain ground alpha = 0 is enough, as the
paper found on CartPole; and where the sentences are bad, with noise as strong as the task, regularization cannot help
much either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

from rewardsmith.control.relabel import RelabeledReplayBuffer
from rewardsmith.control.transitions import TransitionReward, from_transition_function
from rewardsmith.control.vision import VisionReward, pearson_distance, rank_prompts
from rewardsmith.control.wrappers import FrameInfo
from rewardsmith.papers.claim import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUCCESS, LEAD, CORRELATION, CLOSER = 0.7, 0.3, 0.7, 0.1
CLAIM = (
    f"Over random landscapes, with the alpha that 40 labeled frames choose, an agent trained on the reward of a "
    f"sentence is at the goal in at least {SUCCESS:.0%} of episodes, {LEAD:.0%} more often than without regularization "
    f"or with a constant reward; the reward correlates at least {CORRELATION} with progress, and its distance to the "
    f"gold labels is at least {CLOSER} smaller than without."
)

SIDE, GOAL = 12, 10  # places per side of the grid; the goal are columns 10 and 11
HORIZON, ENVS, GAMMA = 40, 8, 0.95
NUISANCE, SPREAD = 30, 3.0  # directions of the landscape, and the spread of each in units of the point's
SHARED, TASK, NOISE, BAD = 5.0, 1.0, 0.3, 1.0  # of a sentence: what all share, the task, its noise; of bad sentences
TARGET, BASELINE = "a point at the right", "a point"
LABELED = 40
MOVES = np.array([[0, 0], [0, 1], [0, -1], [1, 0], [-1, 0]])  # rows, columns


class PointWorld(gym.Env):
    """Row and column on a grid; the picture shows where the point is and the land around it.

    Args:
        land: (SIDE + 15, SIDE + 15, 2) uint8, green and blue of the landscape; a window of it is seen from each place.
        flicker: how much the light varies from frame to frame, 0 to 1.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.MultiDiscrete([SIDE, SIDE])
    action_space = gym.spaces.Discrete(len(MOVES))
    render_mode = "rgb_array"

    def __init__(self, land: np.ndarray, flicker: float) -> None:
        self.land, self.flicker = land, flicker
        self.place, self.time = np.zeros(2, dtype=np.int64), 0
        self.light = np.random.default_rng(0)  # of its own: drawing changes no start

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.light = np.random.default_rng(seed)
        self.place, self.time = self.np_random.integers(0, (SIDE, GOAL)), 0  # anywhere but at the goal
        return self.place.copy(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        row, column = self.place + MOVES[action]
        self.place = np.array([min(max(row, 0), SIDE - 1), min(max(column, 0), SIDE - 1)])
        self.time += 1
        # Episodes have one length: an early end would tell the agent what the picture should.
        return self.place.copy(), float(self.place[1] >= GOAL), False, self.time == HORIZON, {}

    def render(self) -> np.ndarray:
        row, column = self.place
        frame = np.zeros((16, 16, 3), np.uint8)
        light = 1.0 - self.flicker * self.light.random()
        frame[..., 1:] = light * self.land[row : row + 16, column : column + 16]
        frame[row + 2 : row + 4, column + 2 : column + 4, 0] = 255
        return frame


def landscape(rng: np.random.Generator) -> np.ndarray:
    """Smooth random hills of green and blue."""
    size = SIDE + 15
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1)
    waves = rng.normal(scale=0.35, size=(12, 2, 2))  # 12 waves of each color: frequencies by row and column
    phase = rng.uniform(0, 2 * np.pi, (12, 2))
    hills = np.cos(np.einsum("xyd,wcd->xywc", grid, waves) + phase).sum(axis=2)
    return np.clip(128 + 40 * hills, 0, 255).astype(np.uint8)


class StandIn:
    """The dual encoder of the world: random directions, the same for all frames and sentences."""

    def __init__(self, rng: np.random.Generator, noise: float) -> None:
        dimensions = NUISANCE + 2
        self.directions = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0]
        self.look = rng.normal(size=(NUISANCE, 16 * 16 * 2))
        # How far the landscape's coordinates spread, over many landscapes; the point's column is uniform.
        views = self._views(np.stack([landscape(rng)[:16, :16] for _ in range(60)]))
        self.middle, self.spread = views.mean(axis=0), views.std(axis=0)
        self.point = np.arange(SIDE).std() / (SIDE / 2)
        stray = {text: rng.normal(size=dimensions) for text in (TARGET, BASELINE)}
        self.stray = {text: noise * v / np.linalg.norm(v) for text, v in stray.items()}

    def _views(self, lands: np.ndarray) -> np.ndarray:
        return lands.reshape(len(lands), -1) / 255 @ self.look.T

    def encode_image(self, frames: np.ndarray) -> np.ndarray:
        red = (frames[..., 0] == 255).sum(axis=1)
        column = (red @ np.arange(16)) / red.sum(axis=1) - 2.5  # 0 to SIDE - 1
        progress = (column - (SIDE - 1) / 2) / (SIDE / 2)
        views = (self._views(frames[..., 1:]) - self.middle) / self.spread * SPREAD * self.point
        return np.column_stack([np.full(len(frames), SHARED), progress, views]) @ self.directions

    def encode_text(self, texts: Any) -> np.ndarray:
        task = {TARGET: TASK, BASELINE: -TASK}
        meant = [SHARED * self.directions[0] + task[text] * self.directions[1] for text in texts]
        return np.array(meant) + np.array([self.stray[text] for text in texts])


def collect(land: np.ndarray, flicker: float, reward: TransitionReward, seed: int, steps: int) -> RelabeledReplayBuffer:
    """Steps of a random agent, with rewards written after the roll-out; equal seeds give equal steps and frames."""

    def make() -> gym.Env:
        env = PointWorld(land, flicker)
        return FrameInfo(env) if "frame" in reward.needs else env

    envs = DummyVecEnv([make] * ENVS)
    envs.seed(seed)
    spaces = (envs.observation_space, envs.action_space)
    buffer = RelabeledReplayBuffer(steps * ENVS, *spaces, "cpu", n_envs=ENVS, reward=reward)
    rng = np.random.default_rng(seed)
    last: Any = envs.reset()
    following: Any
    for _ in range(steps):
        actions = rng.integers(len(MOVES), size=ENVS)
        following, rewards, dones, infos = envs.step(actions)
        true_next = np.array([info.get("terminal_observation", seen) for info, seen in zip(infos, following)])
        buffer.add(last, true_next, actions, rewards, dones, infos)
        last = following
    buffer.relabel()
    return buffer


def learn(buffer: RelabeledReplayBuffer, rng: np.random.Generator) -> np.ndarray:
    """Q-iteration on the whole buffer, (SIDE * SIDE, actions); ties fall at random."""
    here = buffer.observations.reshape(-1, 2) @ (SIDE, 1)
    there = buffer.next_observations.reshape(-1, 2) @ (SIDE, 1)
    cell = here * len(MOVES) + buffer.actions.ravel()
    size = SIDE * SIDE * len(MOVES)
    count = np.maximum(np.bincount(cell, minlength=size), 1)
    q = np.zeros((SIDE * SIDE, len(MOVES)))
    for _ in range(300):  # a time limit is no end: the next state's value counts there as well
        target = buffer.rewards.ravel() + GAMMA * q.max(axis=1)[there]
        q = (np.bincount(cell, target, minlength=size) / count).reshape(q.shape)
    return q + 1e-9 * rng.random(q.shape)


def at_goal(q: np.ndarray) -> float:
    """Share of all starts from which the greedy policy is at the goal in the end."""
    places = np.stack(np.divmod(np.arange(SIDE * SIDE), SIDE), axis=1)
    places = places[places[:, 1] < GOAL]
    for _ in range(HORIZON):
        places = np.clip(places + MOVES[q.argmax(axis=1)[places @ (SIDE, 1)]], 0, SIDE - 1)
    return float(np.mean(places[:, 1] >= GOAL))


def shots(land: np.ndarray, flicker: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame of each place (SIDE * SIDE, 16, 16, 3), and its column."""
    env = PointWorld(land, flicker)
    env.reset(seed=seed)
    frames, columns = [], []
    for place in range(SIDE * SIDE):
        env.place = np.array(divmod(place, SIDE))
        frames.append(env.render())
        columns.append(place % SIDE)
    return np.stack(frames), np.array(columns)


def constant(terminated: np.ndarray) -> np.ndarray:
    return np.full(len(terminated), 0.5)


def trial(rng: np.random.Generator, world: str, ablate: bool, steps: int) -> dict[str, dict[str, float]]:
    """One landscape: method -> what came of it."""
    plain = world == "plain ground"
    encoder = StandIn(rng, BAD if world == "bad sentences" else NOISE)
    land, flicker = landscape(rng), 0.0 if plain else 0.3
    if plain:
        land = np.full_like(land, 128)
    seed = int(rng.integers(2**31))
    labeled, columns = shots(land, flicker, seed)
    some = rng.choice(len(labeled), LABELED, replace=False)
    ranked = rank_prompts(encoder, labeled[some], columns[some] >= GOAL, [(TARGET, BASELINE)])
    alphas = {"regularized": 0.0 if ablate else ranked[0].alpha, "alpha = 0": 0.0}
    frames, columns = shots(land, flicker, seed + 1)
    results: dict[str, dict[str, float]] = {}
    for method, alpha in alphas.items():
        reward = VisionReward(encoder, TARGET, BASELINE, alpha)
        values = reward.score_frames(frames)
        results[method] = {
            "at the goal": at_goal(learn(collect(land, flicker, reward, seed, steps), rng)),
            "correlation": float(np.corrcoef(values, columns)[0, 1]),
            "distance": pearson_distance(values, columns >= GOAL),
            "alpha": alpha,
        }
    if world == "landscape":
        blind = collect(land, flicker, from_transition_function(constant), seed, steps)
        results["constant"] = {"at the goal": at_goal(learn(blind, rng))}
    return results


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    trials = {"landscape": 14, "plain ground": 2, "bad sentences": 4}
    steps = 500
    if scale == "full":
        trials, steps = {world: 10 * number for world, number in trials.items()}, 2000
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for world, number in trials.items():
        results = [trial(rng, world, ablate, steps) for _ in range(number)]
        for method in results[0]:
            shown = method if method != "regularized" or not ablate else "ablated (alpha = 0)"
            means = {k: float(np.mean([one[method][k] for one in results])) for k in results[0][method]}
            rows.append({"world": world, "reward": shown, "trials": number, "steps": steps * ENVS, **means})
    ours, bare, blind = rows[:3]
    checks = {
        f"at the goal: at least {SUCCESS}": ours["at the goal"] >= SUCCESS,
        f"at the goal: {LEAD} above alpha = 0": ours["at the goal"] >= bare["at the goal"] + LEAD,
        f"at the goal: {LEAD} above a constant": ours["at the goal"] >= blind["at the goal"] + LEAD,
        f"correlation with progress at least {CORRELATION}": ours["correlation"] >= CORRELATION,
        f"distance to the labels {CLOSER} below alpha = 0": ours["distance"] <= bare["distance"] - CLOSER,
    }
    return Outcome(rows, checks, lambda: _figure(rows))


def _figure(rows: list[dict[str, Any]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    labels = [f"{row['reward']}\n{row['world']}" for row in rows]
    colors = ["#4477AA" if row["reward"] == "regularized" else "#BBBBBB" for row in rows]
    bars = axes.bar(labels, [row["at the goal"] for row in rows], color=colors)
    axes.bar_label(bars, fmt="%.2f")
    axes.tick_params(axis="x", labelsize=7)
    axes.set(ylabel="episodes that end at the goal", ylim=(0, 1.15), title="A sentence as the reward of a picture")
    return figure
