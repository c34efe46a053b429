"""A text world: prompts, a policy that answers them well and badly, and a gold reward that is read off the text.

What it is: 194 prompts in 13 categories, written for this project, with right and wrong sentences for each. A policy
puts answers together from them: it may err, ramble, flatter, insult, drift off or ignore the format. The gold reward is
a weighted mean of six attributes, each computed from the text alone.

What it is not: human preferences, or a test of real models. Its English is put together from templates and a bank of
sentences, its faults are of few kinds and known only in the wordings of that bank, and its annotators are formulas. It
is here because its gold reward is known.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from rewardsmith.data.records import Batch, Text, as_columns, as_text
from rewardsmith.reward import Failure, Reward, Scores

ATTRIBUTES = ("correctness", "relevance", "tone", "concision", "format", "safety")
GOLD_WEIGHTS = {
    "correctness": 3.0,
    "relevance": 2.0,
    "tone": 3.0,
    "concision": 2.5,
    "format": 1.0,
    "safety": 1.5,
}
# An answer may be 1.5 times as long as the right sentences, and a sentence longer, before it counts as long-winded.
SPARE_FACTOR, SPARE_WORDS = 1.5, 12
LONG_WINDED = 200  # words beyond that at which nothing is left of concision
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_MARK = re.compile(r"^(?:- |\d+\. )")
_WORD = re.compile(r"[a-z]{4,}|\d+")
_ASKING = frozenset({"what", "which", "does", "that", "with", "have", "this", "your", "from", "they", "will", "should"})


@dataclass(frozen=True)
class Task:
    """A prompt and what belongs into its answer.

    Attributes:
        category: what it is about.
        prompt: the text.
        format: `steps` (numbered lines), `list` (lines with dashes), `one sentence`, or None.
        right: the sentences of a right answer.
        wrong: sentences that are wrong.
        extra: sentences that are right and not needed.
        facts: groups of strings of which a right answer has one each.
        false: strings that only a wrong answer has.
        unsafe: strings of advice that does harm.
    """

    category: str
    prompt: str
    format: str | None
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    extra: tuple[str, ...]
    facts: tuple[tuple[str, ...], ...]
    false: tuple[str, ...]
    unsafe: tuple[str, ...]

    @functools.cached_property
    def own(self) -> frozenset[str]:
        """The sentences that were written for this prompt."""
        return frozenset(part for text in (*self.right, *self.wrong, *self.extra) for part in _sentences(text))

    @functools.cached_property
    def topic(self) -> frozenset[str]:
        """Words that speak of the matter."""
        known = " ".join([self.prompt, *self.right, *self.wrong, *self.extra]).lower()
        return frozenset(_WORD.findall(known)) - _common_words()

    @functools.cached_property
    def budget(self) -> float:
        """Words that an answer may have and still be concise."""
        return SPARE_FACTOR * len(" ".join(self.right).split()) + SPARE_WORDS


@functools.cache
def tasks() -> dict[str, Task]:
    """All tasks, by prompt."""
    found = {}
    for line in (files(__package__) / "banks" / "tasks.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        fields["facts"] = tuple(tuple(group) for group in row["facts"])
        found[row["prompt"]] = Task(**fields)
    return found


@functools.cache
def phrases() -> dict[str, tuple[str, ...]]:
    """Sentences that belong to no task: `filler`, `openers`, `rude`, `off_topic`, `reckless`, `hasty`."""
    read = json.loads((files(__package__) / "banks" / "phrases.json").read_text(encoding="utf-8"))
    return {name: tuple(sentences) for name, sentences in read.items()}


@functools.cache
def _common_words() -> frozenset[str]:
    """Words of the phrases, and words that many prompts have: they speak of no matter in particular."""
    words = set(_WORD.findall(" ".join(" ".join(group) for group in phrases().values()).lower()))
    return frozenset(words | _ASKING)


@functools.cache
def _empty_phrases() -> dict[str, str]:
    """Sentences of the bank that say nothing, with the name of their group. Off-topic ones do say something."""
    return {sentence: name for name, group in phrases().items() if name != "off_topic" for sentence in group}


def prompts() -> list[dict[str, str]]:
    """All prompts, with their categories."""
    return [{"prompt": task.prompt, "category": task.category} for task in tasks().values()]


def attributes(prompt: Text, completion: Text) -> dict[str, float]:
    """The six attributes of an answer, each in [0, 1].

    - correctness: share of the facts that are there; halved for each false statement.
    - relevance: share of the sentences that speak of the matter. Empty phrases of the bank (filler, flattery, insults
      and the like) are left out of the count: they lower tone, concision or safety.
    - tone: 1, less 0.5 for each insult and 0.25 for each flattering opener.
    - concision: 1 up to a budget of words (1.5 times those of the right sentences, and 12 more), then 1/200 less for
      each word beyond, down to 0.
    - format: whether the format that was asked for is kept; 1 where none was.
    - safety: 0 where the answer advises harm, 0.3 where it waves rules of safety aside, else 1.

    Raises:
        ValueError: for a prompt that is not of this world.
    """
    task = tasks().get(as_text(prompt))
    if task is None:
        raise ValueError(f"not a prompt of this world: {as_text(prompt)[:80]!r}; see worlds.text.prompts()")
    text = as_text(completion).strip()
    lower = text.lower()
    sentences = _sentences(text)
    empty = [_empty_phrases().get(sentence) for sentence in sentences]
    said = sum(any(fact.lower() in lower for fact in group) for group in task.facts) / len(task.facts)
    wrong = sum(mark.lower() in lower for mark in task.false)
    on_topic = [
        sentence in task.own or not task.topic.isdisjoint(_WORD.findall(sentence.lower()))
        for sentence, phrase in zip(sentences, empty)
        if phrase is None
    ]
    words = len(text.split())
    harmful = any(mark.lower() in lower for mark in task.unsafe)
    return {
        "correctness": said * 0.5**wrong,
        "relevance": sum(on_topic) / len(on_topic) if on_topic else 0.0,
        "tone": max(0.0, 1.0 - 0.5 * empty.count("rude") - 0.25 * empty.count("openers")),
        "concision": min(1.0, max(0.0, 1 - (words - task.budget) / LONG_WINDED)) if words else 0.0,
        "format": float(_kept(task.format, text, sentences)),
        "safety": 0.0 if harmful else 0.3 if "reckless" in empty else 1.0,
    }


def _sentences(text: str) -> list[str]:
    return [part for line in text.splitlines() for part in _SENTENCE.split(_MARK.sub("", line.strip())) if part]


def _kept(form: str | None, text: str, sentences: Sequence[str]) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    if form == "one sentence":
        return len(sentences) == 1
    if form == "list":
        return sum(line.startswith("- ") for line in lines) >= 2
    if form == "steps":
        return sum(bool(re.match(r"\d+\. ", line)) for line in lines) >= 2
    return True


def gold(
    prompts: Sequence[Text], completions: Sequence[Text], weights: Mapping[str, float] | None = None
) -> np.ndarray:
    """(B,) gold rewards: the weighted mean of the attributes, in [0, 1]. An empty answer is worth 0.

    Args:
        prompts: B prompts of this world.
        completions: B answers.
        weights: of the attributes. Default: `GOLD_WEIGHTS`.
    """
    table = np.array([list(attributes(p, c).values()) for p, c in zip(prompts, completions)]).reshape(
        -1, len(ATTRIBUTES)
    )
    worth = np.array([(weights or GOLD_WEIGHTS)[name] for name in ATTRIBUTES])
    said = np.array([bool(as_text(c).strip()) for c in completions])
    return np.where(said, table @ worth / worth.sum(), 0.0)


class GoldReward(Reward):
    """The gold reward as a `Reward`; the attributes are its parts. A prompt of another world is a failure.

    Args:
        weights: of the attributes, such as a user's. Default: `GOLD_WEIGHTS`.
    """

    __name__ = "gold"

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = dict(weights or GOLD_WEIGHTS)

    def score(self, batch: Batch) -> Scores:
        columns = as_columns(batch)
        count = len(columns["completion"])
        values, parts = np.full(count, np.nan), {name: np.full(count, np.nan) for name in ATTRIBUTES}
        failures = {}
        for row, (prompt, completion) in enumerate(zip(columns["prompt"], columns["completion"])):
            if as_text(prompt) not in tasks():
                failures[row] = Failure("error", "not a prompt of this world")
                continue
            values[row] = gold([prompt], [completion], self.weights)[0]
            for name, value in attributes(prompt, completion).items():
                parts[name][row] = value
        return Scores(values, parts=parts, failures=failures)


@dataclass(frozen=True)
class Policy:
    """How answers are put together. Each answer is written with some care, uniform in [0, 1], that nobody sees.

    A fault of probability p happens with 2p(1 - care), so that faults come together, as they do where people or models
    answer hastily; `extra` happens with 2p * care. Padding and flattery have nothing to do with care, and padding is
    heavy-tailed: most answers have none, and now and then one rambles on and on.

    Attributes:
        wrong: a wrong sentence stands in place of a right one.
        partial: the last right sentence is missing, where there are several.
        extra: an extra sentence that is right is added.
        opener: it begins with flattery.
        rude: it has an insult.
        off_topic: it drifts off for a sentence.
        reckless: it waves safety aside.
        hasty: it admits to haste; harmless, but telling.
        unformatted: the format that was asked for is ignored.
        padded: it has filler: ceil(Pareto) sentences, with exponent `tail`.
        tail: the smaller, the longer the longest answers.
        most: longest padding in sentences.
    """

    wrong: float = 0.15
    partial: float = 0.2
    extra: float = 0.4
    opener: float = 0.15
    rude: float = 0.35
    off_topic: float = 0.35
    reckless: float = 0.2
    hasty: float = 0.6
    unformatted: float = 0.3
    padded: float = 0.2
    tail: float = 0.8
    most: int = 40


def sample_completions(prompts: Sequence[Text], n: int, seed: int = 0, policy: Policy | None = None) -> list[list[str]]:
    """n answers of the policy to each prompt.

    Args:
        prompts: prompts of this world.
        n: answers to each.
        seed: of everything random. The answers to a prompt do not depend on the other prompts.
        policy: probabilities. Default: `Policy()`.
    """
    import zlib

    policy = policy or Policy()
    out = []
    for prompt in prompts:
        task = tasks().get(as_text(prompt))
        if task is None:
            raise ValueError(f"not a prompt of this world: {as_text(prompt)[:80]!r}; see worlds.text.prompts()")
        rng = np.random.default_rng([seed, zlib.crc32(task.prompt.encode())])
        out.append([_compose(task, policy, rng) for _ in range(n)])
    return out


def _compose(task: Task, policy: Policy, rng: np.random.Generator) -> str:
    bank = phrases()

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    def one_of(sentences: Sequence[str]) -> str:
        return sentences[int(rng.integers(len(sentences)))]

    care = rng.random()
    haste = 2 * (1 - care)
    core = list(task.right)
    if len(core) > 1 and chance(haste * policy.partial):
        core.pop()
    if chance(haste * policy.wrong):
        core[int(rng.integers(len(core)))] = one_of(task.wrong)
    if task.extra and chance(2 * care * policy.extra):
        core.append(one_of(task.extra))
    text = _written(core, task.format if not chance(haste * policy.unformatted) else None)
    before = [one_of(bank["openers"])] if chance(policy.opener) else []
    after = [
        one_of(bank[name])
        for name in ("rude", "off_topic", "reckless", "hasty")
        if chance(haste * getattr(policy, name))
    ]
    if chance(policy.padded):
        count = min(policy.most, int(np.ceil(rng.pareto(policy.tail))))
        after += [bank["filler"][i] for i in rng.permutation(len(bank["filler"]))[:count]]
    joint = "\n" if "\n" in text else " "
    parts = [" ".join(before), text, " ".join(after[i] for i in rng.permutation(len(after)))]
    return joint.join(part for part in parts if part)


def _written(sentences: Sequence[str], form: str | None) -> str:
    if form == "steps":
        return "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1))
    if form == "list":
        return "\n".join(f"- {sentence}" for sentence in sentences)
    return sentences[0] if form == "one sentence" else " ".join(sentences)


@dataclass(frozen=True)
class Annotator:
    """Someone who compares two answers: gold, by their own weights, with habits that have nothing to do with it.

    P(a is preferred to b) = sigmoid(sharpness * (gold_a - gold_b) + length_bias * log(words_a / words_b)
    + opener_bias * (flattery_a - flattery_b)).

    Attributes:
        weights: of the attributes. Default: `GOLD_WEIGHTS`.
        sharpness: the higher, the less is left to chance.
        length_bias: how much a longer answer impresses.
        opener_bias: how much flattery does.
    """

    weights: Mapping[str, float] | None = None
    sharpness: float = 40.0
    length_bias: float = 0.0
    opener_bias: float = 0.0

    def prefers(
        self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], rng: np.random.Generator
    ) -> np.ndarray:
        """(B,) bool: whether a is preferred to b."""
        logit = self.sharpness * (gold(prompts, a, self.weights) - gold(prompts, b, self.weights))
        words = [np.array([len(as_text(text).split()) for text in side]) for side in (a, b)]
        logit = logit + self.length_bias * np.log(np.maximum(words[0], 1) / np.maximum(words[1], 1))
        flattery = [np.array([_flattery(text) for text in side]) for side in (a, b)]
        logit = logit + self.opener_bias * (flattery[0] - flattery[1])
        return rng.random(len(logit)) < 1 / (1 + np.exp(-logit))


def _flattery(text: Text) -> int:
    return sum(_empty_phrases().get(sentence) == "openers" for sentence in _sentences(as_text(text)))


def _user(**changes: float) -> dict[str, float]:
    return {**GOLD_WEIGHTS, **changes}


# The crowd that labels the sample has a habit that it does not know of; the users differ in what they want.
CROWD = Annotator(length_bias=5.0, opener_bias=1.5)
USERS: dict[str, Annotator] = {
    "expert": Annotator(_user(correctness=8.0, tone=0.5)),
    "hurried": Annotator(_user(concision=8.0)),
    "courteous": Annotator(_user(tone=9.0)),
    "cautious": Annotator(_user(safety=6.0)),
    "orderly": Annotator(_user(format=6.0)),
    "focused": Annotator(_user(relevance=7.0, concision=0.5)),
    "talkative": Annotator(_user(concision=0.0), length_bias=8.0),
    "vain": Annotator(_user(tone=0.0), opener_bias=10.0),
}
