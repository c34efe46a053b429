"""Claim 48: token-level direct preference optimization (Zeng et al. 2024) holds the divergence on rejected responses.

The world is small enough to be exact: a bigram language model over 8 tokens, texts of 6 tokens, and a gold reward that
is the sum of values of transitions. Pairs come from a reference model and are labeled by a noisy comparison of gold.
DPO and TDPO2 train the same table on the same pairs with the same steps; sequential KL, entropy and gold are then
computed, not sampled. The ablation sets TDPO2's weight of the divergences to 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rewardsmith.alignment.logps import TokenLogps, sequence_logps
from rewardsmith.alignment.preference_losses import LOSSES, PairLogps
from rewardsmith.papers.claim import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOKENS, LENGTH = 8, 6
SHARPNESS = 2.0  # P(a is labeled the better) = sigmoid(SHARPNESS * (gold(a) - gold(b)))
BETA, ALPHA = 0.1, 0.5
HELD = 0.3  # S on rejected responses, as a share of DPO's
GAIN = 2.0  # gold above the reference's
ENTROPY = 1.5  # times DPO's
ACCURACY = 0.1  # of training pairs, below DPO's

CLAIM = (
    f"On equal pairs and steps TDPO2 (alpha {ALPHA}) ends with a sequential KL on rejected responses of at most {HELD} "
    f"times DPO's, falling as alpha rises, a smaller gap |S_l - S_w| and an entropy of at least {ENTROPY} times DPO's; "
    f"it orders the pairs at most {100 * ACCURACY:.0f} points worse, and its expected gold is at least {GAIN} above "
    f"the reference's."
)


class World:
    """A reference, a gold reward of transitions, and pairs sampled from the one and labeled by the other."""

    def __init__(self, seed: int, pairs: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.reference = torch.randn(TOKENS + 1, TOKENS, generator=generator)  # logits after each token, and at first
        self.values = torch.randn(TOKENS + 1, TOKENS, generator=generator)
        texts = self._sample(2 * pairs, generator)
        a, b = texts[:pairs], texts[pairs:]
        gap = self.gold(a) - self.gold(b)
        wins = torch.rand(pairs, generator=generator) < (SHARPNESS * gap).sigmoid()
        self.chosen, self.rejected = torch.where(wins[:, None], a, b), torch.where(wins[:, None], b, a)

    def _sample(self, count: int, generator: torch.Generator) -> torch.Tensor:
        texts = torch.full((count, 1), TOKENS)
        for _ in range(LENGTH):  # token after token, all texts at once
            following = torch.multinomial(self.reference.softmax(1)[texts[:, -1]], 1, generator=generator)
            texts = torch.cat([texts, following], dim=1)
        return texts[:, 1:]

    def gold(self, texts: torch.Tensor) -> torch.Tensor:
        """(B,) sums of the values of transitions."""
        return self.values[_before(texts), texts].sum(1)

    def expected_gold(self, policy: torch.Tensor) -> float:
        """Of texts of the policy, exactly."""
        step = policy.softmax(1)
        at, total = torch.eye(TOKENS + 1)[TOKENS], 0.0
        for _ in range(LENGTH):
            total += float(at @ (step * self.values).sum(1))
            at = torch.cat([at @ step, torch.zeros(1)])
        return total


def _before(texts: torch.Tensor) -> torch.Tensor:
    """What stands before each token; `TOKENS` before the first."""
    return torch.cat([torch.full_like(texts[:, :1], TOKENS), texts[:, :-1]], dim=1)


def token_figures(policy: torch.Tensor, world: World, *, entropy: bool = False) -> TokenLogps:
    """Of each token of the chosen and then the rejected texts, (2B, T): a bigram model as an output layer."""
    texts = torch.cat([world.chosen, world.rejected])
    states = torch.eye(TOKENS + 1)[_before(texts)]
    mask = torch.ones_like(texts, dtype=torch.bool)
    return sequence_logps(
        states, policy.T, texts, mask, ref=(states, world.reference.T), kl=True, entropy=entropy
    )  # fmt: skip


def as_pairs(found: TokenLogps) -> PairLogps:
    """The same as losses read it."""
    (chosen, rejected), (chosen_ref, rejected_ref) = found.logps.chunk(2), found.ref_logps.chunk(2)  # type: ignore[union-attr]
    mask = torch.ones_like(chosen, dtype=torch.bool)
    return PairLogps(chosen, rejected, chosen_ref, rejected_ref, mask, mask, *found.kl.chunk(2))  # type: ignore[union-attr]


def train(world: World, name: str, steps: int, **options: float) -> torch.Tensor:
    """The table (TOKENS + 1, TOKENS) that a loss makes of the reference's."""
    policy = world.reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([policy], lr=0.03)
    for _ in range(steps):
        losses, _ = LOSSES[name].function(as_pairs(token_figures(policy, world)), beta=BETA, **options)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    return policy.detach()


