"""Paper 52, Pitis et al. 2024: preferences that contradict each other are both right, each in its context.

Two worlds. Text: six criteria with two poles; a record is a question, two answers and two people, each of whom cares
for one criterion and would choose the other's loser. What a person wants is said in words that no answer has, in
sentences of which two are kept for the test. Users: two kinds of them, 70 to 30, with linear tastes that largely
disagree, give 2000 noisy choices. A model of bare choices learns the majority's taste; the same choices with the kind
of user as context, and Bayes' rule on five choices of a new user, find the minority.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.data.contexts import with_context
from rewardsmith.evaluation.contexts import evaluate_contexts
from rewardsmith.models import RewardModel, train
from rewardsmith.models.arrays import ArrayBackbone
from rewardsmith.models.by_context import ContextHead
from rewardsmith.models.crossed import CrossedBackbone
from rewardsmith.models.two_step import TwoStep, vote_logits
from rewardsmith.papers.claim import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT, MINORITY, BARE, MAJORITY, PRIOR, COINS, CHANCE = 0.95, 0.78, 0.38, 0.85, 0.25, 0.58, 0.01
CLAIM = (
    f"On reversals in text, a linear model of context words crossed with answer words is right in at least {RIGHT:.0%} "
    f"of rows, and its verdict turns with the context as often, where n-grams uncrossed stay within {CHANCE:.0%} of "
    f"chance; with two kinds of users, 70 to 30, context-aware choices and five answers of a new user agree with the "
    f"minority in at least {MINORITY:.0%} of the pairs on which the two kinds differ, and with the majority in "
    f"{MAJORITY:.0%}, where bare choices agree with the minority in at most {BARE:.0%}, two steps without answers in "
    f"{PRIOR:.0%}, and with a coin's answers in {COINS:.0%}."
)

# --- text: criterion -> for each pole, how people say that they want it, and the words of an answer that has it

# fmt: off
CRITERIA: tuple[tuple[tuple[tuple[str, ...], tuple[str, ...]], ...], ...] = (
    ((("brief", "terse", "compact"), ("quick", "gist", "nutshell", "bullet")),
     (("thorough", "exhaustive", "elaborate"), ("furthermore", "background", "history", "detail"))),
    ((("formal", "official", "dignified"), ("regarding", "sincerely", "pursuant", "hereby")),
     (("casual", "chatty", "relaxed"), ("hey", "cool", "stuff", "guys"))),
    ((("cautious", "careful", "prudent"), ("perhaps", "risk", "warning", "consult")),
     (("bold", "daring", "decisive"), ("definitely", "simply", "certainly", "leap"))),
    ((("technical", "expert", "rigorous"), ("coefficient", "algorithm", "variance", "theorem")),
     (("plain", "accessible", "elementary"), ("imagine", "picture", "everyday", "kitchen"))),
    ((("frugal", "cheap", "thrifty"), ("secondhand", "coupon", "borrow", "discount")),
     (("luxurious", "premium", "lavish"), ("handcrafted", "exclusive", "boutique", "finest"))),
    ((("warm", "caring", "gentle"), ("friend", "together", "proud", "heart")),
     (("factual", "neutral", "detached"), ("measured", "reported", "statistics", "data"))),
)
ASKED = (
    "The person prefers {} answers.", "She likes an answer to be {}.", "Someone who wants it {}.",
    "Please be {} here.", "The reader is after something {}.", "He finds only {} replies useful.",
)
ASKED_AT_TEST = ("Nothing but a {} text will do.", "They hope for a reply that is {}.")
FILLER = (
    "there", "many", "ways", "people", "often", "start", "with", "this", "after", "which", "most", "find", "that",
    "other", "things", "follow", "some", "time", "later", "between", "place", "number", "small", "part", "first",
    "second", "water", "paper", "light", "morning",
)
# fmt: on
SUBJECTS = ("bread", "taxes", "running", "chess", "gardens", "bicycles", "sleep", "maps", "tea", "violins")

# --- users: two kinds, with tastes of this norm and cosine

SIZE, NORM, COSINE = 20, 3.0, -0.3
KINDS = {"first kind": 0.7, "second kind": 0.3}
USERS, ANSWERS = 200, 5  # new users of each kind, and what each of them is asked


def answer(rng: np.random.Generator, poles: np.ndarray) -> str:
    """Two words for the pole (0 or 1) of each criterion, among 5 to 14 of no meaning."""
    words = [str(w) for c, pole in zip(CRITERIA, poles) for w in rng.choice(c[pole][1], 2, replace=False)]
    words += [str(w) for w in rng.choice(FILLER, rng.integers(5, 15))]
    return " ".join(words[i] for i in rng.permutation(len(words)))


def reversal_rows(rng: np.random.Generator, records: int, asked: tuple[str, ...]) -> list[dict[str, Any]]:
    """Two rows per record: the same two answers, each the better one for somebody."""
    rows = []
    for number in range(records):
        a, b = rng.integers(0, 2, (2, len(CRITERIA)))
        first, second = rng.choice(len(CRITERIA), 2, replace=False)
        b[[first, second]] = 1 - a[[first, second]]
        answers = [answer(rng, a), answer(rng, b)]
        prompt = f"Question {number}: what should I know about {rng.choice(SUBJECTS)}?"
        for criterion, won, poles in ((first, 0, a), (second, 1, b)):
            adjective = str(rng.choice(CRITERIA[criterion][poles[criterion]][0]))
            context = str(rng.choice(asked)).format(adjective)
            texts = {"chosen": answers[won], "rejected": answers[1 - won]}
            rows.append({"prompt": prompt, **texts, "context": context})
    return rows


def shuffled(rng: np.random.Generator, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their contexts dealt out anew."""
    order = rng.permutation(len(rows))
    return [{**row, "context": rows[i]["context"]} for row, i in zip(rows, order)]


