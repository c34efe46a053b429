"""Paper 26, Zhang et al. 2024: preference embeddings express cycles that no scalar reward can.

The world: answers to a question, each strong in one quality and touched by others. By majority of the judges an
accurate answer beats a friendly one, a friendly one a brief one, and a brief one an accurate one (the paper's cyclic
sets are cycles over attributes in the same way); one label in twenty is wrong. Held out are all questions on a quarter
of the topics. The control has the same texts and an order of the three qualities in place of the cycle: there a scalar
is enough, and the skew-symmetric form could lose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.alignment.general_preference import gpo_update
from rewardsmith.models import HashedBackbone, ScalarHead, train
from rewardsmith.models.gpm import SkewHead
from rewardsmith.papers.claim import Outcome
from rewardsmith.reward import PreferenceModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CYCLIC, LEAD, PARITY, EXPLOITABLE = 0.95, 0.25, 0.04, 0.15
CLAIM = (
    f"On cyclic preferences the skew-symmetric model is right on at least {CYCLIC:.0%} of held-out pairs, {LEAD:.0%} "
    f"more than Bradley-Terry; on an order of the same texts it is at most {PARITY:.0%} behind; and the policy that "
    f"GPO makes with it loses to no answer over {0.5 + EXPLOITABLE:.0%} of the time, while Bradley-Terry's does."
)

# fmt: off
TOPICS = [
    "sleep", "tea", "bicycles", "soil", "taxes", "chess", "bread", "rain", "violins", "maps", "running", "paint",
    "bees", "glass", "rivers", "clocks", "wool", "bridges", "knives", "ferns", "salt", "kites", "wine", "coal",
]
# fmt: on
QUESTIONS = (
    "How do I learn about {}?",
    "What should I know about {}?",
    "Why does {} matter to beginners?",
    "Give me advice on {}.",
    "Explain {} to a friend.",
)
QUALITIES = {
    "accurate": (
        "The survey of 1998 put the figure at twelve percent.",
        "Measured values for {} differ by less than two units.",
        "Two independent studies confirm this for {}.",
        "Strictly speaking, the effect holds only below forty degrees.",
        "The exact term used by specialists is different.",
        "Sources disagree on {}, and the better one is the archive.",
        "This was tested under controlled conditions.",
        "The formula gives the same number for {}.",
    ),
    "friendly": (
        "I am so glad that you asked about {}!",
        "You are doing really well, so take your time.",
        "Many people feel the same about {}, do not worry.",
        "Thank you for such a lovely question.",
        "Please come back whenever you like, I enjoy this.",
        "What a wonderful thing to be curious about!",
        "It is perfectly normal to find {} hard at first.",
        "We can go through {} together, step by step.",
    ),
    "brief": (
        "In short: start with {}.",
        "Yes.",
        "One rule is enough for {}.",
        "Do less, then stop.",
        "Skip the rest.",
        "Key point: {}, nothing else.",
        "Done in a minute.",
        "Short answer: it depends.",
    ),
}
NEUTRAL = (
    "There is more than one way to see {}.",
    "People have dealt with {} for a long time.",
    "It helps to look at an example first.",
    "Some of this changes from place to place.",
    "The first step is often the hardest.",
    "Tools for {} can be borrowed.",
    "Books on {} are easy to find.",
    "Prices vary.",
)
# WINS[i, j] = 1 where quality i beats quality j, in the order of QUALITIES.
CYCLE = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
ORDER = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]])
WRONG_LABELS = 0.05
START = (0.6, 0.3, 0.1)  # the policy that GPO starts from, over the three answers
BETA, ITERATIONS = 20.0, 2000


def answer(rng: np.random.Generator, topic: str, quality: str) -> str:
    """An answer with three marks of one quality, perhaps one of another, and two neutral sentences, in any order."""
    others = [name for name in QUALITIES if name != quality]
    stray = [rng.choice(QUALITIES[str(rng.choice(others))])] if rng.random() < 0.5 else []
    marks = [*rng.choice(QUALITIES[quality], 3, replace=False), *stray, *rng.choice(NEUTRAL, 2, replace=False)]
    return " ".join(str(marks[i]) for i in rng.permutation(len(marks))).replace("{}", topic)


def candidate_sets(rng: np.random.Generator, topics: list[str], draws: int) -> dict[str, list[Any]]:
    """Columns `prompt` and `candidates`: three answers, one of each quality in the order of QUALITIES."""
    rows = [(question.format(topic), topic) for topic in topics for question in QUESTIONS for _ in range(draws)]
    return {
        "prompt": [prompt for prompt, _ in rows],
        "candidates": [[answer(rng, topic, quality) for quality in QUALITIES] for _, topic in rows],
    }


def labeled(
    rng: np.random.Generator, sets: dict[str, list[Any]], wins: np.ndarray, wrong: float
) -> dict[str, list[Any]]:
    """Preference records: all three pairs of each set, a share `wrong` of them flipped."""
    records: dict[str, list[Any]] = {"prompt": [], "chosen": [], "rejected": []}
    for prompt, candidates in zip(sets["prompt"], sets["candidates"]):
        for i, j in ((0, 1), (1, 2), (0, 2)):
            better, worse = (i, j) if bool(wins[i, j]) != (rng.random() < wrong) else (j, i)
            records["prompt"].append(prompt)
            records["chosen"].append(candidates[better])
            records["rejected"].append(candidates[worse])
    return records


def fit(records: dict[str, list[Any]], seed: int, ablate: bool) -> PreferenceModel:
    """The paper's model, d = 2, on hashed n-grams; ablated, a scalar reward from the same two dimensions."""
    torch.manual_seed(seed)
    backbone = HashedBackbone(hidden_size=2)
    head = ScalarHead(2) if ablate else SkewHead(2, dim=2)
    return train(records, backbone, head=head, seed=seed).model


