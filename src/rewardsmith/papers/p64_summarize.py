"""Paper 64, Stiennon et al. 2020: a reward learned from comparisons, optimized by PPO under a KL penalty.

The whole pipeline in small: a transformer is fine-tuned on demonstrations; comparisons of its samples train a reward
model that starts from it; PPO optimizes that reward, with the value network starting from the reward model. The world
is notes of up to twelve words. Five words carry the news: each is worth a point the first time, none the second, and
costs half a point from the third time on; filler costs. Labels are noisy comparisons of two samples. Samples seldom say
a word three times, so the reward model knows little about it: that is where over-optimization comes from.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)

from rewardsmith.alignment.ppo import ValueNetwork, ppo, sample
from rewardsmith.evaluation import best_of_n
from rewardsmith.models import RewardModel, TransformerBackbone, train
from rewardsmith.papers.claim import Outcome
from rewardsmith.reward import Reward, Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETA = 0.05
GAIN, RISE, FALL, KL_RATIO = 1.0, 0.5, 0.25, 2.0  # the first three in standard deviations of SFT's gold
CLAIM = (
    f"PPO with beta = {BETA} on a reward learned from comparisons raises gold by at least {GAIN:g} standard deviation "
    f"of SFT's, past best-of-4's; without the penalty KL is at least {KL_RATIO:g} times as large, and gold rises, "
    f"peaks, and ends at least {FALL:g} standard deviations below SFT's while the learned reward ends above it."
)

NEWS = ("who", "what", "where", "when", "why")
PLAIN = ("the", "a", "of", "and", "to", "in", "is", "it", "on", "for", "with", "as", "at", "by", "be")
FILLER = ("um", "err", "like", "whatever")
PROMPT = "tldr"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
LENGTH = 12
CERTAINTY = 2.0  # a comparison is right with probability sigmoid(2 |difference of gold|)


class Gold(Reward):
    """The gold reward of a note, known because the world is made here."""

    __name__ = "gold"

    def score(self, batch: Any) -> Scores:
        notes = [text.split() for text in batch["completion"]]
        news = np.array([[note.count(word) for word in NEWS] for note in notes]).reshape(-1, len(NEWS))
        filler = np.array([sum(note.count(word) for word in FILLER) for note in notes])
        return Scores(np.minimum(news, 1).sum(1) - 0.5 * np.maximum(news - 2, 0).sum(1) - 0.7 * filler)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of the world."""
    words = {word: i for i, word in enumerate([*SPECIAL, PROMPT, *NEWS, *PLAIN, *FILLER])}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = Whitespace()
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def config(words: PreTrainedTokenizerFast, scale: str, **options: Any) -> GPT2Config:
    """One layer of 32; two of 64 in the long version."""
    width, layers = (32, 1) if scale == "small" else (64, 2)
    ids: dict[str, Any] = {
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": words.bos_token_id,
    }
    no_dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2Config(
        vocab_size=len(words), n_embd=width, n_layer=layers, n_head=2, n_positions=32, **ids, **no_dropout, **options
    )


def supervised(words: PreTrainedTokenizerFast, rng: np.random.Generator, scale: str, seed: int) -> GPT2LMHeadModel:
    """The policy after fine-tuning on demonstrations: notes of 4 to 11 words, drawn with the same weights."""
    vocabulary = [*NEWS, *PLAIN, *FILLER]
    notes = [" ".join(rng.choice(vocabulary, rng.integers(4, LENGTH))) for _ in range(3000)]
    rows = []
    for note in notes:
        ids = words(f"{PROMPT} {note}")["input_ids"] + [words.eos_token_id]
        rows.append({"input_ids": ids, "labels": [-100] + ids[1:]})
    torch.manual_seed(seed)
    policy = GPT2LMHeadModel(config(words, scale))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            policy,
            TrainingArguments(
                folder, num_train_epochs=4, per_device_train_batch_size=128, learning_rate=5e-3, seed=seed,
                use_cpu=True, save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            ),
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(words),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
    return policy.eval()