def measure(policy: torch.Tensor, world: World) -> dict[str, float]:
    """Divergences, accuracy, entropy and gold of a policy."""
    found = token_figures(policy, world, entropy=True)
    pairs = as_pairs(found)
    (m_w, m_l), (s_w, s_l) = pairs.log_ratios(), pairs.sequence_kl()
    return {
        "S on rejected": float(s_l.mean()),
        "S on chosen": float(s_w.mean()),
        "entropy": float(found.entropy.mean()),  # type: ignore[union-attr]
        "accuracy of pairs": float((m_w > m_l).double().mean()),
        "expected gold": world.expected_gold(policy),
    }


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    """Losses on one world; `ablate` sets alpha to 0."""
    world = World(seed, pairs=400 if scale == "small" else 4000)
    steps = 400
    method = {"TDPO2, alpha 0 (ablated)": 0.0} if ablate else {f"TDPO2, alpha {ALPHA}": ALPHA}
    policies = {"reference": world.reference, "DPO": train(world, "dpo", steps)}
    policies |= {name: train(world, "tdpo2", steps, alpha=alpha) for name, alpha in method.items()}
    if not ablate:  # of interest, and no part of the claim
        policies["TDPO1"] = train(world, "tdpo1", steps)
        policies |= {f"TDPO2, alpha {a}": train(world, "tdpo2", steps, alpha=a) for a in (0.25, 1.0)}
    rows: list[dict[str, Any]] = [{"policy": name, **measure(policy, world)} for name, policy in policies.items()]
    reference, dpo, tdpo = rows[:3]
    gap = {row["policy"]: abs(row["S on rejected"] - row["S on chosen"]) for row in rows}
    checks = {
        f"S on rejected at most {HELD} x DPO's": tdpo["S on rejected"] <= HELD * dpo["S on rejected"],
        "|S_l - S_w| smaller than DPO's": gap[tdpo["policy"]] < gap["DPO"],
        f"entropy at least {ENTROPY} x DPO's": tdpo["entropy"] >= ENTROPY * dpo["entropy"],
        f"accuracy at most {ACCURACY} below DPO's": tdpo["accuracy of pairs"] >= dpo["accuracy of pairs"] - ACCURACY,
        f"gold at least {GAIN} above the reference's": tdpo["expected gold"] >= reference["expected gold"] + GAIN,
    }
    if not ablate:
        by_alpha = [row["S on rejected"] for row in (rows[4], rows[2], rows[5])]
        checks["S on rejected falls as alpha rises"] = by_alpha == sorted(by_alpha, reverse=True)
    return Outcome(rows, checks, lambda: _figure(rows))


def _figure(rows: list[dict[str, Any]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for row in rows:
        axes.scatter(
            row["S on rejected"], row["expected gold"], color="#BBBBBB" if row["policy"] == "reference" else "#4477AA"
        )
        axes.annotate(row["policy"], (row["S on rejected"], row["expected gold"]), fontsize=8, ha="left", va="bottom")
    axes.set(xlabel="sequential KL on rejected responses (nats)", ylabel="expected gold", xscale="symlog")
    axes.set_title("TDPO2 gets its gold at a fraction of DPO's divergence")
    return figure