def tastes(rng: np.random.Generator) -> np.ndarray:
    """(2, SIZE) the two kinds' weights."""
    basis, _ = np.linalg.qr(rng.normal(size=(SIZE, 2)))
    return NORM * np.stack([basis[:, 0], COSINE * basis[:, 0] + np.sqrt(1 - COSINE**2) * basis[:, 1]])


def chosen_by(rng: np.random.Generator, weights: np.ndarray, pairs: int) -> list[dict[str, Any]]:
    """Noisy choices (Bradley-Terry) between answers whose features differ by N(0, I)."""
    x = rng.normal(size=(pairs, 2, SIZE)) / np.sqrt(2)
    first = rng.random(pairs) < 1 / (1 + np.exp(-(x[:, 0] - x[:, 1]) @ weights))
    x = np.where(first[:, None, None], x, x[:, ::-1])
    return [{"prompt": "", "chosen": a.tolist(), "rejected": b.tolist()} for a, b in x]


def linear(rows: list[dict[str, Any]], head: Any, seed: int, epochs: int) -> RewardModel:
    """Logistic regression on the features, by kind of user or for all."""
    model = train(
        rows, ArrayBackbone(SIZE), head=head, seed=seed, epochs=epochs, learning_rate=0.05, batch_size=250,
        weight_decay=0.02,
    ).model  # fmt: skip
    return model


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    rng = np.random.default_rng(seed)
    text = _text(rng, seed, ablate, records=1500 if scale == "small" else 6000)
    users = _users(rng, seed, ablate, pairs=2000 if scale == "small" else 10000)
    crossed, uncrossed = text
    bare, two_step, alone, coins = users
    checks = {
        f"text: accuracy at least {RIGHT}": crossed["accuracy"] >= RIGHT,
        f"text: the verdict turns with the context in at least {RIGHT}": crossed["turns"] >= RIGHT,
        f"text: without crossing within {CHANCE} of 0.5": abs(uncrossed["accuracy"] - 0.5) <= CHANCE,
        f"users: two steps agree with the minority in at least {MINORITY}": two_step["minority"] >= MINORITY,
        f"users: two steps agree with the majority in at least {MAJORITY}": two_step["majority"] >= MAJORITY,
        f"users: bare choices agree with the minority in at most {BARE}": bare["minority"] <= BARE,
        f"users: without answers at most {PRIOR}": alone["minority"] <= PRIOR,
        f"users: with a coin's answers at most {COINS}": coins["minority"] <= COINS,
    }
    return Outcome([*text, *users], checks, lambda: _figure(text, users))


