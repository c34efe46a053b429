"""Paper 28, Wang et al. 2024: log-sigmoid-centered rewards add up to a logical AND; sums of raw rewards do not.

The world: answers with two qualities that tend to exclude each other, each seen by a reward model with an error of its
own. What must be beaten is the 0.85 quantile of 64 samples for each prompt and quality. Best of 16, and the optimal
policies at one distance from the start, by the conjunction and by the sum of the raw rewards. A third comparison has
one reward that can be hacked; a fourth, best of n by one reward, can show no difference: the transform is monotone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.evaluation import best_of_n
from rewardsmith.papers.claim import Outcome
from rewardsmith.reward import Combination, Reward
from rewardsmith.shaping import References, ShapedReward, conjunction, log_sigmoid
from rewardsmith.shaping.transforms import Centered
from rewardsmith.worlds.candidates import Candidates, TableReward, hacked_rewards, tilt_to_kl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOTH, BALANCE, MASS, ONE = 0.12, 0.7, 0.08, 0.2
SPREAD, CORRELATION, NOISE = 3.0, -0.5, 0.5
CLAIM = (
    f"With two rewards that exclude each other, best of 16 by the conjunction is good in both at least {BOTH:.0%} more "
    f"often than by the raw sum, with at most {BALANCE:.0%} of its imbalance; at a KL of 1 nat its policy puts at "
    f"least {MASS:.0%} more on answers above the median in both; and with one reward that is hacked its gold is at "
    f"least {ONE:g} higher at a KL of 0.5 nats. Best of n by one reward is the same with and without it."
)


def references(rng: np.random.Generator, candidates: Candidates, values: np.ndarray) -> References:
    """64 samples of the starting policy for each prompt, scored."""
    drawn = rng.integers(values.shape[1], size=(len(values), 64))
    picked = np.take_along_axis(values, drawn, axis=1)
    return References(
        {"prompt": prompt, "ref_rewards": row} for prompt, row in zip(candidates.prompts, picked.tolist())
    )


def transformed(rewards: list[Reward], tables: list[References], ablate: bool) -> Combination:
    """The conjunction; ablated, the same rewards and references without the log-sigmoid."""
    if ablate:
        return Combination(ShapedReward(reward, Centered(table)) for reward, table in zip(rewards, tables))
    return conjunction(rewards, tables)


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    prompts, size = (800, 128) if scale == "small" else (1500, 512)
    rng = np.random.default_rng(seed)
    candidates = Candidates.make(prompts, size)
    root = np.linalg.cholesky([[1.0, CORRELATION], [CORRELATION, 1.0]])
    gold = SPREAD * rng.standard_normal((prompts, size, 2)) @ root.T
    seen = gold + NOISE * rng.standard_normal(gold.shape)
    rewards: list[Reward] = [
        TableReward(candidates, seen[..., k], name) for k, name in enumerate(("helpful", "harmless"))
    ]
    tables = [references(rng, candidates, seen[..., k]) for k in range(2)]
    methods: dict[str, Reward] = {
        "sum of raw rewards": rewards[0] + rewards[1],
        "conjunction": transformed(rewards, tables, ablate),
    }
    sixteen: dict[str, Any] = {"prompt": candidates.prompts, "candidates": [group[:16] for group in candidates.texts]}
    median = np.median(gold, axis=(0, 1))
    rows: list[dict[str, Any]] = []
    chosen = {}
    for name, reward in methods.items():
        index = [group.index(pick["completion"]) for group, pick in zip(sixteen["candidates"], picks(reward, sixteen))]
        chosen[name] = gold[np.arange(prompts), index]
        policy = tilt_to_kl(candidates.scores(reward), 1.0)
        rows.append(
            {
                "reward": name,
                "best of 16: both above 0": float((chosen[name] > 0).all(1).mean()),
                "imbalance": float(np.abs(chosen[name][:, 0] - chosen[name][:, 1]).mean()),
                "KL 1: mass above both medians": float((policy * (gold > median).all(2)).sum(1).mean()),
            }
        )

    hacked_gold, proxy, _ = hacked_rewards(rng, prompts, size)
    learned = TableReward(candidates, proxy, "proxy")
    table = references(rng, candidates, proxy)
    one = ShapedReward(learned, Centered(table)) if ablate else log_sigmoid(learned, table)
    alone = {
        name: float((tilt_to_kl(candidates.scores(reward), 0.5) * hacked_gold).sum(1).mean())
        for name, reward in (("one raw reward, hacked", learned), ("one transformed", one))
    }
    rows += [{"reward": name, "KL 0.5: gold": value} for name, value in alone.items()]
    same = [a["completion"] == b["completion"] for a, b in zip(picks(learned, sixteen), picks(one, sixteen))]

    raw, both = rows[0], rows[1]
    checks = {
        f"best of 16 is good in both {BOTH:.0%} more often": both["best of 16: both above 0"]
        >= raw["best of 16: both above 0"] + BOTH,
        f"imbalance at most {BALANCE:.0%} of the sum's": both["imbalance"] <= BALANCE * raw["imbalance"],
        f"at KL 1, {MASS:.0%} more mass above both medians": both["KL 1: mass above both medians"]
        >= raw["KL 1: mass above both medians"] + MASS,
        f"one hacked reward: gold {ONE:g} higher at KL 0.5": alone["one transformed"]
        >= alone["one raw reward, hacked"] + ONE,
        "best of n by one reward is the same": all(same),
    }
    return Outcome(rows, checks, lambda: _figure(chosen))


def picks(reward: Reward, data: dict[str, Any]) -> list[dict[str, Any]]:
    """Best of n for each prompt."""
    return best_of_n(reward, data).picks


def _figure(chosen: dict[str, np.ndarray]) -> Figure:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
    for axes, (name, values), color in zip(panels, chosen.items(), ("#CC6677", "#4477AA")):
        axes.scatter(values[:, 0], values[:, 1], s=8, color=color, alpha=0.6)
        axes.axhline(0, color="gray", linewidth=0.8)
        axes.axvline(0, color="gray", linewidth=0.8)
        share = (values > 0).all(1).mean()
        axes.set(title=f"Best of 16 by the {name}: {share:.0%} good in both", xlabel="helpful (gold)")
    panels[0].set_ylabel("harmless (gold)")
    return figure
