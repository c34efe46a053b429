"""Paper 16, Chen et al. 2025 ("RM-R1"): a judge that reasons before its verdict, distilled first, then trained by RL.

The world: two lists of digits, and a request for the one with the larger maximum or for the longer one. A small
transformer judges them as a large one would: it says what kind of request it is, writes the value of each list, and
ends with a verdict. First it learns from 500 traces of two scripted teachers, one of which is wrong in a quarter of its
traces and the other corrects those; under a third are about length. Then GRPO samples its judgments of fresh pairs of
both kinds, with +1 for a right verdict and -1 for any other answer as the only reward. Ablated, a coin decides the
reward.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    DataCollatorForSeq2Seq,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)

from rewardsmith.alignment.advantages import group_advantages
from rewardsmith.alignment.policy_gradient import clipped_policy_loss
from rewardsmith.alignment.ppo import response_logps, sample
from rewardsmith.chat.scripted import ScriptedModel
from rewardsmith.judges import JudgeCorrectness, distilled, judging_tasks
from rewardsmith.judges.prompting import read_prompt
from rewardsmith.papers.claim import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAIN = 0.1
CLAIM = (
    f"GRPO with +1 for a right verdict and -1 for any other answer as its only reward raises the held-out accuracy of "
    f"a distilled judge by at least {GAIN:.0%}."
)

PROMPT = read_prompt(
    """
kind: pairwise
answer: verdict_tag
labels: A B

