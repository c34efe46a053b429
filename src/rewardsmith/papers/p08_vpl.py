"""Paper 08, Poddar et al. 2024 (VPL): a reward for users who disagree, known from a few of their choices.

The world: places in the unit square, and users of two kinds, who prefer the place that is nearer to the lower left
corner, or to the lower right one. Half of all random pairs divide them. Users of the tests come with eight choices.
Then each user's reward is walked by on a grid, and two questions are chosen in place of drawn. Labels have no noise:
how the method fares with wrong ones is not claimed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.data import with_histories
from rewardsmith.models import train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.personal import Particles, PersonalModel, UserReward
from rewardsmith.models.vpl import Annealing, ComparableReward, VariationalHead, scale_rewards
from rewardsmith.papers.claim import Outcome
from rewardsmith.reward import PreferenceModel, Reward

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN, OTHER, CHANCE, PARITY, PROBE, ACTIVE = 0.93, 0.08, 0.04, 0.05, 0.95, 0.05
REACHED, MISLED, RAW, SCALED = 0.80, 0.10, 5.0, 3.0
CLAIM = (
    f"From eight choices of a new user VPL is right on at least {OWN:.0%} of the pairs that divide the users, and on "
    f"at most {OTHER:.0%} from somebody else's choices, where Bradley-Terry is within {CHANCE:.0%} of one half; on "
    f"the pairs that all agree on it is at most {PARITY:.0%} behind. The latent tells the kind of user for "
    f"{PROBE:.0%}; two questions chosen for their information are worth {ACTIVE:.0%} more than drawn ones; and walking "
    f"by her reward reaches the user's corner from at least {REACHED:.0%} of all cells."
)

GOALS = np.array([[0.0, 0.0], [1.0, 0.0]])
USERS, PAIRS, HISTORY = {"small": 400, "full": 2500}, 16, (2, 8)
EPOCHS, BATCH, LEARNING_RATE = {"small": 10, "full": 20}, 128, 5e-3
TESTERS, TESTS, PROBED, WALKERS = 120, 64, 400, 40
LOTS, SETS = 8, 500  # of questions: how often the best set is looked for, and among how many
SIDE, GAMMA, NEAR = 11, 0.95, 0.15
STEPS = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
Pairs = tuple[np.ndarray, np.ndarray]  # (N, 2) chosen and rejected


def compare(rng: np.random.Generator, kinds: np.ndarray) -> Pairs:
    """One choice between two random places for each of N users, by their kinds, 0 or 1."""
    return answer(rng.random((len(kinds), 2, 2)), kinds)


def answer(places: np.ndarray, kinds: np.ndarray) -> Pairs:
    """What N users choose of (N, 2, 2) places."""
    best = np.linalg.norm(places - GOALS[kinds][:, None], axis=-1).argmin(1)
    rows = np.arange(len(places))
    return places[rows, best], places[rows, 1 - best]


def records(pairs: Pairs) -> list[dict[str, Any]]:
    return [{"prompt": "", "chosen": c, "rejected": r} for c, r in zip(pairs[0].tolist(), pairs[1].tolist())]


def coin(rng: np.random.Generator, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same questions, answered by a coin: what a user wants is no longer in them."""
    heads = rng.random(len(history)) < 0.5
    return [{**h, "chosen": h["rejected"], "rejected": h["chosen"]} if x else h for h, x in zip(history, heads)]


def fit(rows: list[dict[str, Any]], seed: int, scale: str) -> PersonalModel:
    """A latent of eight dimensions; encoder and decoder are small networks of the places."""
    torch.manual_seed(seed)
    made = train(
        rows, ArrayBackbone(2), head=VariationalHead(2, 8, width=64), epochs=EPOCHS[scale], batch_size=BATCH,
        learning_rate=LEARNING_RATE, callbacks=[Annealing()], seed=seed,
    )  # fmt: skip
    assert isinstance(made.model, PersonalModel)
    return made.model


def fit_baseline(rows: list[dict[str, Any]], seed: int, scale: str) -> PreferenceModel:
    """One reward for all: a network as deep and as wide, on the same pairs."""
    torch.manual_seed(seed)
    backbone = ArrayBackbone(2, (64, 64, 64), hidden_size=64)
    return train(
        rows, backbone, epochs=EPOCHS[scale], batch_size=BATCH, learning_rate=LEARNING_RATE, seed=seed
    ).model  # fmt: skip


def at_mean(model: PersonalModel, history: list[dict[str, Any]]) -> Particles:
    """What choices tell of a user, at the mean of the latent, as the paper evaluates."""
    return Particles(model.particles(history).mean[None], torch.ones(1))


