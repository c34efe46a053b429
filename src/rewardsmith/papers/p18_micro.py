"""Paper 18, Shen et al. 2025 (MiCRo): a mixture of rewards from plain preferences, and a user's weights of them.

The world: completions are points of R^8. Two groups of people want nearly opposite things (rewards of cosine -0.6),
and which group a preference is from depends on the prompt, softly; no row says which. Tests are on true preferences of
each group, on new pairs. Then come 200 users of either group, with a few choices each, noisy as all are. The control
is a population of one group, where a second head can only hurt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.models import Head, ScalarHead, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.ensemble import EnsembleHead
from rewardsmith.models.micro import MixtureHead, head_accuracies, held_out_gain
from rewardsmith.models.personal import Choices, Particles, PersonalModel
from rewardsmith.papers.claim import Outcome
from rewardsmith.reward import PreferenceModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAD, MATCH, ROUTED, COIN, GAIN, NO_GAIN, COST = 0.25, 0.95, 0.92, 0.75, 0.04, 0.005, 0.015
CLAIM = (
    f"Where a population is of two groups, each group has a head of the mixture that is right on at least {LEAD:.0%} "
    f"more of its pairs than Bradley-Terry on the same data and correlates with its reward at {MATCH} or more, and "
    f"held-out preferences are likelier by over {GAIN} nats. Five choices of a new user weight the heads so that at "
    f"least {ROUTED:.0%} of her pairs are right; five coins give at most {COIN:.0%}. In a population of one group the "
    f"mixture gains less than {NO_GAIN} nats, and costs at most {COST:.1%} of the pairs."
)

DIM, PROMPT, PAIRS, TEST, USERS = 8, 4, {"small": 4000, "full": 20000}, 2000, 200
STEEPNESS, COSINE, GATE_SD = 3.0, -0.6, 1.5
SHOTS, HELD = (1, 5, 20), 15
Rows = dict[str, list[Any]]


def tastes(rng: np.random.Generator) -> np.ndarray:
    """(2, DIM): what the groups want, of length STEEPNESS and cosine COSINE."""
    first, other = np.linalg.qr(rng.normal(size=(DIM, 2)))[0].T
    return STEEPNESS * np.stack([first, COSINE * first + (1 - COSINE**2) ** 0.5 * other])


def prompts(rng: np.random.Generator, gate: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, DIM) prompts, of which the first PROMPT numbers are not 0, and (count,) the groups of who asks."""
    x = np.pad(rng.normal(size=(count, PROMPT)), ((0, 0), (0, DIM - PROMPT)))
    return x, (rng.random(count) < 1 / (1 + np.exp(-x[:, :PROMPT] @ gate))).astype(int)


def choices(rng: np.random.Generator, x: np.ndarray, wants: np.ndarray, noisy: bool | None) -> Rows:
    """One preference per prompt between two new completions.

    Args:
        rng: source of all.
        x: (N, DIM) prompts.
        wants: (N, DIM) rewards of who chooses.
        noisy: by Bradley-Terry, or by the sign of the true difference; None: by a coin.
    """
    a, b = rng.normal(size=(2, len(x), DIM))
    gap = ((a - b) * wants).sum(1)
    p = np.full(len(x), 0.5) if noisy is None else 1 / (1 + np.exp(-gap)) if noisy else (gap > 0).astype(float)
    wins = (rng.random(len(x)) < p)[:, None]
    return {"prompt": x.tolist(), "chosen": np.where(wins, a, b).tolist(), "rejected": np.where(wins, b, a).tolist()}


def fit(records: Rows, head: Head, seed: int) -> Any:
    """A head on the numbers as they are, for all methods alike."""
    options: dict[str, Any] = {"epochs": 10, "batch_size": 400, "learning_rate": 0.1, "weight_decay": 0.0}
    return train(records, ArrayBackbone(DIM), head=head, seed=seed, **options).model


def right(model: PreferenceModel, records: Rows) -> float:
    """Share of pairs that a model orders as the group truly does."""
    return float(np.mean(model.preference(records["prompt"], records["chosen"], records["rejected"]) > 0))


def matched(model: PersonalModel, tests: list[Rows], groups: np.ndarray) -> dict[str, float]:
    """How right the best head for each group is, and the least correlation of such a head with the group's reward."""
    each = np.stack([head_accuracies(model, test)[None] for test in tests])  # (group, head)
    weight = model.head.state_dict()["weight"].double().numpy()[each.argmax(1)]
    # Completions are white, so rewards correlate as their weights do.
    cosines = (weight * groups).sum(1) / np.linalg.norm(weight, axis=1) / np.linalg.norm(groups, axis=1)
    return {"group's head": float(each.max(1).mean()), "least correlation": float(cosines.min())}


def read(model: PersonalModel, records: Rows) -> Choices:
    """Choices as the model sees them."""
    return model.read([dict(zip(records, values)) for values in zip(*records.values())])