def accuracy(model: PreferenceModel, records: dict[str, list[Any]]) -> float:
    """Share of pairs that the model orders as the gold majority does."""
    logits = model.preference(records["prompt"], records["chosen"], records["rejected"])
    return float(np.mean(logits > 0))


def exploitability(model: PreferenceModel, sets: dict[str, list[Any]], wins: np.ndarray) -> float:
    """How often the best fixed answer beats the average policy of GPO, above one half; 0 for the Nash policy, mean."""
    scores = torch.tensor(np.stack(model.preference_matrix(sets["prompt"], sets["candidates"])))
    logps = torch.tensor(START, dtype=scores.dtype).log().expand(len(scores), 3)
    average = torch.zeros_like(logps)
    for _ in range(ITERATIONS):
        logps = gpo_update(logps, scores, BETA)
        average += logps.exp() / ITERATIONS
    beats = torch.tensor(wins + 0.5 * np.eye(3))  # a tie with itself
    return float(((average @ beats.T).amax(1) - 0.5).mean())


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    draws = 5 if scale == "small" else 40
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(seed)
    topics = [str(topic) for topic in rng.permutation(TOPICS)]
    train_sets, test_sets = candidate_sets(rng, topics[:18], draws), candidate_sets(rng, topics[18:], 4)
    for world, wins in (("cycle", CYCLE), ("order", ORDER)):
        records = labeled(rng, train_sets, wins, WRONG_LABELS)
        held_out = labeled(rng, test_sets, wins, 0.0)
        models = {
            "skew-symmetric" if not ablate else "ablated (scalar)": fit(records, seed, ablate),
            "Bradley-Terry": train(records, "hashed", seed=seed).model,
        }
        for name, model in models.items():
            beaten = exploitability(model, test_sets, wins) if world == "cycle" else None
            rows.append(
                {
                    "preferences": world,
                    "model": name,
                    "held-out accuracy": accuracy(model, held_out),
                    "best answer against GPO's policy": None if beaten is None else 0.5 + beaten,
                    "pairs": len(records["prompt"]),
                }
            )
    (cyclic, bt, order, bt_order) = (row["held-out accuracy"] for row in rows)
    beaten, bt_beaten = (row["best answer against GPO's policy"] - 0.5 for row in rows[:2])
    checks = {
        f"cycle: accuracy at least {CYCLIC}": cyclic >= CYCLIC,
        f"cycle: at least {LEAD} above Bradley-Terry": cyclic >= bt + LEAD,
        f"order: at most {PARITY} below Bradley-Terry": order >= bt_order - PARITY,
        f"GPO: beaten by at most {EXPLOITABLE} above one half": beaten <= EXPLOITABLE,
        f"GPO with Bradley-Terry: beaten by more than {EXPLOITABLE}": bt_beaten > EXPLOITABLE,
    }
    return Outcome(rows, checks, lambda: _figure(rows))


def _figure(rows: list[dict[str, Any]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    labels = [f"{row['model']}\n{row['preferences']}" for row in rows]
    bars = axes.bar(labels, [row["held-out accuracy"] for row in rows], color=["#4477AA", "#BBBBBB"] * 2)
    axes.bar_label(bars, fmt="%.2f")
    axes.axhline(2 / 3, color="black", linestyle="--", linewidth=1)
    axes.annotate("the most that a scalar\nreaches on a cycle", (1, 0.69), ha="center", va="bottom", fontsize=8)
    axes.set(ylabel="held-out accuracy", ylim=(0, 1.15), title="Cycles need more than a scalar")
    return figure
