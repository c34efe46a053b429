"""Paper 49, Wang et al. 2024: ratings and preferences complement each other, and a preference's strength is its weight.

Rewards are linear in 20 features, the gold reward's weights are N(0, 1), and an annotator says how strongly the one of
two responses is preferred: 1, 2 or 3. A label is wrong with probability 0.45, 0.25 or 0.02 by its strength, whatever
the responses are. First world: 300 such pairs; Bradley-Terry with the strength as the weight of a pair (scaled), as a
margin, and without it. Second world: 40 ratings with much noise (standard deviation 4) and 60 pairs; regression, scaled
Bradley-Terry, and the paper's two stages: 20 steps of scaled Bradley-Terry that start from the regression's head.

One draw of these worlds says little, so there are 10 of the first and 30 of the second. Draws share one model without
touching each other: each has 20 inputs of its own. Accuracies are exact: two linear rewards at an angle of t order
Gaussian pairs alike with probability 1 - t / pi.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.data.strengths import prefer_by_strength
from rewardsmith.models import RewardModel, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.averaging import extrapolate
from rewardsmith.models.ratings import RatingsHead
from rewardsmith.papers.claim import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALED, WINS, TWO_STAGE = 0.02, 8, 0.015
FIRST, SECOND = 10, 30  # draws of the two worlds
CLAIM = (
    f"Where the strength of a preference says how reliable it is, scaled Bradley-Terry is {SCALED:.0%} more accurate "
    f"than plain (mean of {FIRST} draws) and ahead in at least {WINS} of them; with few ratings and few preferences, "
    f"scaled Bradley-Terry from the regression's head is {TWO_STAGE:.1%} more accurate than the better of the two "
    f"alone (means of {SECOND} draws), and from a new head it is not."
)
SIZE = 20
WRONG = {1: 0.45, 2: 0.25, 3: 0.02}
PAIRS, FEW_PAIRS, RATINGS, NOISE = 300, 60, 40, 4.0
STEPS, RATE, NORM = 20, 0.1, 2.0  # of the second stage, and of the reward that it starts from
EXPO = 0.52


class Draws:
    """Independent draws of a world, side by side in one input.

    Attributes:
        gold: (W, 20) weights of the gold rewards.
        rows: comparisons, as HelpSteer2 has them.
        ratings: rated completions.
    """

    def __init__(self, rng: np.random.Generator, count: int, pairs: int, ratings: int, shuffled: bool) -> None:
        self.gold = rng.normal(size=(count, SIZE))
        self.rows: list[dict[str, Any]] = []
        self.ratings: list[dict[str, Any]] = []
        for draw, gold in enumerate(self.gold):
            first, second = rng.normal(size=(2, pairs, SIZE))
            strengths = rng.integers(1, 4, pairs)
            wrong = rng.random(pairs) < np.array([WRONG[int(strength)] for strength in strengths])
            said = rng.permutation(strengths) if shuffled else strengths
            signed = np.where(((second - first) @ gold > 0) != wrong, said, -said)
            for one, two, strength in zip(first, second, signed):
                responses = {"response_1": self.placed(one, draw), "response_2": self.placed(two, draw)}
                self.rows.append({"prompt": "", **responses, "preference_strength": int(strength)})
            for rated in rng.normal(size=(ratings, SIZE)):
                rating = float(rated @ gold + NOISE * rng.normal())
                attributes = {"helpfulness": rating}
                self.ratings.append({"completion": self.placed(rated, draw), "attributes": attributes})

    def placed(self, features: np.ndarray, draw: int) -> list[float]:
        """Features (20,) of one draw as input of the model of all draws."""
        out = np.zeros_like(self.gold)
        out[draw] = features
        return out.reshape(-1).tolist()

    def pairs(self, use: Any) -> list[dict[str, Any]]:
        """The comparisons as preferences; see `prefer_by_strength`."""
        return prefer_by_strength(self.rows, use)[0]

    def fit(
        self, records: list[dict[str, Any]], rate: float, steps: int, decay: float = 0.0, start: Any = None,
        use_margin: bool = False,
    ) -> RewardModel:  # fmt: skip
        """Full-batch gradient descent on the mean loss of each draw, plus decay / 2 |w|^2 per draw and row."""
        size, rows = self.gold.size, len(records)
        result = train(
            records,
            ArrayBackbone(size),
            head=RatingsHead(size, ["helpfulness"]) if start is None else copy.deepcopy(start),
            epochs=steps,
            batch_size=rows,
            learning_rate=rate * len(self.gold),  # the mean over all rows divides by the number of draws
            weight_decay=decay / rows,
            optim="sgd",
            lr_scheduler="constant",
            use_margin=use_margin,
        )
        assert isinstance(result.model, RewardModel)
        return result.model

    def rewards(self, model: RewardModel) -> np.ndarray:
        """(W, 20) weights of the learned rewards."""
        values = model.score({"completion": [*np.eye(self.gold.size), np.zeros(self.gold.size)]}).values
        return (values[:-1] - values[-1]).reshape(self.gold.shape)

    def accuracy(self, model: RewardModel) -> np.ndarray:
        """(W,) shares of all pairs that the learned reward orders as gold does."""
        learned = self.rewards(model)
        cosine = (learned * self.gold).sum(1) / np.linalg.norm(learned, axis=1) / np.linalg.norm(self.gold, axis=1)
        return 1 - np.arccos(np.clip(cosine, -1, 1)) / math.pi

    def rescaled(self, model: RewardModel, norm: float | np.ndarray) -> RewardModel:
        """A copy in which each draw's reward has this norm: ratings and log-odds have units of their own."""
        made = copy.deepcopy(model)
        weights = self.rewards(model)
        weights *= (norm / np.linalg.norm(weights, axis=1))[:, None]
        with torch.no_grad():
            made.head.linear.weight.copy_(torch.from_numpy(weights.reshape(1, -1)))  # type: ignore[operator, union-attr]
        return made