def _text(rng: np.random.Generator, seed: int, ablate: bool, records: int) -> list[dict[str, Any]]:
    rows, test = reversal_rows(rng, records, ASKED), reversal_rows(rng, 1000, ASKED_AT_TEST)
    given = with_context(shuffled(rng, rows) if ablate else rows)
    models = {
        "crossed" if not ablate else "ablated (contexts shuffled)": train(
            given, CrossedBackbone(), seed=seed, epochs=6, learning_rate=30.0, batch_size=32, optim="sgd"
        ).model,
        "n-grams, context and answer side by side": train(with_context(rows), "hashed", seed=seed).model,
    }  # fmt: skip
    out = []
    for name, model in models.items():
        found = evaluate_contexts(model, test, seed=seed)
        out.append(
            {
                "world": "text",
                "model": name,
                "accuracy": found.accuracy.value,
                "without context": found.without.value,
                "both right": found.both_right.value,
                "turns": found.flips.value,
                "rows": len(rows),
            }
        )
    return out


def _users(rng: np.random.Generator, seed: int, ablate: bool, pairs: int) -> list[dict[str, Any]]:
    weights = tastes(rng)
    kinds, prior = list(KINDS), np.array(list(KINDS.values()))
    counts = [round(pairs * share) for share in prior]
    rows = [{**row, "context": kind} for kind, w, n in zip(kinds, weights, counts) for row in chosen_by(rng, w, n)]
    if ablate:
        rows = shuffled(rng, rows)
    epochs = 40
    bare = linear(rows, "scalar", seed, epochs)
    two_step = TwoStep(linear(rows, ContextHead(SIZE, kinds), seed, epochs), kinds, prior, place="column")
    # Pairs on which the kinds differ; the first of each is the majority's.
    differ = rng.normal(size=(8000, 2, SIZE)) / np.sqrt(2)
    gaps = (differ[:, 0] - differ[:, 1]) @ weights.T
    differ, gaps = differ[gaps[:, 0] * gaps[:, 1] < 0], gaps[gaps[:, 0] * gaps[:, 1] < 0]
    differ = np.where(gaps[:, :1, None] > 0, differ, differ[:, ::-1])
    a, b = differ[:, 0].tolist(), differ[:, 1].tolist()
    blank = [""] * len(a)
    given = two_step.given(blank, a, b)

    def agreement(posteriors: np.ndarray, sign: int) -> float:
        """Mean over users (U, Z): how often the vote of their contexts is with the majority (1) or minority (-1)."""
        return float(np.mean([np.mean(sign * vote_logits(given, p) > 0) for p in posteriors]))

    def told(w: np.ndarray) -> np.ndarray:
        return np.stack([two_step.posterior(chosen_by(rng, w, ANSWERS)) for _ in range(USERS)])

    majority = bare.preference(blank, a, b)
    first, second = (told(w) for w in weights)
    coins = told(np.zeros(SIZE))
    alone = prior[None]
    rows_of: list[tuple[str, Any, Any]] = [
        ("bare choices", np.mean(majority > 0), np.mean(majority < 0)),
        ("two steps" if not ablate else "ablated (contexts shuffled)", agreement(first, 1), agreement(second, -1)),
        ("two steps, no answers", agreement(alone, 1), agreement(alone, -1)),
        ("two steps, answers of a coin", agreement(coins, 1), agreement(coins, -1)),
    ]
    return [
        {"world": "users", "model": name, "majority": float(most), "minority": float(few), "rows": pairs}
        for name, most, few in rows_of
    ]


def _figure(text: list[dict[str, Any]], users: list[dict[str, Any]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axes, rows, names in (
        (left, text, ("accuracy", "without context", "turns")),
        (right, users, ("majority", "minority")),
    ):
        places = np.arange(len(rows))
        for at, name in enumerate(names):
            axes.barh(places + 0.8 * at / len(names), [row[name] for row in rows], 0.8 / len(names), label=name)
        axes.set_yticks(places + 0.3, [row["model"] for row in rows])
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.05))
        axes.legend(fontsize=8)
    left.set_title("Reversals in text")
    right.set_title("Agreement on pairs that divide users")
    return figure
