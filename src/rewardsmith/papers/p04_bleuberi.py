"""Paper 04, Chang et al. 2025: BLEU against reference answers agrees with preferences and trains a policy.

Agreement: two answers to a question are compared, of which each is right about some facts of eight and wrong about
others, in wording of its own, with padding that has nothing to do with either. Gold is facts told less facts told
wrong. References are answers of five strong writers, who leave things out and make mistakes as well.

Learning: a policy that knows nothing (logits of a token by its place and by the token before it, for each prompt) is
trained by GRPO on BLEU against three references and measured against a fourth, which no reward has seen. References are
noisy copies of a text that nobody sees. BLEU hardly sees places, so the policy would settle on the right words in a
wrong order: an entropy bonus that fades out keeps it from that. The baseline is what people use where there are
references and no reward model, at equal samples and updates: the reward for the exact answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.alignment.advantages import group_advantages
from rewardsmith.evaluation import evaluate_pairs
from rewardsmith.functions import from_function
from rewardsmith.papers.claim import Outcome
from rewardsmith.reward import Reward
from rewardsmith.verifiers.overlap import BLEU, RougeL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AGREES, MORE, LONGER, LEARNS, FLAT = 0.65, 0.01, 0.05, 0.45, 0.15
CLAIM = (
    f"BLEU against five references picks the better of two answers at least {AGREES:.0%} of the time, {LONGER:.0%} "
    f"more often than the longer answer and {MORE:.0%} more often than BLEU against one; GRPO on BLEU lifts the share "
    f"of tokens that agree with a reference that no reward has seen from about 1/30 above {LEARNS:g}, and on the exact "
    f"answer it stays below {FLAT:g}."
)

FACTS, WORDINGS, WRITERS = 8, 3, 5
PROMPTS, PLACES, VOCABULARY, NOISE = 20, 8, 30, 0.15
# Of GRPO: completions per prompt, step of Adam (smaller for the logits by place), entropy bonus at first.
GROUP, LEARNING_RATE, PLACE_RATE, ENTROPY = 32, 0.2, 0.01, 0.4


def invented(rng: np.random.Generator, count: int) -> list[str]:
    """Words of one to three syllables."""
    syllables = ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "ve")
    table = rng.integers(len(syllables), size=(count, 3)).tolist()
    return ["".join(syllables[i] for i in row[:size]) for row, size in zip(table, rng.integers(1, 4, count).tolist())]


def sentence(rng: np.random.Generator) -> str:
    """A sentence of 5 to 9 invented words."""
    return " ".join(invented(rng, int(rng.integers(5, 10)))) + "."


def reworded(rng: np.random.Generator, text: str) -> str:
    """The same with one word in three replaced: another wording of a fact, or of a mistake about it."""
    words = text[:-1].split()
    replaced = rng.random(len(words)) < 1 / 3
    return " ".join(np.where(replaced, invented(rng, len(words)), words).tolist()) + "."


class Question:
    """Facts in several wordings each, mistakes about them, and who answers how."""

    def __init__(self, rng: np.random.Generator, padding: list[str]) -> None:
        facts, mistakes = ([sentence(rng) for _ in range(FACTS)] for _ in range(2))
        self.rng, self.padding = rng, padding
        self.right = [[reworded(rng, fact) for _ in range(WORDINGS)] for fact in facts]
        self.wrong = [[reworded(rng, mistake) for _ in range(WORDINGS)] for mistake in mistakes]

    def answer(self, told: float, wrong: float, padded: float) -> tuple[str, int]:
        """An answer and its gold: each fact is told with one chance, or else told wrong with another."""
        rng, parts, gold = self.rng, [], 0
        for right, mistaken in zip(self.right, self.wrong):
            if rng.random() < told:
                parts.append(right[rng.integers(WORDINGS)])
                gold += 1
            elif rng.random() < wrong:
                parts.append(mistaken[rng.integers(WORDINGS)])
                gold -= 1
        parts += [self.padding[i] for i in rng.integers(len(self.padding), size=rng.poisson(padded))]
        return " ".join(parts[i] for i in rng.permutation(len(parts))) or "So.", gold


def labeled_pairs(rng: np.random.Generator, count: int) -> dict[str, list[Any]]:
    """`count` preferences by gold with five references each; equal gold is drawn again."""
    padding = [sentence(rng) for _ in range(40)]
    columns: dict[str, list[Any]] = {name: [] for name in ("prompt", "chosen", "rejected", "references")}
    while len(columns["prompt"]) < count:
        question = Question(rng, padding)
        (a, gold_a), (b, gold_b) = (
            question.answer(rng.uniform(0.3, 0.9), rng.uniform(0.2, 0.8), rng.uniform(0, 4)) for _ in range(2)
        )
        if gold_a == gold_b:
            continue
        columns["prompt"].append(f"question {len(columns['prompt'])}")
        columns["chosen"].append(a if gold_a > gold_b else b)
        columns["rejected"].append(b if gold_a > gold_b else a)
        columns["references"].append([question.answer(0.8, 0.3, 1.0)[0] for _ in range(WRITERS)])
    return columns


def longer(completion: str) -> float:
    """The longer answer is taken for the better one."""
    return float(len(completion.split()))


def exact(completion: str, references: list[str]) -> float:
    """1 for an answer that is one of the references."""
    return float(completion in references)


def reference_texts(rng: np.random.Generator, prompts: int) -> np.ndarray:
    """(prompts, 4, PLACES) tokens: four copies of a hidden text, each with some tokens replaced."""
    hidden = rng.integers(VOCABULARY, size=(prompts, 1, PLACES))
    noise = rng.integers(VOCABULARY, size=(prompts, 4, PLACES))
    return np.where(rng.random(noise.shape) < NOISE, noise, hidden)


def learn(reward: Reward, references: list[list[str]], held_out: np.ndarray, updates: int, seed: int) -> list[float]:
    """GRPO from a uniform policy: the share of sampled tokens that agree with `held_out`, at each update."""
    generator = torch.Generator().manual_seed(seed)
    by_place = torch.zeros(len(references), PLACES, VOCABULARY, requires_grad=True)
    by_previous = torch.zeros(len(references), VOCABULARY + 1, VOCABULARY, requires_grad=True)  # the last: at the start
    optimizer = torch.optim.Adam(
        [{"params": [by_place], "lr": PLACE_RATE}, {"params": [by_previous], "lr": LEARNING_RATE}]
    )
    groups = torch.arange(len(references)).repeat_interleave(GROUP)
    prompts = [f"prompt {i}" for i in groups.tolist()]
    given = [references[i] for i in groups.tolist()]
    wanted = torch.tensor(held_out)[groups]
    history = []
    for update in range(updates):
        token, tokens, chosen, entropy = torch.full_like(groups, VOCABULARY), [], [], torch.zeros(())
        for place in range(PLACES):
            logps = torch.log_softmax(by_place[groups, place] + by_previous[groups, token], dim=1)
            token = torch.multinomial(logps.detach().exp(), 1, generator=generator).squeeze(1)
            entropy = entropy - (logps.exp() * logps).sum(1).mean() / PLACES
            tokens.append(token)
            chosen.append(logps.gather(1, token[:, None]).squeeze(1))
        written = torch.stack(tokens, dim=1)
        history.append(float((written == wanted).float().mean()))
        texts = [as_words(row) for row in written.tolist()]
        rewards = torch.tensor(reward(prompts, texts, references=given))
        advantages = group_advantages(rewards, groups)
        bonus = ENTROPY * max(0.0, 1 - update / (0.8 * updates))
        loss = -(advantages[:, None] * torch.stack(chosen, dim=1)).mean() - bonus * entropy
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return history


def as_words(tokens: Sequence[int]) -> str:
    """Tokens as a text."""
    return " ".join(f"w{token}" for token in tokens)


def shuffled(rng: np.random.Generator, references: list[Any]) -> list[Any]:
    """Each prompt gets the references of another."""
    order = rng.permutation(len(references))
    return [references[order[i - 1]] for i in np.argsort(order)]


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    pairs, updates = (1000, 300) if scale == "small" else (10_000, 600)
    rng = np.random.default_rng(seed)
    records = labeled_pairs(rng, pairs)
    texts = reference_texts(rng, PROMPTS)
    seen = [[as_words(row) for row in copies[:3]] for copies in texts]
    if ablate:
        records["references"], seen = shuffled(rng, records["references"]), shuffled(rng, seen)

    rows: list[dict[str, Any]] = []
    agreement: dict[str, float] = {}
    metrics: list[tuple[str, Reward, int]] = [(f"BLEU, {m} of {WRITERS} references", BLEU(), m) for m in (1, 3, 5)]
    metrics.append(("ROUGE-L", RougeL(), WRITERS))
    for name, metric, most in [*metrics, ("longer answer", from_function(longer), WRITERS)]:
        given = {**records, "references": [row[:most] for row in records["references"]]}
        found = evaluate_pairs(metric, given, resamples=200, worst=0).accuracy
        agreement[name] = found.value
        rows.append({"metric": name, "agreement": found.value, "low": found.low, "high": found.high, "pairs": pairs})

    curves = {
        name: learn(reward, seen, texts[:, 3], updates, seed)
        for name, reward in (("BLEU", BLEU()), ("exact answer", from_function(exact)))
    }
    rows += [
        {"reward of GRPO": name, "tokens as in an unseen reference, at first": curve[0], "at last": curve[-1]}
        for name, curve in curves.items()
    ]
    five, one = (agreement[f"BLEU, {m} of {WRITERS} references"] for m in (5, 1))
    checks = {
        f"BLEU agrees on at least {AGREES}": five >= AGREES,
        f"{LONGER} more than the longer answer": five >= agreement["longer answer"] + LONGER,
        f"{MORE} more with five references than with one": five >= one + MORE,
        f"GRPO on BLEU ends above {LEARNS}": curves["BLEU"][-1] > LEARNS,
        f"GRPO on the exact answer ends below {FLAT}": curves["exact answer"][-1] < FLAT,
    }
    return Outcome(rows, checks, lambda: _figure(rows, curves))


def _figure(rows: list[dict[str, Any]], curves: dict[str, list[float]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    shown = [row for row in rows if "metric" in row]
    left.barh([row["metric"] for row in shown][::-1], [row["agreement"] for row in shown][::-1], color="#4477AA")
    left.axvline(0.5, color="black", linestyle="--", linewidth=1)
    left.set(xlabel="agreement with gold", xlim=(0.4, 1))
    for (name, curve), color in zip(curves.items(), ("#4477AA", "#BBBBBB")):
        right.plot(curve, color=color, label=name)
    right.set(xlabel="update", ylabel="tokens as in an unseen reference", ylim=(0, 1))
    right.legend(title="reward", fontsize="small")
    return figure
