"""Paper 40, Yan et al. 2024: optimize a mix of the nominal and the lowest reward of an ensemble, not one reward.

Responses are embeddings of 24 numbers. The first 12 vary and decide the gold reward; the other 12 are 0 in every
response that preferences were asked for, so what a reward model makes of them is an accident of its start. Stage 1 is
Bradley-Terry on noisy preferences; stage 2 distills its rewards of single responses into five Gaussian heads, each with
a start and a part of the rows of its own.

A policy then chooses among candidates, a few of which are hacks: one of the last 12 numbers is large, and the gold
reward is low. It is the optimum under a KL penalty, pi ∝ pi_ref exp(r / beta), with beta such that every reward gets
the same distance from the start. The control has candidates like those of training, where being careful can only cost.
The heads' own confidence does not see the hacks, so the nominal reward alone is no better than one head.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.models import RewardModel, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.brme import GaussianEnsembleHead, standardized_targets
from rewardsmith.papers.claim import Outcome
from rewardsmith.worlds.candidates import tilt_to_kl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AHEAD, OF_MEAN, COST = 0.6, 0.04, 0.05
NEAR, FAR = 0.5, 2.0  # nats from the start
CLAIM = (
    f"With a few hacks among the candidates, the policy that optimizes half the nominal and half the lowest reward has "
    f"{AHEAD} more gold at {FAR:g} nats than those that optimize the ordinary reward model, one head or the nominal "
    f"reward; gold rises as the weight of the nominal reward falls, and at 0.2 is {OF_MEAN} above that of the mean of "
    f"the heads at {NEAR:g} nats; without hacks the mix costs at most {COST}."
)
VARYING, RARE = 12, 12
RARE_SCALE = 0.0
HACKS, HACK_SIZE, HACK_GOLD = 0.04, 10.0, -2.0
PAIRS = 800
WEIGHTS = (1.0, 0.8, 0.5, 0.2, 0.0)  # lambda
HEADS = [f"head_{k}" for k in range(5)]
SHARE = 0.6


class World:
    """Responses and their gold rewards, which are standard normal where nothing is hacked."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        direction = rng.normal(size=VARYING)
        self.direction = direction / np.linalg.norm(direction)

    def responses(self, *shape: int) -> np.ndarray:
        """(*shape, 24) embeddings as training has them."""
        return np.concatenate([self.rng.normal(size=(*shape, VARYING)), np.zeros((*shape, RARE))], axis=-1)

    def gold(self, responses: np.ndarray) -> np.ndarray:
        return responses[..., :VARYING] @ self.direction

    def preferences(self, count: int) -> dict[str, list[Any]]:
        """Pairs of responses, the better one chosen with probability sigmoid(difference in gold)."""
        first, second = self.responses(count), self.responses(count)
        gap = self.gold(first) - self.gold(second)
        first_wins = self.rng.random(count) < 1 / (1 + np.exp(-gap))
        chosen = np.where(first_wins[:, None], first, second)
        rejected = np.where(first_wins[:, None], second, first)
        return {"prompt": [""] * count, "chosen": chosen.tolist(), "rejected": rejected.tolist()}

    def candidates(self, prompts: int, count: int, hacks: float) -> tuple[np.ndarray, np.ndarray]:
        """(P, N, 24) responses, a share of which are hacks, and their gold rewards (P, N)."""
        responses = self.responses(prompts, count)
        gold = self.gold(responses)
        hacked = np.argwhere(self.rng.random((prompts, count)) < hacks)
        which = VARYING + self.rng.integers(RARE, size=len(hacked))
        responses[hacked[:, 0], hacked[:, 1], which] = HACK_SIZE * self.rng.choice([-1, 1], len(hacked))
        gold[hacked[:, 0], hacked[:, 1]] = HACK_GOLD
        return responses, gold


def two_stages(pairs: dict[str, list[Any]], seed: int, ablate: bool) -> tuple[RewardModel, RewardModel]:
    """The ordinary reward model, and the ensemble; ablated, its heads start equal and see the same rows."""
    torch.manual_seed(seed)
    size = VARYING + RARE
    first = train(pairs, ArrayBackbone(size), epochs=15, learning_rate=0.02, weight_decay=0.0, seed=seed).model
    assert isinstance(first, RewardModel)
    head = GaussianEnsembleHead(size, members=len(HEADS), share=1.0 if ablate else SHARE)
    if ablate:
        head.maps.make_equal()
    rows = standardized_targets(first, pairs)
    robust = train(
        rows, ArrayBackbone(size), head=head, epochs=8, learning_rate=0.02, weight_decay=0.0, seed=seed
    ).model
    assert isinstance(robust, RewardModel)
    return first, robust


