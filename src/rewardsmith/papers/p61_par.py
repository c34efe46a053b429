"""Paper 61, Fu et al. 2025: a bounded reward, centered on references, keeps training from hacking the proxy.

The world: 100 prompts with 200 candidate answers each. The proxy reward equals gold but for one candidate in twenty, a
hack, which it takes for very good and gold for bad. Two comparisons at equal data and compute: the optimal policies at
one distance from the start, in closed form; and policies that learn from the same number of samples by policy gradients
under a small KL penalty, each on its own shaping of the same proxy. References are samples of the starting policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.alignment.advantages import group_advantages
from rewardsmith.papers.claim import Outcome
from rewardsmith.reward import Reward
from rewardsmith.shaping import References, ShapedReward
from rewardsmith.shaping.functions import slow_growth
from rewardsmith.shaping.transforms import PAR, Centered, Clip, LogSigmoid, MeanStd, MinMax, Transform
from rewardsmith.worlds.candidates import Candidates, TableReward, hacked_rewards, kl_from_uniform, tilt_to_kl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KL, LEAD, SAME, FALL, ADVANTAGE, VARIANCE, FEW = 0.5, 0.2, 1e-3, 1.0, 0.5, 0.25, 0.15
BETA, GROUP = 0.2, 8
CLAIM = (
    f"At a KL of {KL:g} nats PAR's policy has at least {LEAD:g} more gold than the raw proxy's, and shaping that is "
    f"affine for each prompt changes nothing. When policies learn, the raw proxy's gold falls more than {FALL:g} below "
    f"its peak while the proxy rises; PAR ends at least {ADVANTAGE:g} above it, with returns of variance at most "
    f"{VARIANCE:g}, above a slowly growing sigmoid, and within {FEW:g} with one reference as with ten."
)


def learn(
    candidates: Candidates, reward: Reward, measures: dict[str, np.ndarray], steps: int, seed: int
) -> list[dict[str, float]]:
    """REINFORCE with the group's mean as the baseline, from the uniform policy: its history, measured exactly.

    The penalty is KL's own gradient; samples are scored through the reward as a trainer would call it.
    """
    generator = torch.Generator().manual_seed(seed)
    count, size = len(candidates.prompts), len(candidates.texts[0])
    logits = torch.zeros(count, size, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    groups = torch.arange(count).repeat_interleave(GROUP)
    prompts = [prompt for prompt in candidates.prompts for _ in range(GROUP)]
    history = []
    for _ in range(steps):
        logps = torch.log_softmax(logits, dim=1)
        policy = logps.detach().exp()
        drawn = torch.multinomial(policy, GROUP, replacement=True, generator=generator)
        texts = [group[i] for group, row in zip(candidates.texts, drawn.tolist()) for i in row]
        rewards = torch.tensor(reward(prompts, texts), dtype=torch.float32)
        advantages = group_advantages(rewards, groups, scale="none").view(count, GROUP)
        kl = (logps.exp() * (logps + np.log(size))).sum(1)
        loss = (-(advantages * logps.gather(1, drawn)).mean(1) + BETA * kl).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        table = policy.double().numpy()
        history.append(
            {
                **{name: float((table * values).sum(1).mean()) for name, values in measures.items()},
                "kl": kl_from_uniform(table),
                "variance": float(rewards.var()),
            }
        )
    return history


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    prompts, size, steps = (100, 200, 300) if scale == "small" else (400, 400, 600)
    rng = np.random.default_rng(seed)
    candidates = Candidates.make(prompts, size)
    gold, proxy, hacks = hacked_rewards(rng, prompts, size)
    learned = TableReward(candidates, proxy, "proxy")
    drawn = [rng.integers(size, size=10) for _ in range(prompts)]
    references = References(
        {"prompt": prompt, "ref_rewards": row[picks].tolist()}
        for prompt, row, picks in zip(candidates.prompts, proxy, drawn)
    )
    squash: dict[str, Any] = {"squash": np.asarray} if ablate else {}  # the identity: PAR without its bound
    shapings: dict[str, list[Transform]] = {
        "raw": [Centered(references)],  # a constant per prompt, which the baseline takes off again
        "PAR, 1 reference": [PAR(references, 1, **squash)],
        "PAR, 10 references": [PAR(references, **squash)],
        "slow growth": [PAR(references, squash=slow_growth)],
        "LSC": [LogSigmoid(references)],
        "clip": [Clip()],
        "mean-std": [MeanStd()],
        "min-max": [MinMax()],
    }
    shaped: dict[str, Reward] = {name: ShapedReward(learned, *steps_of) for name, steps_of in shapings.items()}
    shaped["raw"] = learned

    matched = {
        name: float((tilt_to_kl(candidates.scores(reward), KL) * gold).sum(1).mean()) for name, reward in shaped.items()
    }
    affine = [matched[name] for name in ("mean-std", "min-max")]
    affine.append(
        float((tilt_to_kl(candidates.scores(ShapedReward(learned, Centered(references))), KL) * gold).sum(1).mean())
    )

    measures = {"gold": gold, "proxy": proxy, "hacks": hacks.astype(float)}
    trained = ("raw", "PAR, 1 reference", "PAR, 10 references", "slow growth", "LSC", "clip")
    runs = {name: learn(candidates, shaped[name], measures, steps, seed) for name in trained}
    end = {name: history[-1] for name, history in runs.items()}
    rows = [
        {
            "reward": name,
            f"gold at KL {KL:g}": matched[name],
            **({"gold, learned": end[name]["gold"], "its peak": max(row["gold"] for row in runs[name]),
                "proxy": end[name]["proxy"], "hacks": end[name]["hacks"], "KL": end[name]["kl"],
                "variance of returns": max(row["variance"] for row in runs[name])} if name in runs else {}),
        }
        for name in shaped
    ]  # fmt: skip
    one, ten, raw = (end[name] for name in ("PAR, 1 reference", "PAR, 10 references", "raw"))
    half = runs["raw"][steps // 2]
    variance = max(row["variance"] for row in runs["PAR, 1 reference"])
    checks = {
        f"gold of PAR at KL {KL:g} at least {LEAD:g} above raw": matched["PAR, 10 references"] >= matched["raw"] + LEAD,
        f"centered, mean-std and min-max as raw to {SAME:g}": max(abs(g - matched["raw"]) for g in affine) <= SAME,
        f"raw: gold ends {FALL:g} below its peak": max(row["gold"] for row in runs["raw"]) - raw["gold"] > FALL,
        "raw: the proxy rises to the end": raw["proxy"] > half["proxy"] > runs["raw"][0]["proxy"],
        f"PAR ends {ADVANTAGE:g} above raw": min(one["gold"], ten["gold"]) >= raw["gold"] + ADVANTAGE,
        f"PAR's returns have variance at most {VARIANCE:g}": variance <= VARIANCE,
        "PAR ends above slow growth": ten["gold"] > end["slow growth"]["gold"],
        f"one reference within {FEW:g} of ten": abs(one["gold"] - ten["gold"]) <= FEW,
    }  # fmt: skip
    return Outcome(rows, checks, lambda: _figure(runs))


def _figure(runs: dict[str, list[dict[str, float]]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colors = ("#CC6677", "#88CCEE", "#4477AA", "#999933", "#AA4499", "#117733")
    for (name, history), color in zip(runs.items(), colors):
        for axes, key in zip(panels, ("gold", "proxy")):
            axes.plot([row[key] for row in history], color=color, label=name)
    panels[0].set(title="What we want", xlabel="step", ylabel="gold reward")
    panels[1].set(title="What is measured", xlabel="step", ylabel="proxy reward")
    panels[0].legend(fontsize="small")
    return figure
