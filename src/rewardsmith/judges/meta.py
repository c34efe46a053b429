"""The meta reward: which of a judge's critiques to trust, learned from which of them were right (Liu et al. 2025).

A scalar classifier of (request, responses, critique), trained by binary cross-entropy on whether the critique's scores
put the best response first. It is an ordinary `RewardModel`: it saves, loads and scores as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rewardsmith.data.records import Text, text_key
from rewardsmith.judges.asking import Judgments
from rewardsmith.judges.listwise import critique_records
from rewardsmith.judges.training import is_correct
from rewardsmith.models import Backbone, HashedBackbone, RewardModel


@dataclass
class MetaResult:
    """What `train_meta` returns.

    Attributes:
        model: the meta reward: the logit that a critique is right.
        losses: mean binary cross-entropy of each epoch, nats.
        critiques: trained on.
        right: share of them that was right.
        skipped: critiques that the backbone could not read.
    """

    model: RewardModel
    losses: list[float]
    critiques: int
    right: float
    skipped: int


def labeled_critiques(
    prompts: Sequence[Text],
    candidates: Sequence[Sequence[Text]],
    ratings: Sequence[Sequence[float]],
    judged: Judgments,
) -> dict[str, list[Any]]:
    """Records (`prompt`, `completion`, `label`) of single samples of a judge, labelled by the ground truth.

    Args:
        prompts: R prompts.
        candidates: R lists of responses.
        ratings: R lists of ground truths, one per response.
        judged: the samples, of `ListwiseJudge.judge_sets`.
    """
    records = critique_records(prompts, candidates, judged)
    records["label"] = [
        is_correct(judged.scores[row][vote], ratings[row]) for row, vote in zip(records["row"], records["vote"])
    ]
    return records


def train_meta(
    records: dict[str, list[Any]],
    backbone: Backbone | None = None,
    *,
    epochs: int = 3,
    learning_rate: float | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> MetaResult:
    """Train a meta reward on labelled critiques by binary cross-entropy.

    Args:
        records: columns `prompt`, `completion` and `label`, as from `labeled_critiques`.
        backbone: reads the critiques; trained too where it is trainable. Default: hashed n-grams.
        epochs: passes over the records.
        learning_rate: of Adam, falling linearly to 0. Default: 0.005 for hashed n-grams, 1e-5 for others, as published.
        batch_size: critiques per step.
        seed: of the order, and of a new head.

    Raises:
        ValueError: where there is no critique that can be read, or all of them are right, or none.
    """
    torch.manual_seed(seed)
    backbone = HashedBackbone() if backbone is None else backbone
    encoded = backbone.encode(records["prompt"], records["completion"])
    rows = [row for row, item in enumerate(encoded.items) if item is not None]
    labels = torch.tensor([float(label) for label in records["label"]])
    right = float(labels[rows].mean()) if rows else float("nan")
    if not rows or right in (0.0, 1.0):
        raise ValueError(f"a meta reward needs critiques that are right and others that are wrong: {len(rows)} can be "
                         f"read, of which {right:.0%} are right")  # fmt: skip
    if isinstance(backbone, HashedBackbone):
        backbone.fit([encoded.items[row] for row in rows])
    model = RewardModel(backbone, name="meta_reward")
    model.network.train()
    weights = [parameter for parameter in model.network.parameters() if parameter.requires_grad]
    rate = (0.005 if isinstance(backbone, HashedBackbone) else 1e-5) if learning_rate is None else learning_rate
    optimizer = torch.optim.Adam(weights, lr=rate)
    steps = epochs * -(-len(rows) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(1 - step / steps, 0.0))
    rng = np.random.default_rng(seed)
    groups = [text_key(prompt) for prompt in records["prompt"]]
    losses = []
    for _ in range(epochs):
        order = rng.permutation(rows).tolist()
        total = 0.0
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            hidden = model.backbone([encoded.items[row] for row in part], [groups[row] for row in part])
            logits = model.head.reward(hidden)
            loss = F.binary_cross_entropy_with_logits(logits, labels[part].to(logits))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(part)
        losses.append(total / len(order))
    model.network.eval()
    return MetaResult(model, losses, len(rows), right, len(records["label"]) - len(rows))