def accuracy(hits: np.ndarray, divided: np.ndarray) -> tuple[float, float]:
    """On pairs that divide the users, and on the others."""
    return float(hits[divided].mean()), float(hits[~divided].mean())


def probe(model: PersonalModel, histories: list[list[dict[str, Any]]], kinds: np.ndarray) -> float:
    """Accuracy of a logistic regression from the mean of the latent to the kind of user, on half of them."""
    from sklearn.linear_model import LogisticRegression

    read = model.read([row for history in histories for row in history])
    pairs = read.vectors.unflatten(0, (len(histories), -1))
    head = model.head
    assert isinstance(head, VariationalHead)
    with torch.inference_mode():
        mean, _ = head.encode(pairs, torch.ones(pairs.shape[:2], dtype=torch.bool))
    half = len(kinds) // 2
    return float(LogisticRegression().fit(mean[:half], kinds[:half]).score(mean[half:], kinds[half:]))


def questions(rng: np.random.Generator, model: PersonalModel, weights: str) -> np.ndarray:
    """(LOTS, 2, 2, 2) places: of each lot of SETS random sets of two questions, the most informative one."""
    head = model.head
    assert isinstance(head, VariationalHead)
    found = []
    for lot in rng.random((LOTS, SETS, 2, 2, 2)):
        a, b = torch.tensor(lot, dtype=torch.float32).unbind(2)
        found.append(lot[int(head.set_gain(a, b, weights=weights).argmax())])
    return np.stack(found)


def walk(rewards: np.ndarray) -> np.ndarray:
    """(U, S) cell that the best policy ends in, from every cell, for rewards (U, S) of being in a cell.

    Value iteration with five moves (one of them stays), then as many steps as cross the grid twice.
    """
    cells = np.argwhere(np.ones((SIDE, SIDE), dtype=bool))
    to = np.clip(cells[:, None] + STEPS, 0, SIDE - 1) @ [SIDE, 1]  # (S, 5)
    values = np.zeros_like(rewards)
    for _ in range(400):
        values = (rewards + GAMMA * values)[:, to].max(-1)
    moves = (rewards + GAMMA * values)[:, to].argmax(-1)  # (U, S)
    place = np.tile(np.arange(len(cells)), (len(rewards), 1))
    for _ in range(4 * SIDE):
        place = to[place, np.take_along_axis(moves, place, 1)]
    return place


