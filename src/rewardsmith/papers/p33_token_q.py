"""Paper 33, Rafailov et al. 2024: a policy trained on preferences is a Q-function, token by token.

The world: prompts with all texts of four tokens out of four, a random reward for every token, a random reference
policy, and preferences between texts of the reference with Bradley-Terry labels on their summed rewards. No label says
anything about a token. The optimal policy and every value are known by backward recursion. One DPO policy is trained;
the claim is about what can be read from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rewardsmith.alignment.preference_losses import PairLogps, dpo_loss
from rewardsmith.alignment.search import beam_search, sample_texts
from rewardsmith.papers.claim import Outcome
from rewardsmith.worlds.token_mdp import TabularPolicy, TokenMDP, prefix_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KL, CREDIT, LEAD, GAIN, WIDER, FALL = 0.25, 0.94, 0.25, 0.08, 0.02, 1.0
VOCAB, HORIZON, BETA, BATCH, WIDTHS = 4, 4, 1.0, 8192, (1, 2, 5, 64)
MEASURED = ("chosen", "rejected", "texts of the base")
CLAIM = (
    f"DPO on pairs of whole texts comes within {KL:g} nats of the optimal token policy. Its log-ratio at a token "
    f"correlates with the true advantage at {CREDIT:g} or more, {LEAD:g} above an even share of the text's reward and "
    f"above the token's own reward. Beam search for likely text finds {GAIN:g} more of the objective with width 5 than "
    f"greedy decoding, more than the best of 5 samples, and no less than width 2. Meanwhile the implicit reward of the "
    f"reference's texts falls by more than {FALL:g}."
)


def train(
    world: TokenMDP, reference: torch.Tensor, pairs: tuple[torch.Tensor, torch.Tensor], steps: int, seed: int
) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """DPO from a reference (P, N, V): log-probabilities of the policy, and mean implicit rewards on the way."""
    generator = torch.Generator().manual_seed(seed)
    texts = world.vocab**world.horizon
    first = torch.arange(len(reference))[:, None] * texts
    chosen, rejected = ((first + side).flatten() for side in pairs)
    reference = reference.float()
    ref_logps = world.on_texts(reference).flatten(0, 1)
    likelihood = (world.on_texts(world.ref_logps).sum(-1).exp() / len(reference)).flatten()
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.03)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    mask = torch.ones(BATCH, world.horizon, dtype=torch.bool)
    history = []
    for step in range(steps + 1):
        logps = world.on_texts(torch.log_softmax(logits, dim=-1)).flatten(0, 1)
        if step % (steps // 10) == 0:
            implicit = world.beta * (logps.detach() - ref_logps).sum(1)
            history.append(
                {
                    "step": step,
                    "chosen": float(implicit[chosen].mean()),
                    "rejected": float(implicit[rejected].mean()),
                    "texts of the base": float((likelihood * implicit).sum()),
                    "beta KL": world.beta
                    * float(world.kl(world.ref_logps, torch.log_softmax(logits.detach().double(), -1)).mean()),
                }
            )
        if step == steps:
            break
        drawn = torch.randint(len(chosen), (BATCH,), generator=generator)
        won, lost = chosen[drawn], rejected[drawn]
        batch = PairLogps(
            logps.index_select(0, won), logps.index_select(0, lost), ref_logps[won], ref_logps[lost], mask, mask
        )
        loss = dpo_loss(batch, beta=world.beta)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return torch.log_softmax(logits.detach().double(), dim=-1), history


def fine_tuned(world: TokenMDP, texts: torch.Tensor) -> torch.Tensor:
    """(P, N, V) the reference after supervised fine-tuning on texts with the given numbers (P, M): their shares."""
    tokens = world.texts()
    places = (prefix_rows(tokens, world.vocab) * world.vocab + tokens)[texts].flatten(1)
    counts = torch.zeros_like(world.ref_logps).flatten(1)
    counts.scatter_add_(1, places, torch.ones_like(places, dtype=counts.dtype))
    smoothed = counts.view_as(world.ref_logps) + world.ref_logps.exp()  # one text's worth of the base
    return (smoothed / smoothed.sum(-1, keepdim=True)).log()


def correlation(world: TokenMDP, credit: torch.Tensor, truth: torch.Tensor) -> float:
    """Of credits (P, V^H, H) along all texts, weighted by how likely the reference is to write them."""
    weight = world.on_texts(world.ref_logps).sum(-1, keepdim=True).exp().expand_as(credit)
    weight = weight / weight.sum()
    credit, truth = (values - (weight * values).sum() for values in (credit, truth))
    covariance, square, other = ((weight * a * b).sum() for a, b in ((credit, truth), (credit, credit), (truth, truth)))
    return float(covariance / (square * other).sqrt())


def searched(world: TokenMDP, guide: torch.Tensor, judge: torch.Tensor, width: int) -> float:
    """Mean objective of what a beam guided by one policy finds, where another picks among the finished texts."""
    prompts = range(len(guide))
    found = beam_search(TabularPolicy(guide), prompts, width, world.horizon)
    return picked(world, [[beam.ids for beam in beams] for beams in found], judge)


def picked(world: TokenMDP, texts: list[list[tuple[int, ...]]], judge: torch.Tensor) -> float:
    """Mean objective of the texts, one for each prompt, that are likeliest under a policy (P, N, V)."""
    best = []
    for prompt, group in enumerate(texts):
        tokens = torch.tensor(group)
        logps = judge[prompt, prefix_rows(tokens, world.vocab), tokens].sum(1)
        best.append(tokens[logps.argmax()])
    return float(world.objective(range(len(texts)), torch.stack(best)).mean())


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    prompts, pairs, steps = (150, 8000, 700) if scale == "small" else (300, 60_000, 3000)
    world = TokenMDP.random(prompts, VOCAB, HORIZON, BETA, seed)
    solution = world.solve()
    labeled = world.sample_pairs(pairs, seed + 1)
    logps, history = train(world, world.ref_logps, labeled, steps, seed)

    # Ablated: the policy is a reward for whole texts alone. A token gets an even share of it, and a partial text is
    # ranked without it, by the reference; which of the finished texts is best is still its choice.
    along = world.on_texts
    log_ratio = world.beta * along(logps - world.ref_logps)
    even = log_ratio.mean(-1, keepdim=True).expand_as(log_ratio)
    truth = world.beta * along(solution.logps - world.ref_logps)
    credits = {
        "log-ratio of the policy": even if ablate else log_ratio,
        "even share of the text's reward": even,
        "the token's own reward": along(world.rewards),
        "log-likelihood of the reference": along(world.ref_logps),
    }
    agreement = {name: correlation(world, credit, truth) for name, credit in credits.items()}
    guide = world.ref_logps if ablate else logps
    beam = {width: searched(world, guide, logps, width) for width in WIDTHS}
    unguided = {width: searched(world, world.ref_logps, logps, width) for width in WIDTHS}
    samples = sample_texts(TabularPolicy(logps), range(prompts), 5, HORIZON, seed=seed)
    of_samples = picked(world, [[text.ids for text in group] for group in samples], logps)
    greedy = searched(world, logps, logps, 1)
    best = float((along(world.rewards) + world.beta * along(world.ref_logps)).sum(-1).amax(1).mean())

    kl, kl_start = (float(world.kl(solution.logps, table).mean()) for table in (logps, world.ref_logps))
    chosen, rejected = world.sample_pairs(2000, seed + 2)
    returns, implicit = along(world.rewards).sum(-1), log_ratio.sum(-1)
    ordered = (returns.gather(1, chosen) - returns.gather(1, rejected)) * (
        implicit.gather(1, chosen) - implicit.gather(1, rejected)
    )
    accuracy = float((ordered > 0).sum() / (chosen != rejected).sum())
    _, tuned = train(world, fine_tuned(world, labeled[0]), labeled, steps // 2, seed)

    rows: list[dict[str, Any]] = [
        {"what": "KL of the optimal policy from the reference", "value": kl_start},
        {"what": "KL of the optimal policy from DPO's", "value": kl},
        {"what": "held-out pairs in the true order", "value": accuracy},
        *({"what": f"correlation with the advantage: {name}", "value": value} for name, value in agreement.items()),
        *({"what": f"objective, beam of {width}", "value": value} for width, value in beam.items()),
        {"what": "objective, greedy", "value": greedy},
        {"what": "objective, best of 5 samples of the policy", "value": of_samples},
        {"what": "objective, beam of 5 of the reference, policy's choice", "value": unguided[5]},
        {"what": "objective, best text of all", "value": best},
        *({"what": f"implicit reward at the end: {name}", "value": history[-1][name]} for name in MEASURED),
        {"what": "exact: -beta KL(reference || policy)", "value": -history[-1]["beta KL"]},
        *({"what": f"reference tuned on chosen: {name}", "value": tuned[-1][name]} for name in MEASURED[:2]),
    ]  # fmt: skip
    ours, share, own = list(agreement.values())[:3]
    checks = {
        f"KL from the optimal policy at most {KL:g}": kl <= KL,
        f"credit: correlation at least {CREDIT:g}": ours >= CREDIT,
        f"credit: {LEAD:g} above an even share": ours >= share + LEAD,
        f"credit: {LEAD:g} above the token's own reward": ours >= own + LEAD,
        f"beam of 5: {GAIN:g} above greedy": beam[5] >= greedy + GAIN,
        f"beam of 5: at most {WIDER:g} below 2, and 2 above greedy": beam[5] >= beam[2] - WIDER and beam[2] > greedy,
        f"beam of 5: {GAIN:g} above the best of 5 samples": beam[5] >= of_samples + GAIN,
        f"the reference's implicit reward falls by {FALL:g}": abs(history[0]["texts of the base"]) < 1e-6
        and history[-1]["texts of the base"] <= -FALL,
    }
    return Outcome(rows, checks, lambda: _figure(beam, unguided, best, history, tuned))


def _figure(
    beam: dict[int, float],
    unguided: dict[int, float],
    best: float,
    history: list[dict[str, float]],
    tuned: list[dict[str, float]],
) -> Figure:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(list(beam), list(beam.values()), "o-", color="#4477AA", label="likely under the policy")
    left.plot(list(unguided), list(unguided.values()), "s-", color="#BBBBBB", label="likely under the reference")
    left.axhline(best, color="black", linestyle="--", linewidth=1, label="best of all texts")
    left.set(xscale="log", xlabel="width of the beam", ylabel="objective", title="Search for likely text")
    left.legend(fontsize="small")
    for name, color in zip(MEASURED, ("#228833", "#CC6677", "#4477AA")):
        right.plot([row["step"] for row in history], [row[name] for row in history], color=color, label=name)
    name = "chosen, reference tuned on chosen"
    right.plot(
        [row["step"] for row in tuned], [row["chosen"] for row in tuned], color="#228833", linestyle="--", label=name
    )
    right.set(xlabel="step", ylabel="implicit reward", title="Implicit rewards fall")
    right.legend(fontsize="small")
    return figure
