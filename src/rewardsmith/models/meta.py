"""MetaRM: a reward model that keeps telling apart what the policy writes now (Dou et al. 2024, arXiv 2405.00438; the
meta-learning part of paper 05, Wang et al. 2024, section 4).

As the policy moves, its completions leave the reward model's data, and their rewards draw together. MetaRM takes the
gradient of the preference loss not at theta but at theta' = theta + eta * grad J, where J is how far apart the
rewards of unlabeled completions of the current policy are. Pairs whose gradient goes that way count for more. The
preferences stay the old ones; no new labels are needed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from rewardsmith.data.records import RecordError, as_columns, text_key


def separation(rewards: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """J: how far apart the rewards of a prompt's completions are, the mean over prompts of
    (2 / k^2) * sum over i < j of sigmoid(|r_i - r_j|).

    Args:
        rewards: (B, K), in float.
        mask: (B, K) bool, which are there; k is their number for each prompt. None: all.

    Returns:
        a scalar. It is (k - 1) / (2 k) where all rewards are equal, and twice that at most; rewards of 0, 1 and 3 give
        0.569873.
    """
    mask = torch.ones_like(rewards, dtype=torch.bool) if mask is None else mask
    apart = torch.sigmoid((rewards[:, :, None] - rewards[:, None, :]).abs())
    pairs = (mask[:, :, None] & mask[:, None, :]).triu(1)
    return (2 * (apart * pairs).sum((1, 2)) / mask.sum(1).square()).mean()


class MetaStep(TrainerCallback):
    """Makes every step of `train` a MetaRM step: `train(..., callbacks=[MetaStep(samples)])`.

    Before a step the weights go to theta + eta * grad J, so that the loss's gradient is taken there; before the
    optimizer moves them they are put back, to the bit. J is computed without dropout and uses no random numbers of the
    training, so with `eta=0` the run is the same as without this callback.

    One more copy of the trained weights and of their gradient is in memory. FSDP and DeepSpeed, where no process has
    the weights, are refused.

    Args:
        samples: rows with `prompt` and `candidates`, at least two completions that the current policy wrote for it.
        eta: step along the gradient of J; the paper takes the learning rate's size.
        batch_size: prompts per step.
        seed: of the draw of prompts; a resumed run goes on with the prompts that it would have drawn.

    Attributes:
        skipped: prompts left out, because fewer than two of their completions can be read.
        history: J at theta and at theta', of each step.
    """

    def __init__(self, samples: Any, *, eta: float = 5e-6, batch_size: int = 8, seed: int = 0) -> None:
        if not (math.isfinite(eta) and eta >= 0):
            raise ValueError(f"eta must be >= 0, got {eta}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        columns = as_columns(samples)
        if "candidates" not in columns:
            raise ValueError(f"samples: no column 'candidates'; there are {sorted(columns)}")
        self.candidates = [list(_candidates(group, row)) for row, group in enumerate(columns["candidates"])]
        if not self.candidates:
            raise ValueError("samples: no rows")
        self.prompts = columns.get("prompt") or [""] * len(self.candidates)
        self.eta, self.batch_size, self.seed = eta, batch_size, seed
        self.skipped = 0
        self.history: list[tuple[float, float]] = []
        self._items: list[list[Any]] = []
        self._groups: list[str] = []
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Encode the samples, once."""
        if args.fsdp or args.deepspeed:
            raise ValueError("MetaStep shifts whole weights: train without FSDP and DeepSpeed")
        head = model.network.head
        if not head.scalar or head.columns or head.reads_prompt or head.reads_history:
            raise TypeError(f"MetaStep needs rewards of completions alone; {type(head).__name__} does not give them")
        sizes = [len(group) for group in self.candidates]
        prompts = [prompt for prompt, size in zip(self.prompts, sizes) for _ in range(size)]
        encoded = model.network.backbone.encode(prompts, [text for group in self.candidates for text in group])
        ends = np.cumsum(sizes)
        whole = [
            (text_key(prompt), [item for item in encoded.items[end - size : end] if item is not None])
            for prompt, size, end in zip(self.prompts, sizes, ends)
        ]
        kept = [(key, items) for key, items in whole if len(items) >= 2]
        self.skipped = len(whole) - len(kept)
        if not kept:
            raise ValueError("samples: no prompt has two completions that can be read")
        if self.skipped:
            warnings.warn(f"samples: {self.skipped} of {len(whole)} prompts left out: unreadable", stacklevel=2)
        self._groups, self._items = [key for key, _ in kept], [items for _, items in kept]

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Go to theta + eta * grad J."""
        if not self.eta:
            return
        generator = np.random.default_rng([self.seed, state.global_step])
        rows = generator.choice(len(self._items), min(self.batch_size, len(self._items)), replace=False)
        weights = [p for p in model.network.parameters() if p.requires_grad]
        was_training = model.training
        model.eval()
        before = self._separation(model.network, rows)
        gradients = torch.autograd.grad(before, weights, allow_unused=True)
        with torch.no_grad():
            self._before = [(p, p.detach().clone()) for p, g in zip(weights, gradients) if g is not None]
            for p, g in zip(weights, gradients):
                if g is not None:
                    p.add_(g, alpha=self.eta)
            after = self._separation(model.network, rows)
        self.history.append((before.item(), after.item()))
        model.train(was_training)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go back to theta; the gradient stays the one taken at theta'."""
        with torch.no_grad():
            for parameter, value in self._before:
                parameter.copy_(value)
        self._before = []

    def _separation(self, network: Any, rows: np.ndarray) -> torch.Tensor:
        items = [self._items[row] for row in rows]
        groups = [self._groups[row] for row, group in zip(rows, items) for _ in group]
        rewards = network.head.reward(network.backbone([item for group in items for item in group], groups)).float()
        sizes = torch.tensor([len(group) for group in items], device=rewards.device)
        mask = torch.arange(int(sizes.max()), device=rewards.device) < sizes[:, None]
        return separation(torch.zeros_like(mask, dtype=rewards.dtype).masked_scatter(mask, rewards), mask)


def _candidates(group: Any, row: int) -> Sequence[Any]:
    if not isinstance(group, list | tuple) or len(group) < 2:
        raise RecordError("must be a list of at least two completions", row=row, column="candidates")
    return group