def reached(rewards: np.ndarray, kinds: np.ndarray) -> float:
    """Share of cells from which the walk ends near the goal of a user's kind."""
    cells = np.argwhere(np.ones((SIDE, SIDE), dtype=bool)) / (SIDE - 1)
    ends = cells[walk(rewards)]  # (U, S, 2)
    return float((np.linalg.norm(ends - GOALS[kinds][:, None], axis=-1) <= NEAR).mean())


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    rng = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(USERS[scale]) % 2, PAIRS)
    rows = records(compare(rng, kinds))
    plain = fit_baseline(rows, seed, scale)
    named = [{**row, "user": at // PAIRS} for at, row in enumerate(rows)]
    known = with_histories(named, HISTORY, seed=seed)
    if ablate:
        known = [{**row, "history": coin(rng, row["history"])} for row in known]
    model = fit(known, seed, scale)

    def history(kind: int, size: int = HISTORY[1]) -> list[dict[str, Any]]:
        found = records(compare(rng, np.full(size, kind)))
        return coin(rng, found) if ablate else found

    # Pairs that divide users and pairs that do not, for new users of either kind in turn.
    who = np.arange(TESTERS) % 2
    tests = compare(rng, np.repeat(who, TESTS))
    nearer = [np.linalg.norm(side[:, None] - GOALS, axis=-1) for side in tests]
    divided = np.logical_xor.reduce(nearer[0] < nearer[1], axis=1)
    read = model.read(records(tests))
    states = [at_mean(model, history(kind)) for kind in who.tolist()]

    def right(of: list[Particles]) -> np.ndarray:
        each = [model.logits(read.take(range(at * TESTS, (at + 1) * TESTS)), state) for at, state in enumerate(of)]
        return np.concatenate(each) > 0

    own, agreed = accuracy(right(states), divided)
    other, _ = accuracy(right(states[1:] + states[:1]), divided)
    zero, _ = accuracy(right([Particles(torch.zeros(1, 8), torch.ones(1))] * TESTERS), divided)
    prior, _ = accuracy(right([at_mean(model, [])] * TESTERS), divided)
    bt, bt_agreed = accuracy(plain.preference([""] * len(tests[0]), *(side.tolist() for side in tests)) > 0, divided)

    of_many = np.arange(PROBED) % 2
    told = probe(model, [history(kind) for kind in of_many.tolist()], of_many)

    asked = {}
    for weights in ("drawn", "equal", "predictive"):
        chosen = rng.random((TESTERS, 2, 2, 2)) if weights == "drawn" else questions(rng, model, weights)
        found = []
        for at, kind in enumerate(who):
            two = records(answer(chosen[at // 2 % len(chosen)], np.full(2, kind)))
            found.append(at_mean(model, coin(rng, two) if ablate else two))
        asked[weights], _ = accuracy(right(found), divided)

    cells = (np.argwhere(np.ones((SIDE, SIDE), dtype=bool)) / (SIDE - 1)).tolist()
    sample = rng.random((1000, 2)).tolist()
    walkers = np.arange(WALKERS) % 2
    users = [UserReward(model, at_mean(model, history(kind))) for kind in walkers.tolist()]
    comparable: list[Reward] = [ComparableReward(user, {"completion": sample}) for user in users]
    rewards = np.stack([reward.score({"completion": cells}).values for reward in comparable])
    unscaled = np.stack([user.score({"completion": cells}).values for user in users])
    alone = np.tile(_scores(plain, cells), (WALKERS, 1))
    home, abroad, rest = reached(rewards, walkers), reached(rewards, 1 - walkers), reached(alone, walkers)

    values = torch.tensor(np.stack([user.score({"completion": sample}).values for user in users]))
    values[walkers == 0] *= 10  # the same wishes, in another unit
    raw, scaled = (
        float(np.divide(*[np.ptp(of[walkers == kind].numpy(), axis=1).mean() for kind in (0, 1)]))
        for of in (values, scale_rewards(values, values))
    )

    name = "VPL" + (", answers by a coin (ablated)" if ablate else "")
    rows_out: list[dict[str, Any]] = [
        {"model": name, "pairs that divide": own, "pairs that do not": agreed, "kind of user": told,
         "corner reached": home, "by raw rewards": reached(unscaled, walkers),
         "10 times the unit, raw": raw, "win rates": scaled},
        {"model": f"{name}: another user's choices", "pairs that divide": other, "corner reached": abroad},
        {"model": f"{name}: zero latent", "pairs that divide": zero},
        {"model": f"{name}: no choices", "pairs that divide": prior},
        {"model": f"{name}: two drawn questions", "pairs that divide": asked["drawn"]},
        {"model": f"{name}: two, by information", "pairs that divide": asked["predictive"]},
        {"model": f"{name}: two, equal weights", "pairs that divide": asked["equal"]},
        {"model": "Bradley-Terry", "pairs that divide": bt, "pairs that do not": bt_agreed, "corner reached": rest},
    ]  # fmt: skip
    checks = {
        f"divided pairs: at least {OWN}": own >= OWN,
        f"from another user's choices: at most {OTHER}": other <= OTHER,
        f"zero latent: within {CHANCE} of one half": abs(zero - 0.5) <= CHANCE,
        f"Bradley-Terry: within {CHANCE} of one half": abs(bt - 0.5) <= CHANCE,
        f"other pairs: at most {PARITY} below Bradley-Terry": agreed >= bt_agreed - PARITY,
        f"kind of user from the latent: at least {PROBE}": told >= PROBE,
        f"questions by information: at least {ACTIVE} above drawn ones": asked["predictive"] >= asked["drawn"] + ACTIVE,
        f"corner reached: at least {REACHED}": home >= REACHED,
        f"with another user's reward: at most {MISLED}": abroad <= MISLED,
        f"a unit 10 times as large: over {RAW} raw, under {SCALED} as win rates": raw > RAW and scaled < SCALED,
    }
    return Outcome(rows_out, checks, lambda: _figure(rows_out))


def _scores(model: PreferenceModel, cells: list[list[float]]) -> np.ndarray:
    assert isinstance(model, Reward)
    return model.score({"completion": cells}).values


def _figure(rows: list[dict[str, Any]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    labels = [row["model"].replace(": ", ":\n") for row in rows]
    colors = ["#4477AA" if row["model"].startswith("VPL") else "#999999" for row in rows]
    bars = axes.barh(labels, [row["pairs that divide"] for row in rows], color=colors)
    axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.axvline(0.5, color="black", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set(xlabel="accuracy on pairs that divide the users", xlim=(0, 1.1), title="A reward for each of two kinds")
    return figure