def strengths(rng: np.random.Generator, count: int, shuffled: bool) -> dict[str, np.ndarray]:
    """First world: accuracies (count,) by what is made of the strength."""
    draws = Draws(rng, count, PAIRS, 0, shuffled)
    return {
        name: draws.accuracy(draws.fit(draws.pairs(use), 0.9, 50, decay=1.0, use_margin=use == "margin"))
        for name, use in (("plain", "plain"), ("margin", "margin"), ("scaled", "weight"))
    }


def stages(rng: np.random.Generator, count: int, shuffled: bool) -> dict[str, np.ndarray]:
    """Second world: accuracies (count,) by what is learned from, and in which order."""
    draws = Draws(rng, count, FEW_PAIRS, RATINGS, shuffled)
    pairs = draws.pairs("weight")
    rated = draws.fit(draws.ratings, 0.25, 90, decay=2.0)
    compared = draws.fit(pairs, 0.5, 80, decay=1.0)
    start = draws.rescaled(rated, NORM)
    both = draws.fit(pairs, RATE, STEPS, start=start.head)
    new = RatingsHead(draws.gold.size, ["helpfulness"])
    new_head = draws.rescaled(RewardModel(ArrayBackbone(draws.gold.size), new), NORM).head
    back = draws.rescaled(compared, np.linalg.norm(draws.rewards(rated), axis=1)).head
    models = {
        "regression": rated,
        "scaled": compared,
        "regression, then scaled": both,
        "new head, then scaled": draws.fit(pairs, RATE, STEPS, start=new_head),
        "scaled, then regression": draws.fit(draws.ratings, RATE, STEPS, start=back),
        f"regression, then scaled, then ExPO {EXPO}": extrapolate(start, both, EXPO),
    }
    return {name: draws.accuracy(model) for name, model in models.items()}


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    """The claim; ablated, the strengths are shuffled between the pairs: as many of each, saying nothing."""
    rng, times = np.random.default_rng(seed), 1 if scale == "small" else 3
    torch.manual_seed(seed)
    first = strengths(rng, FIRST * times, ablate)
    second = stages(rng, SECOND * times, ablate)
    rows = [
        {"world": world, "learned from": name, "accuracy": float(np.mean(found)), "worst draw": float(np.min(found))}
        for world, all_found in ((f"{PAIRS} pairs", first), (f"{RATINGS} ratings, {FEW_PAIRS} pairs", second))
        for name, found in all_found.items()
    ]
    gain = first["scaled"] - first["plain"]
    mean = {name: float(np.mean(found)) for name, found in second.items()}
    single = max(mean["regression"], mean["scaled"])
    checks = {
        f"scaled at least {SCALED} above plain": float(gain.mean()) >= SCALED,
        f"scaled ahead in {WINS} of {FIRST} draws": float((gain > 0).mean()) >= WINS / FIRST,
        f"two stages at least {TWO_STAGE} above the better one": mean["regression, then scaled"] >= single + TWO_STAGE,
        "from a new head below the better one": mean["new head, then scaled"] < single,
    }
    return Outcome(rows, checks, lambda: _figure(rows))


def _figure(rows: list[dict[str, Any]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    worlds = list(dict.fromkeys(row["world"] for row in rows))
    labels = [f"{row['learned from']} ({row['world']})" for row in rows]
    colors = [("#4477AA", "#EE6677")[worlds.index(row["world"])] for row in rows]
    bars = axes.barh(labels, [row["accuracy"] for row in rows], color=colors)
    axes.bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlim=(0.6, 0.95), xlabel="accuracy", title="What strengths and ratings bring")
    axes.tick_params(axis="y", labelsize=8)
    return figure