def routed(model: PersonalModel, few: Choices, later: Choices, shots: int) -> float:
    """Accuracy on later choices, HELD of each user, of users who are known by the first `shots` of their few."""
    each, hits = len(few) // USERS, []
    for user in range(USERS):
        who = model.posterior(few.take(range(user * each, user * each + shots)))
        hits.append(model.logits(later.take(range(user * HELD, (user + 1) * HELD)), who) > 0)
    return float(np.mean(hits))


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    rng = np.random.default_rng(seed)
    wants, gate, heads = tastes(rng), GATE_SD * rng.normal(size=PROMPT), 1 if ablate else 2
    method = "MiCRo" + (" (ablated: one head)" if ablate else "")
    rows: list[dict[str, Any]] = []
    found: dict[tuple[str, str], Any] = {}
    for world, groups in (("two groups", wants), ("one group", wants[[0, 0]])):
        x, who = prompts(rng, gate, PAIRS[scale])
        records = choices(rng, x, groups[who], True)
        x, who = prompts(rng, gate, TEST)
        held_out = choices(rng, x, groups[who], True)
        tests = [choices(rng, x, np.broadcast_to(want, x.shape), False) for want in groups]
        candidates: dict[str, Head] = {"Bradley-Terry": ScalarHead(DIM)}
        torch.manual_seed(seed)
        candidates[method] = MixtureHead(DIM, heads)
        if world == "two groups":
            candidates["static mixture"] = MixtureHead(DIM, heads, gate="static")
            candidates["ensemble of two"] = EnsembleHead(DIM, members=2, share=1.0)
        for name, head in candidates.items():
            model = found[world, name] = fit(records, head, seed)
            row: dict[str, Any] = {"population": world, "model": name, "pairs": len(records["prompt"])}
            row["accuracy"] = float(np.mean([right(model, test) for test in tests]))
            row["nats gained"] = held_out_gain(model, found[world, "Bradley-Terry"], held_out, resamples=1).value
            if isinstance(head, MixtureHead):
                row |= matched(model, tests, groups)
            rows.append(row)

    model, uniform = found["two groups", method], Particles(torch.eye(heads), torch.full((heads,), 1 / heads))
    few, coins, later = (
        choices(rng, prompts(rng, gate, USERS * each)[0], wants[np.repeat(np.arange(USERS) % 2, each)], noisy)
        for each, noisy in ((max(SHOTS), True), (5, None), (HELD, False))
    )
    known, random, test = (read(model, records) for records in (few, coins, later))
    curve = {shots: routed(model, known, test, shots) for shots in SHOTS}
    coin = {shots: routed(model, random, test, shots) for shots in SHOTS if shots <= 5}
    plain = right(found["two groups", "Bradley-Terry"], later)
    even = float(np.mean(model.logits(test, uniform) > 0))
    (bt, mixture), (bt_alike, alike) = rows[:2], rows[-2:]
    mixture |= {f"new users, {shots} choices": value for shots, value in curve.items()}
    mixture |= {"new users, 5 coins": coin[5], "new users, even weights": even}
    bt |= {f"new users, {shots} choices": plain for shots in SHOTS}
    checks = {
        f"two groups: heads at least {LEAD} above Bradley-Terry": mixture["group's head"] >= bt["accuracy"] + LEAD,
        f"two groups: heads correlate with rewards at {MATCH}": mixture["least correlation"] >= MATCH,
        f"two groups: over {GAIN} nats gained": mixture["nats gained"] > GAIN,
        f"new users: at least {ROUTED} from 5 choices": curve[5] >= ROUTED,
        f"new users: at most {COIN} from 5 coins": coin[5] <= COIN,
        f"one group: less than {NO_GAIN} nats gained": alike["nats gained"] < NO_GAIN,
        f"one group: at most {COST} below Bradley-Terry": min(alike["accuracy"], alike["group's head"])
        >= bt_alike["accuracy"] - COST,
    }
    return Outcome(rows, checks, lambda: _figure(curve, coin, plain, mixture["group's head"], ablate))


def _figure(curve: dict[int, float], coin: dict[int, float], plain: float, best: float, ablate: bool) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    label = "one head (ablated)" if ablate else "mixture, weighted by her choices"
    axes.plot(list(curve), list(curve.values()), "o-", color="#4477AA", label=label)
    axes.plot(list(coin), list(coin.values()), "o-", color="#CC6677", label="weighted by coins")
    axes.axhline(best, color="#4477AA", linestyle=":", label="the head of her group")
    axes.axhline(plain, color="#999999", linestyle="--", label="Bradley-Terry, the same for all")
    axes.set(xscale="log", xlabel="choices of a new user", ylabel="accuracy on her other pairs", ylim=(0.5, 1))
    axes.set_xticks(SHOTS, [str(k) for k in SHOTS])
    axes.minorticks_off()
    axes.set_title("Rewards of groups that nobody labeled")
    axes.legend(loc="center right", fontsize=8)
    return figure