def rewards(first: RewardModel, robust: RewardModel, responses: np.ndarray) -> dict[str, np.ndarray]:
    """(P, N) rewards by name."""
    batch = {"completion": responses.reshape(-1, responses.shape[-1]).tolist()}
    found = {"stage 1": first.score(batch).values}
    scores = robust.score(batch)
    found |= {name: scores.parts[name] for name in ("mean", *HEADS)}
    for weight in WEIGHTS:
        robust.head.weight = weight  # type: ignore[assignment]
        found[f"lambda {weight:g}"] = robust.score(batch).values
    return {name: values.reshape(responses.shape[:2]) for name, values in found.items()}


def gold_at(utility: np.ndarray, gold: np.ndarray, kl: float) -> float:
    """E[gold] of the policy that the utility makes at a distance of `kl` nats."""
    return float((tilt_to_kl(utility, kl) * gold).sum(1).mean())


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    world = World(np.random.default_rng(seed))
    prompts = 16 if scale == "small" else 128
    first, robust = two_stages(world.preferences(PAIRS), seed, ablate)
    hacked, usual = world.candidates(prompts, 256, HACKS), world.candidates(prompts, 256, 0.0)
    found, control = rewards(first, robust, hacked[0]), rewards(first, robust, usual[0])
    gold = {
        name: [
            gold_at(found[name], hacked[1], NEAR), gold_at(found[name], hacked[1], FAR),
            gold_at(control[name], usual[1], NEAR), gold_at(control[name], usual[1], FAR),
        ]
        for name in found
    }  # fmt: skip
    gold["one head"] = np.mean([gold.pop(head) for head in HEADS], axis=0).tolist()
    columns = (f"gold, {NEAR:g} nats", f"gold, {FAR:g} nats", f"no hacks, {NEAR:g} nats", f"no hacks, {FAR:g} nats")
    rows = [{"reward": NAMES.get(name, name), **dict(zip(columns, gold[name]))} for name in ORDER]
    near, far = ({name: values[at] for name, values in gold.items()} for at in (0, 1))
    others = ("stage 1", "one head", "lambda 1")
    falling = [far[f"lambda {weight:g}"] for weight in WEIGHTS]
    costs = [max(gold[name][at] for name in others) - gold["lambda 0.5"][at] for at in (2, 3)]
    checks = {
        **{
            f"{FAR:g} nats: lambda 0.5 at least {AHEAD} above {NAMES.get(name, name)}": far["lambda 0.5"]
            >= far[name] + AHEAD
            for name in others
        },
        f"{NEAR:g} nats: lambda 0.2 at least {OF_MEAN} above the mean": near["lambda 0.2"] >= near["mean"] + OF_MEAN,
        f"{FAR:g} nats: gold rises as lambda falls": all(a < b for a, b in itertools.pairwise(falling)),
        f"no hacks: lambda 0.5 costs at most {COST}": max(costs) <= COST,
    }
    return Outcome(rows, checks, lambda: _figure(found, hacked[1]))


NAMES = {
    "stage 1": "ordinary reward model",
    "mean": "mean of the heads",
    "lambda 1": "nominal (lambda 1)",
    "lambda 0": "lowest (lambda 0)",
}
ORDER = ("stage 1", "one head", "mean", *(f"lambda {weight:g}" for weight in WEIGHTS))


def _figure(found: dict[str, np.ndarray], gold: np.ndarray) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    kls = np.linspace(0.1, 3.0, 12)
    for name, color in (("stage 1", "#888888"), ("mean", "#CCBB44"), ("lambda 1", "#EE6677"), ("lambda 0.5", "#4477AA"),
                        ("lambda 0", "#228833")):  # fmt: skip
        axes.plot(kls, [gold_at(found[name], gold, kl) for kl in kls], color=color, label=NAMES.get(name, name))
    axes.set(xlabel="KL from the start (nats)", ylabel="gold reward", title="Optimizing a robust reward")
    axes.legend(frameon=False, fontsize=8)
    return figure
