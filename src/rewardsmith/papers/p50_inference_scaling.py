"""Paper 50, Liu et al. 2025: a judge that makes up its principles anew in every sample gets better with every sample.

The world: requests with two responses whose true qualities are known, a fifth of a point to one point apart on a scale
of ten. The judge is a script that reads the real prompt and writes real answers: principles, a remark on each response,
and integer scores in a box, off by a point or so. In one half of its samples it is careful and goes by quality; in the
other it goes by how polished a response looks, which has nothing to do with quality and does not average out. It likes
the response shown first, and now and then forgets the scores. Nothing says outright which samples are careful: the
principles are drawn from two stocks, not always from the right one. A meta reward, hashed n-grams of the critique, must
learn that from which critiques of other requests were right. Ablated, the judge has one sample to give, the same
however often it is asked.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.chat.scripted import ScriptedModel
from rewardsmith.data.records import Message
from rewardsmith.evaluation.metrics import correctness
from rewardsmith.functions import from_function
from rewardsmith.judges import Judgments, ListwiseJudge, labeled_critiques, train_meta
from rewardsmith.papers.claim import Outcome
from rewardsmith.reward import Reward

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VOTES = (1, 2, 4, 8, 16)
RISE, FURTHER, META, CHOICE = 0.07, 0.02, 0.015, 0.05
CLAIM = (
    f"Summing the scores of 8 samples is right on at least {RISE:.0%} more held-out pairs than one sample, of 16 on "
    f"{FURTHER:.0%} more again; of 8 samples the 4 that a learned meta reward trusts decide better than all 8, by "
    f"{META:.1%}, and than 4 at random, by {CHOICE:.0%}."
)

SUBJECTS = ("a leaking tap", "a sorting function", "a letter of thanks", "fractions", "a train journey", "bread dough")
REQUESTS = ("Help me with {}.", "Explain {} to a child.", "What goes wrong most often with {}?", "Plan {} for me.")
# A careful sample draws each principle from the first stock with this probability, any other from the second.
TELLING = 0.85
STOCKS = (
    (
        "every number is checked against the request",
        "each step follows from the one before",
        "no claim without support",
        "errors of fact weigh most",
        "what was asked is answered in full",
        "exceptions and limits are named",
    ),
    (
        "it reads pleasantly",
        "the overall impression is good",
        "it seems to know what it speaks of",
        "the tone is confident",
        "it has a suitable length",
        "it is the kind of answer one expects",
    ),
)
REMARKS = ("it does well here", "it falls short here", "middling", "better than most", "this could be said better")
CAREFUL, ERROR, LIKING, FORGETS = 0.5, 1.0, 0.5, 0.03
MIDDLE, POLISH = 5.5, 0.5  # mean and standard deviation of polish
RECORDS, LESSONS = 3000, 800


class World:
    """Requests, two responses to each, and what the responses are worth; `candidates[i][0]` is the better one."""

    def __init__(self, rng: np.random.Generator, count: int, name: str) -> None:
        low = rng.uniform(3.5, 7.0, count)
        high = low + rng.uniform(0.2, 1.0, count)
        subjects, requests = rng.choice(SUBJECTS, count), rng.choice(REQUESTS, count)
        self.prompts = [f"{r.format(s)} ({name} {i})" for i, (r, s) in enumerate(zip(requests, subjects))]
        # Which of the two texts is the better one cannot be told from the texts.
        swapped = rng.random(count) < 0.5
        texts = [(f"Draft {name}{i}a on {s}.", f"Draft {name}{i}b on {s}.") for i, s in enumerate(subjects)]
        self.candidates = [pair[::-1] if swap else pair for pair, swap in zip(texts, swapped)]
        self.ratings = np.stack([high, low], axis=1)
        self.quality = {
            text: float(worth) for pair, row in zip(self.candidates, self.ratings) for text, worth in zip(pair, row)
        }
        self.polish = dict(zip(self.quality, rng.normal(MIDDLE, POLISH, 2 * count).tolist()))


def judge_script(worlds: Sequence[World], seed: int, ablate: bool) -> ScriptedModel:
    """A generalist judge that sees quality, or in half of its samples polish, with errors that are new each time."""
    quality = {text: worth for world in worlds for text, worth in world.quality.items()}
    polish = {text: worth for world in worlds for text, worth in world.polish.items()}

    def answer(messages: list[Message], i: int) -> str:
        asked = messages[-1]["content"]
        mark = re.search(r"The mark is (\w+)", asked)[1]  # type: ignore[index]
        shown = re.findall(rf"=== {mark} response \d+ ===\n(.*?)\n=== {mark} end of", asked, re.S)
        texts = sorted(shown)
        key = [seed, zlib.crc32("\n".join(texts).encode())]
        rng = np.random.default_rng(key if ablate else [*key, i, shown[0] == texts[0]])
        careful = bool(rng.random() < CAREFUL)
        criterion = quality if careful else polish
        seen = {text: criterion[text] + ERROR * error for text, error in zip(texts, rng.standard_normal(2).tolist())}
        picks, stray = rng.integers(0, 30, 5).tolist(), rng.random(4).tolist()
        principles = [STOCKS[careful == (u > TELLING)][pick % 6] for pick, u in zip(picks[:3], stray)]
        lines = [f"- {principle} ({share} %)" for principle, share in zip(principles, (50, 30, 20))]
        lines += [f"Response {place}: {REMARKS[picks[place + 2] % 5]}." for place in (1, 2)]
        if stray[3] < FORGETS:
            return "\n".join(lines)
        points = [round(seen[text] + LIKING * (place == 0)) for place, text in enumerate(shown)]
        return "\n".join([*lines, f"\\boxed{{{', '.join(str(min(max(point, 1), 10)) for point in points)}}}"])

    return ScriptedModel(answer, name="generalist")


def accuracy(judge: ListwiseJudge, world: World, judged: Judgments) -> float:
    """Share of requests whose better response has the larger total, ties and requests without scores counting half."""
    totals = np.stack(judge.totals(world.prompts, world.candidates, judged))
    return float(np.nan_to_num(correctness(totals[:, 0] - totals[:, 1]), nan=0.5).mean())


def learned_meta(model: ScriptedModel, world: World, seed: int) -> tuple[Reward, float, float]:
    """A meta reward from 8 samples of each request, the share of them that was right, and its last loss."""
    judged = ListwiseJudge(model, votes=8, seed=seed).judge_sets(world.prompts, world.candidates)
    records = labeled_critiques(world.prompts, world.candidates, world.ratings.tolist(), judged)
    result = train_meta(records, seed=seed)
    return result.model, result.right, result.losses[-1]


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    larger = 1 if scale == "small" else 8
    rng = np.random.default_rng(seed)
    lessons, held_out = World(rng, LESSONS * larger, "t"), World(rng, RECORDS * larger, "h")
    model = judge_script((lessons, held_out), seed, ablate)
    meta, right, loss = learned_meta(model, lessons, seed)
    coin = from_function(lambda completion: float(rng.random()), name="coin")

    judge = ListwiseJudge(model, votes=max(VOTES), seed=seed)
    judged = judge.judge_sets(held_out.prompts, held_out.candidates)
    sums = {k: accuracy(judge, held_out, judged.first(k)) for k in VOTES}
    rows: list[dict[str, Any]] = [
        {"vote": "sum of scores", "samples": k, "voting": k, "held-out accuracy": value} for k, value in sums.items()
    ]
    found: dict[str, float] = {}
    ways: dict[str, dict[str, Any]] = {
        "majority": {"combine": "majority"},
        "sum, chosen by the meta reward": {"meta": meta},
        "sum, chosen by a coin": {"meta": coin},
    }
    for name, options in ways.items():
        voter = ListwiseJudge(model, votes=8, seed=seed, **options)
        found[name] = accuracy(voter, held_out, judged.first(8))
        voting = voter.k_meta if "meta" in options else 8
        rows.append({"vote": name, "samples": 8, "voting": voting, "held-out accuracy": found[name]})
    rows.append(
        {"vote": "critiques that were right, and the meta reward's loss", "held-out accuracy": right, "nats": loss}
    )
    report = judge.report
    rows.append({"vote": "answers that could not be read", "held-out accuracy": report.unparsed_share})
    rows.append({"vote": "shown first and best, beyond chance", "held-out accuracy": report.position_bias})
    guided, random = (found[f"sum, chosen by {who}"] for who in ("the meta reward", "a coin"))
    checks = {
        f"8 samples: {RISE} above one": sums[8] >= sums[1] + RISE,
        f"16 samples: {FURTHER} above 8": sums[16] >= sums[8] + FURTHER,
        f"4 of 8 by the meta reward: {META} above all 8": guided >= sums[8] + META,
        f"4 of 8 by the meta reward: {CHOICE} above 4 at random": guided >= random + CHOICE,
    }
    return Outcome(rows, checks, lambda: _figure(sums, found))


def _figure(sums: dict[int, float], found: dict[str, float]) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot(list(sums), list(sums.values()), "o-", color="#4477AA", label="sum of all scores")
    for (name, value), style in zip(found.items(), ("s", "^", "v")):
        axes.plot(8, value, style, markersize=8, label=name)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="samples", ylabel="held-out accuracy", title="A judge gets better with every sample")
    axes.set_xticks(list(sums), [str(k) for k in sums])
    axes.legend(fontsize=8)
    return figure
