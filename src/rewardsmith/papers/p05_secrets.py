"""Paper 05, Wang et al. 2024 ("Secrets of RLHF in Large Language Models Part II"): votes find wrong labels.

The world: completions are vectors of 30 numbers and gold is linear in them; one label in five is wrong, whatever the
margin. The reward is a small network that can memorize its 1500 pairs, as real reward models can. Ten of them, trained
for one pass each, vote on every pair; the lowest fifth by mean vote is flipped, and the reward is trained on that.
Plain training gets as many passes over the same pairs, in a second run as many more as the votes took, and in a third
one alone, which stops before wrong labels are memorized. Held out are 3000 other pairs with the labels of gold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.data.clean import Operation, adaptive_margin, clean, drop, flip, soften
from rewardsmith.models import RewardModel, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.strength import preference_strength
from rewardsmith.papers.claim import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOUND, LEAD, STOPPED, PARITY = 0.75, 0.10, 0.01, 0.002
WRONG, LOWEST = 0.2, 0.2
MEMBERS, EPOCHS = 10, 10
CLAIM = (
    f"With {WRONG:.0%} of the labels wrong, at least {FOUND:.0%} of the lowest {LOWEST:.0%} of pairs by the votes of "
    f"{MEMBERS} models are wrong ones; a reward trained after flipping these is right on at least {LEAD:.0%} more "
    "held-out pairs than plain training, also where that has the compute of the votes as well, and on at least "
    f"{STOPPED:.0%} more than plain training that stops after one pass; and soft labels and adaptive margins from the "
    "votes are no worse than plain training."
)

SIZE, PAIRS, HELD_OUT = 30, 1500, 3000
OPTIONS: dict[str, Any] = {"learning_rate": 2e-2, "batch_size": 64}


def network(seed: int) -> ArrayBackbone:
    """One hidden layer of 64 and a hidden vector of 32, under a linear head."""
    torch.manual_seed(seed)
    return ArrayBackbone(SIZE, layers=(64,), hidden_size=32)


def labeled(
    rng: np.random.Generator, gold: np.ndarray, pairs: int, wrong: float
) -> tuple[dict[str, list[Any]], np.ndarray]:
    """Preferences by gold, a share `wrong` of them flipped, and which ones (N,)."""
    two = rng.normal(size=(pairs, 2, SIZE))
    best = (two @ gold).argmax(1)
    flipped = rng.random(pairs) < wrong
    first = np.where(flipped, 1 - best, best)
    rows = np.arange(pairs)
    return {"chosen": two[rows, first].tolist(), "rejected": two[rows, 1 - first].tolist()}, flipped


def accuracy(model: RewardModel, pairs: dict[str, list[Any]]) -> float:
    """Share of pairs in which chosen has the larger reward."""
    logits = model.preference([""] * len(pairs["chosen"]), pairs["chosen"], pairs["rejected"])
    return float(np.mean(logits > 0))


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    rng = np.random.default_rng(seed)
    gold = rng.normal(size=SIZE)
    pairs, wrong = labeled(rng, gold, PAIRS if scale == "small" else 4 * PAIRS, WRONG)
    held_out, _ = labeled(rng, gold, HELD_OUT, 0.0)

    voted = preference_strength(pairs, network(seed), MEMBERS, share=1.0, seed=seed, **OPTIONS)
    strength = rng.permutation(voted.mean) if ablate else voted.mean  # ablated: each pair has another one's votes
    judged = {**pairs, "strength": strength.tolist()}
    lowest = np.argsort(strength)[: round(LOWEST * len(strength))]
    found = float(wrong[lowest].mean())

    def trained(records: Any, epochs: int = EPOCHS, use_margin: bool = False) -> float:
        model = train(records, network(seed), epochs=epochs, use_margin=use_margin, seed=seed, **OPTIONS).model
        assert isinstance(model, RewardModel)
        return accuracy(model, held_out)

    methods: dict[str, Operation] = {
        "flip lowest": flip(LOWEST),
        "drop lowest": drop(LOWEST),
        "soft labels": soften((0.0, 1.0)),
        "adaptive margin": adaptive_margin(),
    }
    figures = {
        "plain": trained(pairs),
        "plain, with the votes' compute": trained(pairs, EPOCHS + MEMBERS),
        "plain, one pass": trained(pairs, 1),
    }
    for name, operation in methods.items():
        figures[name] = trained(clean(judged, operation).records, use_margin=name == "adaptive margin")
    rows = [{"training": name, "held-out accuracy": value, "pairs": len(wrong)} for name, value in figures.items()]
    rows.append({"training": "votes: wrong labels in the lowest fifth", "held-out accuracy": None, "share": found})
    negative = float(wrong[strength < 0].mean()) if (strength < 0).any() else None
    rows.append({"training": "votes: wrong labels below 0", "held-out accuracy": None, "share": negative})
    rows = [{**row, "pairs": row.get("pairs"), "share": row.get("share")} for row in rows]
    plain = figures["plain"]
    best_plain = max(plain, figures["plain, with the votes' compute"])
    checks = {
        f"votes: at least {FOUND} of the lowest fifth are wrong labels": found >= FOUND,
        f"flip: at least {LEAD} above plain training, with or without the votes' compute": (
            figures["flip lowest"] >= best_plain + LEAD
        ),
        f"flip: at least {STOPPED} above plain training that stops early": (
            figures["flip lowest"] >= figures["plain, one pass"] + STOPPED
        ),
        f"soft labels: at most {PARITY} below plain training": figures["soft labels"] >= plain - PARITY,
        f"adaptive margin: at most {PARITY} below plain training": figures["adaptive margin"] >= plain - PARITY,
    }
    return Outcome(rows, checks, lambda: _figure(figures, strength, wrong))


def _figure(figures: dict[str, float], strength: np.ndarray, wrong: np.ndarray) -> Figure:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    low, high = np.quantile(strength, [0.002, 0.998])
    bins = np.linspace(low, high, 41)
    left.hist([strength[~wrong], strength[wrong]], bins, stacked=True, color=["#BBBBBB", "#CC6677"])
    left.axvline(np.quantile(strength, LOWEST), color="black", linestyle="--", linewidth=1)
    left.set(xlabel="mean vote", ylabel="pairs", title="wrong labels (red) by strength")
    colors = ["#BBBBBB" if name.startswith("plain") else "#4477AA" for name in figures]
    bars = right.barh(list(figures), list(figures.values()), color=colors)
    right.bar_label(bars, fmt="%.3f")
    right.invert_yaxis()
    right.set(xlabel="held-out accuracy", xlim=(0.5, 1.02), title="after cleaning by strength")
    return figure