def comparisons(notes: Sequence[str], rng: np.random.Generator, ablate: bool) -> dict[str, list[str]]:
    """Preference records of one half of the notes against the other; ablated, every choice is a coin's."""
    half = len(notes) // 2
    a, b = list(notes[:half]), list(notes[half : 2 * half])
    difference = Gold().preference([PROMPT] * half, a, b)
    first = rng.random(half) < (0.5 if ablate else 1 / (1 + np.exp(-CERTAINTY * difference)))
    return {
        "prompt": [PROMPT] * half,
        "chosen": [x if wins else y for x, y, wins in zip(a, b, first)],
        "rejected": [y if wins else x for x, y, wins in zip(a, b, first)],
    }


def reward_model(
    policy: GPT2LMHeadModel, words: PreTrainedTokenizerFast, records: dict[str, list[str]], scale: str, seed: int
) -> RewardModel:
    """A reward model that starts from the policy and is trained on comparisons."""
    network = GPT2ForSequenceClassification(config(words, scale, num_labels=1))
    network.transformer.load_state_dict(policy.transformer.state_dict())
    torch.nn.init.normal_(network.score.weight, std=(network.config.n_embd + 1) ** -0.5)
    backbone = TransformerBackbone(network, words, max_length=32, layout="separate", name="notes")
    return train(records, backbone, epochs=3, learning_rate=3e-3, batch_size=64, seed=seed).model


