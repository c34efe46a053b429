"""How well a personal model comes to know a user: accuracy against the number of her choices it has seen.

The same choices of each user are predicted throughout: by the population, from her own first k choices, and, as a
control, from k choices of somebody else. A model that learned only what all users share does not get better with k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.data.records import as_columns
from rewardsmith.data.users import by_user, choices
from rewardsmith.evaluation.intervals import Estimate, bootstrap_mean
from rewardsmith.evaluation.plain import to_plain
from rewardsmith.reward import PreferenceModel

if TYPE_CHECKING:
    from rewardsmith.models.personal import PersonalModel


@dataclass
class PersonalResult:
    """What `evaluate_personal` found.

    Attributes:
        curve: one row per number of choices k: `shots`, `accuracy` from the user's own k choices, `stranger` from k
            choices of another user. Means over choices, with 95 % bootstrap intervals over users.
        known: accuracy for users by name, where the model was trained on them; else None.
        baseline: accuracy of the model that knows no users, on the same choices; None without one.
        users: users evaluated.
        left_out: users with too few choices.
        map: one row per user: `user`, `x`, `y` (the first two principal components of the mean states from all of her
            choices), `accuracy` at the largest k.
        explained: share of the variance of the states along x and y.
    """

    curve: list[dict[str, Any]]
    known: Estimate | None
    baseline: Estimate | None
    users: int
    left_out: int
    map: list[dict[str, Any]]
    explained: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return to_plain(self)


def evaluate_personal(
    model: PersonalModel,
    records: Any,
    *,
    shots: Sequence[int] = (0, 1, 2, 5, 10),
    baseline: PreferenceModel | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> PersonalResult:
    """Accuracy on users' choices against how many of their choices the model has seen.

    Args:
        model: a personal model.
        records: preferences with a `user`, who need not be known to the model.
        shots: numbers of choices to learn a user from. The choices after the largest of them are predicted, so that
            every number is measured on the same ones.
        baseline: a model that knows no users.
        seed: of each user's order of choices, of who the stranger is, and of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        RecordError: for a row without a user.
        ValueError: where fewer than two users have more choices than the largest of `shots`, or one cannot be read.
    """
    shots = sorted({int(k) for k in shots})
    if not shots or shots[0] < 0:
        raise ValueError(f"shots must be numbers of choices, 0 or more, got {shots}")
    columns = as_columns(records)
    generator = np.random.default_rng(seed)
    every = {user: generator.permutation(rows).tolist() for user, rows in by_user(columns).items()}
    rows_of = {user: rows for user, rows in every.items() if len(rows) > shots[-1]}
    if len(rows_of) < 2:
        raise ValueError(
            f"{len(rows_of)} of {len(every)} users have more than {shots[-1]} choices; at least two are needed: "
            "ask for fewer shots"
        )
    users = list(rows_of)
    read = model.read(choices(columns))
    tests = [rows_of[user][shots[-1] :] for user in users]
    owner = np.repeat(np.arange(len(users)), [len(rows) for rows in tests])
    order = generator.permutation(len(users))
    strangers = np.empty_like(order)
    strangers[order] = np.roll(order, 1)  # around a circle: nobody is her own stranger

    def accuracy(of: Sequence[Any]) -> Estimate:
        """From one state of knowledge per user."""
        hits = [_hits(model.logits(read.take(rows), who)) for rows, who in zip(tests, of)]
        return bootstrap_mean(np.concatenate(hits), clusters=owner, resamples=resamples, seed=seed)

    curve: list[dict[str, Any]] = []
    for k in shots:
        states = [model.posterior(read.take(rows_of[user][:k])) for user in users]
        curve.append(
            {
                "shots": k,
                "accuracy": accuracy(states),
                "stranger": accuracy([states[i] for i in strangers]),
            }
        )
    at_most = [float(_hits(model.logits(read.take(rows), who)).mean()) for rows, who in zip(tests, states)]
    whole = np.stack([model.posterior(read.take(rows_of[user])).mean.double().cpu().numpy() for user in users])
    places, explained = _principal(whole)
    return PersonalResult(
        curve=curve,
        known=_known(model, users, accuracy),
        baseline=None if baseline is None else _baseline(baseline, columns, tests, owner, resamples, seed),
        users=len(users),
        left_out=len(every) - len(users),
        map=[
            {"user": user, "x": float(x), "y": float(y), "accuracy": right}
            for user, (x, y), right in zip(users, places, at_most)
        ],
        explained=explained,
    )


def _hits(logits: np.ndarray) -> np.ndarray:
    return (logits > 0) + 0.5 * (logits == 0)


def _known(model: PersonalModel, users: Sequence[Any], accuracy: Any) -> Estimate | None:
    try:
        return accuracy([model.particles(user) for user in users])
    except ValueError:  # at least one of them was not there in training
        return None


def _baseline(
    model: PreferenceModel,
    columns: Mapping[str, list[Any]],
    tests: Sequence[Sequence[int]],
    owner: np.ndarray,
    resamples: int,
    seed: int,
) -> Estimate:
    rows = [row for part in tests for row in part]
    pairs = choices(columns, rows)
    logits = model.preference(*([pair[name] for pair in pairs] for name in ("prompt", "chosen", "rejected")))
    return bootstrap_mean(
        np.where(np.isnan(logits), np.nan, _hits(logits)), clusters=owner, resamples=resamples, seed=seed
    )


def _principal(states: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """(U, 2) coordinates along the first two principal components of (U, Z), and their shares of the variance."""
    centered = states - states.mean(0)
    _, sizes, axes = np.linalg.svd(centered, full_matrices=False)
    places = np.zeros((len(states), 2))
    found = min(2, len(sizes))
    places[:, :found] = centered @ axes[:found].T
    total = float(np.square(sizes).sum())
    share = np.zeros(2)
    if total > 0:
        share[:found] = np.square(sizes[:found]) / total
    return places, (float(share[0]), float(share[1]))


def accuracy_of_known_users(
    model: PersonalModel, seen: Any, records: Any, *, seed: int = 0, resamples: int = 1000
) -> Estimate:
    """Accuracy on further choices of users that the model was trained on, with a bootstrap interval over users.

    Args:
        model: a personal model. Users that its head knows by name are taken by name, others by their choices in `seen`.
        seen: preferences with a `user`: what the model was trained on.
        records: other choices of the same users.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ValueError: for a user without a choice in `seen`.
    """
    columns, before = as_columns(records), as_columns(seen)
    rows_of, known = by_user(columns), by_user(before)
    if unknown := [user for user in rows_of if user not in known]:
        raise ValueError(f"user {unknown[0]!r} has no choice among those that were trained on")
    read, history = model.read(choices(columns)), model.read(choices(before))
    hits, owner = [], []
    for number, (user, rows) in enumerate(rows_of.items()):
        try:
            who = model.particles(user)
        except ValueError:  # a head that knows nobody by name
            who = model.posterior(history.take(known[user]))
        hits.append(_hits(model.logits(read.take(rows), who)))
        owner += [number] * len(rows)
    return bootstrap_mean(np.concatenate(hits), clusters=np.array(owner), resamples=resamples, seed=seed)
