"""Paper 31, Nath et al. 2024: seven known properties need far fewer comparisons than the text that has them.

Seven properties of a completion, uniform in [0, 1], make its gold reward, in which two of them multiply and one counts
against it; labels are Bernoulli(sigmoid(2 * difference of gold)). A text model sees the completion as 300 numbers, in
which the properties are mixed at random under noise, as an embedding has them; the paper's model sees the properties as
a scorer measured them. Both learn a linear reward from the same pairs with as many steps. The text model has the weight
decay that is best for it on held-out pairs. The naive mean of the properties learns nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.data.opinions import OPINION
from rewardsmith.functions import ColumnReward
from rewardsmith.models import RewardModel, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.features import FeatureBackbone, FeatureHead, naive_mean
from rewardsmith.papers.claim import Outcome
from rewardsmith.reward import Reward

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT, MEAN, BEST, FEWER = 0.10, 0.10, 0.93, 0.01
PAIRS, FEW, MANY = 200, 50, 1050  # 1050 = 21 * 50, the paper's ratio
CLAIM = (
    f"From {PAIRS} pairs, a reward of seven measured properties orders at least {TEXT:.0%} more of the held-out pairs "
    f"than one of the text, and {MEAN:.0%} more than the naive mean; its best of 16 has {BEST:.0%} of the gold of the "
    f"oracle's; and from {FEW} pairs it orders {FEWER:.0%} more than the text model from {MANY}."
)
WIDTH, SIGNAL = 300, 0.3
STEPS, RATE = 100, {"text": 0.05, "properties": 10.0}  # properties vary less than the text's numbers
L2 = {"text": 1000.0, "properties": 0.1}  # for the text, the best of 10, 100, 1000 on held-out pairs
TESTS, PROMPTS, CANDIDATES = 2000, 300, 16


def gold(z: np.ndarray) -> np.ndarray:
    """Gold rewards (N,) of properties (N, 7)."""
    return 10 * z[:, 0] * z[:, 1] + 3 * z[:, 2] + 2 * z[:, 3] + z[:, 4] + z[:, 5] - 2 * z[:, 6]


class World:
    """Completions that have been scored: a completion is its number, as text or as what the text model sees."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.mix = rng, rng.normal(size=(7, WIDTH))
        self.properties = FeatureBackbone({name: ColumnReward(name) for name in OPINION}, scale=(0.0, 1.0))
        self.z = np.empty((0, 7))
        self.views = np.empty((0, WIDTH))

    def write(self, count: int) -> np.ndarray:
        """Numbers of so many new completions, each of them measured."""
        first, z = len(self.z), self.rng.random((count, 7))
        self.properties.measure({"completion": [f"{first + i}" for i in range(count)], **dict(zip(OPINION, z.T))})
        self.z = np.concatenate([self.z, z])
        views = SIGNAL * (z - 0.5) @ self.mix + self.rng.normal(size=(count, WIDTH))
        self.views = np.concatenate([self.views, views])
        return np.arange(first, first + count)

    def pairs(self, count: int) -> np.ndarray:
        """(count, 2) completions, the one preferred first."""
        pairs = self.write(2 * count).reshape(count, 2)
        ahead = gold(self.z[pairs[:, 0]]) - gold(self.z[pairs[:, 1]])
        return np.where((self.rng.random(count) < 1 / (1 + np.exp(-2 * ahead)))[:, None], pairs, pairs[:, ::-1])

    def seen(self, completions: np.ndarray, view: str) -> list[Any]:
        """Completions as a model of one view reads them."""
        return self.views[completions].tolist() if view == "text" else [f"{i}" for i in completions]

    def fit(self, pairs: np.ndarray, view: str) -> RewardModel:
        """A linear reward of one view, by Bradley-Terry."""
        backbone = ArrayBackbone(WIDTH) if view == "text" else self.properties
        result = train(
            {"chosen": self.seen(pairs[:, 0], view), "rejected": self.seen(pairs[:, 1], view)},
            backbone,
            head=FeatureHead.build(backbone, layers=[]),
            epochs=STEPS,
            batch_size=len(pairs),
            learning_rate=RATE[view],
            weight_decay=L2[view] / len(pairs),
            optim="sgd",
        )
        assert isinstance(result.model, RewardModel)
        return result.model

    def scores(self, model: Reward, completions: np.ndarray, view: str) -> np.ndarray:
        """(N,) rewards of completions."""
        return model.score({"completion": self.seen(completions, view)}).values


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    """The claim; ablated, the model of the properties reads the text, as the other one does."""
    torch.manual_seed(seed)
    world = World(np.random.default_rng(seed))
    view = "text" if ablate else "properties"
    learn = world.pairs(MANY)
    test = world.write(2 * TESTS).reshape(2, -1)
    ahead = gold(world.z[test[0]]) > gold(world.z[test[1]])
    groups = world.write((PROMPTS if scale == "small" else 10 * PROMPTS) * CANDIDATES).reshape(-1, CANDIDATES)
    worth = gold(world.z[groups.ravel()]).reshape(groups.shape)

    def found(name: str, count: int, model: Reward, seen: str) -> dict[str, Any]:
        first, second = (world.scores(model, side, seen) for side in test)
        chosen = world.scores(model, groups.ravel(), seen).reshape(groups.shape).argmax(1)
        best = float(worth[np.arange(len(groups)), chosen].mean())
        accuracy = float(np.mean((first > second) == ahead))
        return {"reward": name, "pairs": count, "held-out accuracy": accuracy, "gold of the best of 16": best}

    name = "properties" if not ablate else "ablated (text)"
    rows = [found(name, count, world.fit(learn[:count], view), view) for count in (FEW, PAIRS, MANY)]
    rows += [found("text", count, world.fit(learn[:count], "text"), "text") for count in (FEW, PAIRS, MANY)]
    rows += [found("naive mean", 0, naive_mean(world.properties), "properties")]
    oracle, any_one = float(worth.max(1).mean()), float(worth.mean())
    rows += [
        {"reward": "oracle", "pairs": None, "held-out accuracy": 1.0, "gold of the best of 16": oracle},
        {"reward": "any", "pairs": None, "held-out accuracy": 0.5, "gold of the best of 16": any_one},
    ]
    few, learned, _, _, text, text_many, mean = (row["held-out accuracy"] for row in rows[:7])
    checks = {
        f"at least {TEXT} above the text": learned >= text + TEXT,
        f"at least {MEAN} above the naive mean": learned >= mean + MEAN,
        f"best of 16: at least {BEST} of the oracle's gold": rows[1]["gold of the best of 16"] >= BEST * oracle,
        f"{FEW} pairs: at least {FEWER} above the text from {MANY}": few >= text_many + FEWER,
    }
    return Outcome(rows, checks, lambda: _figure(rows))


def _figure(rows: list[dict[str, Any]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
    for at, color in ((0, "#4477AA"), (3, "#EE6677")):
        line = rows[at : at + 3]
        accuracies = [row["held-out accuracy"] for row in line]
        axes.plot([row["pairs"] for row in line], accuracies, "o-", color=color, label=line[0]["reward"])
    axes.axhline(rows[6]["held-out accuracy"], color="black", linestyle="--", linewidth=1, label="naive mean")
    axes.set(xscale="log", xlabel="pairs", ylabel="held-out accuracy", title="Seven numbers against a text")
    axes.set_xticks([FEW, PAIRS, MANY], [str(FEW), str(PAIRS), str(MANY)])
    axes.minorticks_off()
    axes.legend()
    return figure