class Watched:
    """A reward for PPO that also keeps the mean gold of what it is asked to score; PPO never sees it."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.gold: list[float] = []

    def __call__(self, prompts: list[str], completions: list[str]) -> list[float | None]:
        self.gold.append(float(Gold().score({"prompt": prompts, "completion": completions}).values.mean()))
        return self.reward(prompts, completions)


def optimize(
    policy: GPT2LMHeadModel,
    words: PreTrainedTokenizerFast,
    learned: RewardModel,
    reward: Reward,
    beta: float,
    steps: int,
    seed: int,
) -> list[dict[str, float]]:
    """PPO on a copy of the policy: its history, with the gold of each step's samples beside."""
    watched = Watched(reward)
    network: Any = learned.backbone.model
    linear = torch.nn.Linear(network.config.n_embd, 1)
    linear.load_state_dict({"weight": network.score.weight, "bias": torch.zeros(1)})
    history = ppo(
        copy.deepcopy(policy), words, watched, [PROMPT],
        steps=steps, beta=beta, value=ValueNetwork(copy.deepcopy(network.transformer), linear),
        batch_size=128, epochs=4, learning_rate=2e-3, max_new_tokens=LENGTH, seed=seed,
    )  # fmt: skip
    return [{**row, "gold": gold} for row, gold in zip(history, watched.gold)]


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    steps, pairs = (40, 2000) if scale == "small" else (150, 8000)
    rng = np.random.default_rng(seed)
    words = tokenizer()
    policy = supervised(words, rng, scale, seed)

    def draw(count: int) -> list[str]:
        """Samples of the fine-tuned policy; the empty one, which no model can read, is rare and left out."""
        return [note for note in sample(policy, words, [PROMPT] * count, LENGTH).texts if note]

    torch.manual_seed(seed)
    records = comparisons(draw(2 * pairs), rng, ablate)
    learned = reward_model(policy, words, records, scale, seed)
    held_out = draw(2000)
    batch = {"prompt": [PROMPT] * len(held_out), "completion": held_out}
    gold = Gold().score(batch).values
    # Shifted to mean 0 on samples of SFT (in the paper, on reference summaries): PPO starts from 0.
    reward = learned - float(learned.score(batch).values.mean())
    half = len(held_out) // 2
    difference = gold[:half] - gold[half : 2 * half]
    logits = reward.preference([PROMPT] * half, held_out[:half], held_out[half : 2 * half])
    accuracy = float(np.mean((logits * difference > 0)[difference != 0]))

    sets = [held_out[i : i + 64] for i in range(0, len(held_out) - 63, 64)]
    data = {"prompt": [PROMPT] * len(sets), "candidates": sets}
    selected = best_of_n(reward, data, gold=Gold(), ns=(1, 4, 16, 64), seed=seed)
    curve = {int(row["n"]): row for row in selected.curve}
    runs = {beta: optimize(policy, words, learned, reward, beta, steps, seed) for beta in (BETA, 0.0)}

    mean, sd = float(gold.mean()), float(gold.std())
    ends = {
        beta: {name: float(np.mean([row[name] for row in history[-5:]])) for name in ("gold", "reward", "kl")}
        for beta, history in runs.items()
    }
    best = max(range(1, steps - 1), key=lambda at: _smooth(runs[0.0], at, "gold"))
    peak = {name: _smooth(runs[0.0], best, name) for name in ("gold", "reward", "kl")}
    found: list[tuple[str, float, float, float]] = [
        ("SFT", mean, 0.0, 0.0),
        *((f"best of {n}", curve[n]["gold"], curve[n]["proxy"], curve[n]["kl"]) for n in (4, 64)),
        (f"PPO, beta {BETA:g}", ends[BETA]["gold"], ends[BETA]["reward"], ends[BETA]["kl"]),
        ("PPO, beta 0, gold's peak", peak["gold"], peak["reward"], peak["kl"]),
        ("PPO, beta 0, end", ends[0.0]["gold"], ends[0.0]["reward"], ends[0.0]["kl"]),
    ]
    rows = [
        {
            "policy": name,
            "gold": value,
            "gold, SFT sd above SFT": (value - mean) / sd,
            "learned reward": proxy,
            "KL": kl,
        }
        for name, value, proxy, kl in found
    ]
    rows.append({"policy": "reward model, held-out accuracy", "gold": accuracy})
    checks = {
        f"with the penalty: gold at least {GAIN} sd above SFT": ends[BETA]["gold"] >= mean + GAIN * sd,
        "with the penalty: gold above best of 4": ends[BETA]["gold"] > curve[4]["gold"],
        f"without it: KL at least {KL_RATIO} times as large": ends[0.0]["kl"] >= KL_RATIO * ends[BETA]["kl"],
        f"without it: gold rises {RISE} sd above SFT first": peak["gold"] >= mean + RISE * sd,
        f"without it: gold ends {FALL} sd below SFT": ends[0.0]["gold"] <= mean - FALL * sd,
        "without it: the learned reward ends above SFT's": ends[0.0]["reward"] > 0,
    }
    return Outcome(rows, checks, lambda: _figure(runs, curve, mean))


def _smooth(history: list[dict[str, float]], at: int, name: str) -> float:
    """Mean over a step and its neighbors."""
    return float(np.mean([row[name] for row in history[at - 1 : at + 2]]))


def _figure(runs: dict[float, list[dict[str, float]]], curve: dict[int, dict[str, float]], start: float) -> Figure:
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, layout="constrained")
    for axes, name, label in zip(panels, ("gold", "reward"), ("gold reward", "learned reward")):
        for (beta, history), color in zip(runs.items(), ("#4477AA", "#CC6677")):
            axes.plot(
                [row["kl"] for row in history],
                [row[name] for row in history],
                ".-",
                color=color,
                label=f"PPO, beta {beta:g}",
            )
        points = [curve[n] for n in sorted(curve)]
        key = "gold" if name == "gold" else "proxy"
        axes.plot([row["kl"] for row in points], [row[key] for row in points], "k^", label="best of n")
        axes.axhline(start if name == "gold" else 0.0, color="gray", linewidth=1, linestyle="--")
        axes.set(xlabel="KL from SFT, nats", ylabel=label)
    panels[0].set_title("What we want")
    panels[1].set_title("What is optimized")
    panels[1].legend()
    return figure