[user]
{prompt} A {a} B {b} judge
""",
    "lists",
)
KINDS: dict[str, Callable[[list[int]], int]] = {"max": max, "len": len}
VERDICTS = ("<answer>[[A]]</answer>", "<answer>[[B]]</answer>")
SPECIAL = ("<pad>", "<eos>", "<unk>")
LONGEST, TRACE = 4, 5  # items of a list; tokens of a trace
TRACES, RARE = 500, 140  # traces of the first stage, and how many of them are about length
PROMPTS, GROUP, STEPS, BETA = 40, 8, 200, 1e-3
EPOCHS, RATE = 16, 7e-4


def pairs(rng: np.random.Generator, kinds: Sequence[str]) -> dict[str, list[str]]:
    """Preference records, one of each kind named: the better list has the larger value.

    In half of them the list with the larger maximum is the longer one, in the other half the shorter: who takes one
    kind of request for the other is right as often as not.
    """
    records: dict[str, list[str]] = {"prompt": [], "chosen": [], "rejected": []}
    for kind in kinds:
        sign = 1 if rng.random() < 0.5 else -1
        while True:
            x, y = (rng.integers(0, 10, rng.integers(1, LONGEST + 1)).tolist() for _ in range(2))
            if sign * (max(x) - max(y)) * (len(x) - len(y)) > 0:
                break
        better, worse = sorted((x, y), key=KINDS[kind], reverse=True)
        records["prompt"].append(kind)
        records["chosen"].append(" ".join(map(str, better)))
        records["rejected"].append(" ".join(map(str, worse)))
    return records


def tasks(records: dict[str, list[str]], seed: int) -> dict[str, list[Any]]:
    """What the judge is asked, as plain text, and who is right."""
    asked = judging_tasks(records, PROMPT, seed=seed)
    return {**asked, "prompt": [messages[-1]["content"] for messages in asked["prompt"]]}


def trace(task: str, right: bool = True) -> str:
    """The reasoning of a teacher: kind, both values, verdict."""
    kind, *rest = task.split()
    at = rest.index("B")
    values = [KINDS[kind](list(map(int, part))) for part in (rest[1:at], rest[at + 1 : rest.index("judge")])]
    return f"<type>{kind}</type> {values[0]} {values[1]} {VERDICTS[(values[0] > values[1]) != right]}"


def teachers(seed: int) -> tuple[ScriptedModel, ScriptedModel]:
    """One that is right on three of four tasks, and one that sees the wrong trace and the truth, and corrects it."""
    coin = np.random.default_rng([seed, 1])
    first = ScriptedModel(lambda messages, i: trace(messages[-1]["content"], bool(coin.random() < 0.75)), name="first")
    second = ScriptedModel(lambda messages, i: trace(messages[-1]["content"].split("\n")[0]), name="second")
    return first, second


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word of the world."""
    types = [f"<type>{kind}</type>" for kind in KINDS]
    words = [*SPECIAL, *map(str, range(10)), *KINDS, "A", "B", "judge", *types, *VERDICTS]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def distill(words: PreTrainedTokenizerFast, lessons: dict[str, list[Any]], seed: int, epochs: int) -> GPT2LMHeadModel:
    """The first stage: a new transformer, trained on the traces alone."""
    rows = []
    for task, answer in zip(lessons["prompt"], lessons["completion"]):
        asked = words(task if isinstance(task, str) else task[-1]["content"])["input_ids"]
        said = words(answer[-1]["content"])["input_ids"] + [words.eos_token_id]
        rows.append({"input_ids": asked + said, "labels": [-100] * len(asked) + said})
    torch.manual_seed(seed)
    ids: dict[str, Any] = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("pad", "eos")}
    no_dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(
        vocab_size=len(words), n_embd=48, n_layer=2, n_head=4, n_positions=32, activation_function="relu",
        bos_token_id=words.eos_token_id, **ids, **no_dropout,
    )  # fmt: skip
    judge = GPT2LMHeadModel(config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            judge,
            TrainingArguments(
                folder, num_train_epochs=epochs, per_device_train_batch_size=50, learning_rate=3e-3, seed=seed,
                use_cpu=True, save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True,
            ),
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(words),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
    return judge.eval()


def reinforce(
    judge: GPT2LMHeadModel, words: PreTrainedTokenizerFast, seed: int, steps: int, ablate: bool
) -> tuple[GPT2LMHeadModel, list[float]]:
    """The second stage, GRPO on fresh pairs of both kinds; returns the judge and the share of right verdicts."""
    policy, reference = copy.deepcopy(judge), judge
    rng = np.random.default_rng([seed, 2])
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    rule = JudgeCorrectness(PROMPT)
    groups = torch.arange(PROMPTS).repeat_interleave(GROUP)
    right = []
    for step in range(steps):
        asked = tasks(pairs(rng, rng.choice(list(KINDS), PROMPTS).tolist()), seed=step)
        prompts = [task for task in asked["prompt"] for _ in range(GROUP)]
        ratings = [truth for truth in asked["ratings"] for _ in range(GROUP)]
        rollouts = sample(policy, words, prompts, TRACE)
        rewards = np.array(rule(prompts, rollouts.texts, ratings=ratings), dtype=np.float32)
        right.append(float((rewards > 0).mean()))
        if ablate:
            rewards = rng.choice([-1.0, 1.0], len(rewards)).astype(np.float32)
        advantages = group_advantages(torch.from_numpy(rewards), groups)
        # Groups with equal rewards teach nothing; leaving them out of the pass saves half of its time.
        tokens = rollouts.mask.sum()
        taught = torch.nonzero(advantages).flatten()
        if not len(taught):
            continue
        rollouts, advantages = rollouts.rows(taught), advantages[taught]
        logps = response_logps(policy, rollouts)
        with torch.no_grad():
            ref_logps = response_logps(reference, rollouts)
        gap = ref_logps - logps
        kl = gap.exp() - gap - 1  # an estimate of KL(policy || reference) that is never negative
        loss = clipped_policy_loss(logps, logps, advantages[:, None]) + BETA * kl
        optimizer.zero_grad()
        ((loss * rollouts.mask).sum() / tokens).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return policy, right


@torch.no_grad()
def accuracy(judge: GPT2LMHeadModel, words: PreTrainedTokenizerFast, asked: dict[str, list[Any]]) -> dict[str, float]:
    """Share of right verdicts of greedy judgments: of all tasks, of each kind, and the share that cannot be read."""
    encoded = words(asked["prompt"], padding=True, padding_side="left", return_tensors="pt")
    ids = judge.generate(  # type: ignore[misc]
        input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"], do_sample=False,
        max_new_tokens=TRACE, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    texts = words.batch_decode(ids[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
    scores = JudgeCorrectness(PROMPT).score({"completion": texts, "ratings": asked["ratings"]})
    kinds = np.array([task.split()[0] for task in asked["prompt"]])
    correct = scores.parts["correct"]
    said = [text.split() for text in texts]
    meant = [trace(task).split() for task in asked["prompt"]]
    return {
        "accuracy": float(correct.mean()),
        **{f"accuracy, {kind}": float(correct[kinds == kind].mean()) for kind in KINDS},
        "type right": float(np.mean([a[:1] == b[:1] for a, b in zip(said, meant)])),
        "values right": float(np.mean([a[1:3] == b[1:3] for a, b in zip(said, meant)])),
        "unparsed": float(1 - scores.parts["parsed"].mean()),
    }


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    longer = 1 if scale == "small" else 4
    rng = np.random.default_rng(seed)
    words = tokenizer()
    kinds = ["len"] * RARE + ["max"] * (TRACES - RARE)
    lessons = distilled(judging_tasks(pairs(rng, kinds), PROMPT, seed=seed), *teachers(seed), PROMPT)
    held_out = tasks(pairs(rng, list(KINDS) * 500), seed)
    first = distill(words, lessons.rows, seed, EPOCHS)
    judge, right = reinforce(first, words, seed, STEPS * longer, ablate)
    before, after = accuracy(first, words, held_out), accuracy(judge, words, held_out)
    rows = [
        {"judge": "distilled", **before},
        {"judge": "distilled, then GRPO" + (" with a coin's rewards" if ablate else ""), **after},
        {"judge": "first teacher", "accuracy": lessons.counts["right"] / lessons.counts["tasks"]},
    ]
    checks = {f"GRPO: accuracy {GAIN} above the distilled judge's": after["accuracy"] >= before["accuracy"] + GAIN}
    return Outcome(rows, checks, lambda: _figure(right, before["accuracy"]))


def _figure(right: list[float], start: float) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    width = 8
    smooth = np.convolve(right, np.ones(width) / width, mode="valid")
    axes.plot(np.arange(len(smooth)) + width / 2, smooth, color="#4477AA", label="sampled judgments of fresh pairs")
    axes.axhline(start, color="gray", linestyle="--", linewidth=1, label="distilled judge, held out")
    axes.set(
        xlabel="GRPO step", ylabel="right verdicts", ylim=(0.4, 1.02), title="A judge learns from its verdicts alone"
    )
    axes.legend(loc="lower right")
    return figure
