"""Users who want different things, made from data in which nobody is named (as in Poddar et al. 2024, section 5).

`attribute_users`: one user per attribute of rated completions (UltraFeedback-P): helpfulness for one, honesty for
another. `pool_histories`: what is known of each, drawn from a pool of questions. `pets`: sentences about animals, and
users who prefer those about cats, or about dogs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rewardsmith.data.records import RecordError, Row, Text, as_columns, text_key
from rewardsmith.data.users import by_user, choices

ULTRAFEEDBACK = ("helpfulness", "honesty", "instruction_following", "truthfulness")
PETS = ("cat", "dog")
ANIMALS = ("cat", "dog", "bird", "rabbit")
ASKED = ("Please talk about one kind of pet.", "Which animal should live with me?", "Tell me about an animal at home.")
SAID = (
    "{A}s sleep through most of the day and wake up hungry.",
    "A {a} needs fresh water every morning.",
    "Many families say that the {a} chose them.",
    "The {a} was one of the first animals to live with people.",
    "Young {a}s learn quickly when they are rewarded.",
    "A healthy {a} sees a vet once a year.",
    "Some {a}s know the voice of their owner.",
    "Keeping a {a} costs less than most people think.",
)


def attribute_users(
    rows: Iterable[Mapping[str, Any]],
    attributes: Sequence[str] = ULTRAFEEDBACK,
    *,
    controversial: bool = True,
    pairs: int | None = 1,
    seed: int = 0,
) -> list[Row]:
    """Preferences of users who care about one attribute each; `user` is its name.

    A user prefers the completion that is rated higher in her attribute; where both are rated alike, a coin decides.

    Args:
        rows: ratings: `prompt`, `completion`, `attributes` (a mapping of names to numbers).
        attributes: one user each: UF-P-4 by default, `("helpfulness", "honesty")` for UF-P-2.
        controversial: keep only pairs about which two users disagree, by their ratings alone.
        pairs: the most per prompt, drawn evenly; None for all.
        seed: of draws and coins.

    Returns:
        rows of `prompt`, `chosen`, `rejected`, `user`, all users on the same pairs.

    Raises:
        RecordError: for a row without a number for one of the attributes.
        ValueError: for fewer than two attributes.
    """
    if len(attributes) < 2:
        raise ValueError(f"users who disagree need at least two attributes, got {list(attributes)}")
    groups: dict[str, tuple[Text, list[tuple[Text, np.ndarray]]]] = {}
    for number, row in enumerate(rows):
        found = row.get("attributes")
        if not isinstance(found, Mapping):
            raise RecordError("must be a mapping of attributes to numbers", row=number, column="attributes")
        if missing := [name for name in attributes if not isinstance(found.get(name), int | float)]:
            raise RecordError(f"has no number for {', '.join(missing)}", row=number, column="attributes")
        ratings = np.array([found[name] for name in attributes], dtype=np.float64)
        groups.setdefault(text_key(row["prompt"]), (row["prompt"], []))[1].append((row["completion"], ratings))
    generator = np.random.default_rng(seed)
    out: list[Row] = []
    for prompt, rated in groups.values():
        both = [(i, j, rated[i][1] - rated[j][1]) for i, j in itertools.combinations(range(len(rated)), 2)]
        if controversial:
            both = [pair for pair in both if (pair[2] > 0).any() and (pair[2] < 0).any()]
        if pairs is not None and len(both) > pairs:
            both = [both[at] for at in sorted(generator.choice(len(both), pairs, replace=False))]
        for i, j, gaps in both:
            for name, gap in zip(attributes, gaps):
                first = gap > 0 or (gap == 0 and generator.random() < 0.5)
                best, worst = (i, j) if first else (j, i)
                out.append({"prompt": prompt, "chosen": rated[best][0], "rejected": rated[worst][0], "user": name})
    return out


def pool_histories(
    records: Any, *, questions: int = 100, size: tuple[int, int] = (2, 8), pool: Any = None, seed: int = 0
) -> list[Row]:
    """Give each row a `history` of its user's answers to questions of a pool, which are not among the rows themselves.

    `with_histories` draws from all other choices of the user instead.

    Args:
        records: preferences with a `user`.
        questions: prompts in the pool, drawn evenly; their rows are taken out.
        size: smallest and largest history, drawn evenly.
        pool: preferences with a `user` to draw from in place of `questions` of the records.
        seed: of the draws.

    Raises:
        ValueError: where no row is left, a user has too few choices in the pool, or the size is below 1.
    """
    low, high = size
    if not 1 <= low <= high:
        raise ValueError(f"size must be at least 1, smallest first, got {size}")
    generator = np.random.default_rng(seed)
    columns = as_columns(records)
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    if pool is None:
        prompts = list(dict.fromkeys(text_key(row["prompt"]) for row in rows))
        if len(prompts) <= questions:
            raise ValueError(f"{len(prompts)} prompts cannot give a pool of {questions} and leave rows")
        drawn = {prompts[at] for at in generator.choice(len(prompts), questions, replace=False)}
        pool = [row for row in rows if text_key(row["prompt"]) in drawn]
        rows = [row for row in rows if text_key(row["prompt"]) not in drawn]
    known = {user: choices(pool, places) for user, places in by_user(pool).items()}
    for user in by_user(rows):
        if len(known.get(user, [])) < high:
            raise ValueError(f"user {user!r} has {len(known.get(user, []))} choices in the pool, fewer than {high}")
    out = []
    for row in rows:
        wanted = int(generator.integers(low, high + 1))
        mine = known[row["user"]]
        out.append({**row, "history": [mine[at] for at in generator.choice(len(mine), wanted, replace=False)]})
    return out


def pets(users: int = 100, pairs: int = 16, *, wrong: float = 0.0, seed: int = 0) -> list[Row]:
    """Preferences between sentences about cats, dogs, birds and rabbits.

    Every other user likes cats best, the others dogs; each then likes birds, rabbits, and what the others like best.
    So of the six kinds of pair all but one, birds against rabbits, divide the users.

    Args:
        users: named `cat 0`, `dog 1`, `cat 2`, ...
        pairs: of each user, about two different animals.
        wrong: share of labels that are the wrong way round.
        seed: of the draws.

    Raises:
        ValueError: for a share outside [0, 1].
    """
    if not 0 <= wrong <= 1:
        raise ValueError(f"wrong must lie in [0, 1], got {wrong}")
    generator = np.random.default_rng(seed)
    out = []
    for number in range(users):
        own, other = PETS[number % 2], PETS[1 - number % 2]
        order = [own, "bird", "rabbit", other]
        for _ in range(pairs):
            best, worst = sorted(map(str, generator.choice(ANIMALS, 2, replace=False)), key=order.index)
            if generator.random() < wrong:
                best, worst = worst, best
            chosen, rejected = (str(generator.choice(SAID)).format(a=a, A=a.title()) for a in (best, worst))
            prompt = str(generator.choice(ASKED))
            out.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "user": f"{own} {number}"})
    return out
