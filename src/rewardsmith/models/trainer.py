"""Training of preference models on `transformers.Trainer`, in one process or several (whole copies of the model: DDP).

What is ours: chosen and rejected, and pairs of one prompt, share the encoding of their prompt; every text is tokenized
once; steps are bucketed by length and forward passes bounded by tokens; checkpoints hold no pickle; a killed run
resumes to the same weights; the model folder appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from rewardsmith.data.records import RecordError, as_columns, text_key
from rewardsmith.models.backbones import Backbone
from rewardsmith.models.checkpoint import load_optimizer, load_random_state, save_optimizer, save_random_state
from rewardsmith.models.heads import Head, build_head
from rewardsmith.models.losses import accuracy
from rewardsmith.models.reward_model import CARD, Network, PairwiseModel, RewardModel, build_backbone, load_model

CHECKPOINTS = "checkpoints"
STATE = "trainer_state.json"
TABLE_WIDTH = {"scalar": 1, "gpm": 2}  # H of the hashed table, by head; 16 for a head of one's own
BUCKET = 32  # steps whose pairs are sorted by length together; a short window keeps the order random


@dataclass(frozen=True)
class Recipe:
    """Defaults of a kind of backbone: what trains it well without tuning."""

    learning_rate: float
    epochs: float
    batch_size: int
    optim: str = "adamw_torch"
    warmup: float = 0.0
    weight_decay: float = 0.0


RECIPES = {
    "hashed": Recipe(learning_rate=10.0, epochs=5, batch_size=32, optim="sgd"),
    "hashed vectors": Recipe(learning_rate=1e-3, epochs=5, batch_size=32),
    "frozen": Recipe(learning_rate=5e-3, epochs=20, batch_size=64, weight_decay=1.0),
    "lora": Recipe(learning_rate=2e-4, epochs=1, batch_size=16, warmup=0.03),
    "full": Recipe(learning_rate=1e-5, epochs=1, batch_size=16, warmup=0.03),
}


@dataclass
class TrainResult:
    """What `train` returns.

    Attributes:
        model: the trained `RewardModel`, or `PairwiseModel` for a head without a scalar reward.
        history: one dict per logged step: step, epoch, loss, accuracy (of training pairs), learning_rate, grad_norm;
            with `eval_data` also eval_loss and eval_accuracy after each epoch.
        seconds: of training, without loading the model.
        pairs_per_second: pairs trained on per second, every epoch counted.
        pairs: pairs trained on.
        skipped: pairs left out because a completion could not be encoded, by kind of failure.
        truncated: completions whose prompt was cut from the left to fit.
        peak_memory: bytes: of the GPU where there is one, else the resident set of this process.
        is_main_process: False in the further processes of a distributed run, which write nothing.
        options: what training was asked to do.
    """

    model: RewardModel | PairwiseModel
    history: list[dict[str, float]]
    seconds: float
    pairs_per_second: float
    pairs: int
    skipped: dict[str, int]
    truncated: int
    peak_memory: int
    is_main_process: bool
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model (JSON), and the model's fingerprint."""
        names = ("history", "seconds", "pairs_per_second", "pairs", "skipped", "truncated", "peak_memory", "options")
        return {**{name: getattr(self, name) for name in names}, "fingerprint": self.model.fingerprint()}


@dataclass
class Pairs(Dataset):
    """P encoded pairs.

    Attributes:
        chosen: P encodings, as `rejected`.
        lengths: (P,) tokens of both completions with their prompts.
        groups: P keys of prompts.
        columns: further columns, each of length P.
        prompts: group -> encoding of the prompt alone, where the head reads it.
        skipped: pairs left out, by kind of failure.
        truncated: completions whose prompt was cut.
    """

    chosen: list[Any]
    rejected: list[Any]
    lengths: np.ndarray
    groups: list[str]
    columns: dict[str, list[Any]]
    prompts: dict[str, Any]
    skipped: dict[str, int]
    truncated: int

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, row: int) -> int:
        return row

    def batch(self, rows: Sequence[int]) -> dict[str, Any]:
        """The rows as keyword arguments of `PairNetwork.forward`."""
        groups = [self.groups[i] for i in rows]
        return {
            "items": [side[i] for i in rows for side in (self.chosen, self.rejected)],
            "groups": groups,
            "prompts": [self.prompts[key] for key in dict.fromkeys(groups)] if self.prompts else None,
            "columns": {name: [column[i] for i in rows] for name, column in self.columns.items()},
            "lengths": [int(self.lengths[i]) for i in rows],
        }


def encode_pairs(
    records: Any, backbone: Backbone, head: Head, *, use_margin: bool = False, what: str = "records"
) -> Pairs:
    """Check and encode preference records: `prompt`, `chosen`, `rejected`, and the columns that head and loss read.

    Raises:
        RecordError: for a row without a usable prompt, chosen or rejected, margin or target_prob.
        ValueError: where there are no rows, a column is missing, or no pair can be encoded.
    """
    columns = as_columns(records)
    for name in ("chosen", "rejected", *(["margin"] if use_margin else []), *head.columns):
        if name not in columns:
            raise ValueError(f"{what}: no column {name!r}; there are {sorted(columns)}")
    chosen, rejected = columns["chosen"], columns["rejected"]
    prompts = columns.get("prompt") or [""] * len(chosen)
    if not chosen:
        raise ValueError(f"{what}: no rows")
    for name, column in (("prompt", prompts), ("chosen", chosen), ("rejected", rejected)):
        for row, text in enumerate(column):
            if not isinstance(text, str | list | tuple):
                raise RecordError(
                    f"must be text or a list of messages, not {type(text).__name__}", row=row, column=name
                )
    kept_columns = {name: columns[name] for name in head.columns}
    if use_margin:
        kept_columns["margin"] = _numbers(columns["margin"], "margin")
    if any(value is not None for value in columns.get("target_prob", [])):
        filled = [1.0 if value is None else value for value in columns["target_prob"]]
        kept_columns["target_prob"] = _numbers(filled, "target_prob", 0.0, 1.0)

    # Interleaved: texts of one prompt follow each other.
    encoded = backbone.encode([p for p in prompts for _ in "cr"], [t for pair in zip(chosen, rejected) for t in pair])
    failed = {row // 2: failure for row, failure in sorted(encoded.failures.items(), reverse=True)}
    groups = [text_key(prompt) for prompt in prompts]
    encodings: dict[str, Any] = {}
    if head.reads_prompt:
        first = {key: row for row, key in reversed(list(enumerate(groups)))}
        alone = backbone.encode([""] * len(first), [prompts[row] for row in first.values()])
        encodings = dict(zip(first, alone.items))
        for row, key in enumerate(groups):
            if encodings[key] is None:
                failed.setdefault(row, alone.failures[list(first).index(key)])
    rows = [row for row in range(len(chosen)) if row not in failed]
    skipped = dict(Counter(failure.kind for failure in failed.values()))
    if not rows:
        row = min(failed)
        raise ValueError(f"{what}: none of {len(chosen)} pairs can be used; row {row}: {failed[row].reason}")
    if failed:
        row = min(failed)
        warnings.warn(
            f"{what}: {len(failed)} of {len(chosen)} pairs left out ({skipped}); row {row}: {failed[row].reason}",
            stacklevel=3,
        )
    return Pairs(
        chosen=[encoded.items[2 * row] for row in rows],
        rejected=[encoded.items[2 * row + 1] for row in rows],
        lengths=np.array([encoded.lengths[2 * row] + encoded.lengths[2 * row + 1] for row in rows]),
        groups=[groups[row] for row in rows],
        columns={name: [column[row] for row in rows] for name, column in kept_columns.items()},
        prompts=encodings,
        skipped=skipped,
        truncated=len(encoded.truncated),
    )


def _numbers(column: Sequence[Any], name: str, low: float = -math.inf, high: float = math.inf) -> list[float]:
    for row, value in enumerate(column):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RecordError(f"must be a finite number, not {value!r}", row=row, column=name)
        if not low <= value <= high:
            raise RecordError(f"must lie in [{low:g}, {high:g}], got {value}", row=row, column=name)
    return [float(value) for value in column]


class StepSampler(Sampler[list[int]]):
    """Batches of pairs for one process: every epoch a new random order, in which a step's pairs have similar lengths.

    The pairs of one prompt stay together. Steps differ by at most one pair, and so do the parts that a step is split
    into for processes and accumulation: the steps are the same however many processes share them.
    """

    def __init__(
        self, pairs: Pairs, batch_size: int, *, accumulation: int = 1, world: int = 1, rank: int = 0, seed: int = 0
    ) -> None:
        self.pairs, self.parts, self.world, self.rank, self.seed = pairs, accumulation * world, world, rank, seed
        self.steps = math.ceil(len(pairs) / (batch_size * self.parts))
        if len(pairs) // self.steps < self.parts:
            raise ValueError(
                f"{len(pairs)} pairs are too few for {self.parts} parts a step (processes x accumulation steps)"
            )
        self.accumulation = accumulation
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def order(self) -> list[np.ndarray]:
        """Row numbers of each step of the current epoch."""
        generator = np.random.default_rng([self.seed, self.epoch])
        groups: dict[str, list[int]] = {}
        for row in generator.permutation(len(self.pairs)):
            groups.setdefault(self.pairs.groups[row], []).append(int(row))
        rows = np.array([row for members in groups.values() for row in members])
        window = math.ceil(len(rows) / math.ceil(self.steps / BUCKET))
        first = {key: self.pairs.lengths[members].max() for key, members in groups.items()}
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            keys = [self.pairs.groups[row] for row in part]
            rank_of = {key: at for at, key in enumerate(dict.fromkeys(keys))}
            part = part[np.lexsort(([rank_of[key] for key in keys], [first[key] for key in keys]))]
            rows[start : start + window] = part
        steps = np.array_split(rows, self.steps)
        return [steps[i] for i in generator.permutation(len(steps))]

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.order():
            parts = np.array_split(step, self.parts)
            for at in range(self.accumulation):
                yield parts[at * self.world + self.rank].tolist()


class _Loader(DataLoader):
    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class PairNetwork(nn.Module):
    """What the trainer trains: a network that answers a batch of pairs with the sum of their losses."""

    def __init__(self, network: Network, *, label_smoothing: float = 0.0, centering: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing, self.centering = label_smoothing, centering

    def forward(
        self,
        items: Sequence[Any],
        groups: Sequence[str],
        prompts: Sequence[Any] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses and logits, each (B,), of B pairs: `items` are chosen and rejected in turn, `groups` B prompts."""
        backbone, head = self.network.backbone, self.network.head
        device = self.network.device
        hidden = backbone(items, [key for key in groups for _ in "cr"])
        inputs: dict[str, Any] = dict(columns or {})
        for name in ("margin", "target_prob"):
            if name in inputs:
                inputs[name] = torch.tensor(inputs[name], device=device)
        if prompts is not None:
            keys = list(dict.fromkeys(groups))
            order = {key: at for at, key in enumerate(keys)}
            inputs["prompt_hidden"] = backbone(prompts, keys)[[order[key] for key in groups]]
        return head.loss(
            hidden[0::2], hidden[1::2], label_smoothing=self.label_smoothing, centering=self.centering, **inputs
        )


class PreferenceTrainer(Trainer):
    """`transformers.Trainer` for a `PairNetwork` and `Pairs`.

    The loss of a step is the mean over all its pairs, over processes and accumulation alike, so how a step is split
    does not matter.
    """

    model: Any
    optimizer: Any
    lr_scheduler: Any
    model_accepts_loss_kwargs: bool

    def __init__(self, model: PairNetwork, args: TrainingArguments, pairs: Pairs, **options: Any) -> None:
        super().__init__(model=model, args=args, train_dataset=pairs, data_collator=pairs.batch, **options)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(
                "sharded training (FSDP, DeepSpeed) is not supported: start processes without it, with lora"
            )
        self.model_accepts_loss_kwargs = True  # the loss is divided by the pairs of the whole step, not by its parts
        self.pairs = pairs
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self._hits: list[torch.Tensor] = []

    def get_train_dataloader(self) -> DataLoader:
        sampler = StepSampler(
            self.pairs,
            self.args.per_device_train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            world=self.args.world_size,
            rank=self.args.process_index,
            seed=self.args.seed,
        )
        return _Loader(self.pairs, batch_sampler=sampler, collate_fn=self.pairs.batch)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        count = torch.tensor(sum(len(batch["groups"]) for batch in batch_samples), device=device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return inputs  # encodings; the backbone moves them to its device

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One part of a step, in as many passes as its tokens need."""
        chunks = self._chunks(inputs)
        total = torch.zeros((), device=self.args.device)
        for at, chunk in enumerate(chunks):
            last = at == len(chunks) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                total += super().training_step(model, chunk, num_items_in_batch)
        return total

    def _chunks(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        network = self.accelerator.unwrap_model(self.model).network
        budget = network.budget
        if sum(inputs["lengths"]) <= budget or inputs["prompts"] is not None:
            return [inputs]
        bounds, used = [0], 0
        for at, length in enumerate(inputs["lengths"]):
            if used and used + length > budget:
                bounds.append(at)
                used = 0
            used += length
        bounds.append(len(inputs["lengths"]))
        return [
            {
                "items": inputs["items"][2 * a : 2 * b],
                "groups": inputs["groups"][a:b],
                "prompts": None,
                "columns": {name: column[a:b] for name, column in inputs["columns"].items()},
                "lengths": inputs["lengths"][a:b],
            }
            for a, b in itertools.pairwise(bounds)
        ]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        losses, logits = model(**inputs)
        self._hits.append(accuracy(logits.detach()) * len(logits))
        self._hits.append(torch.tensor(float(len(logits)), device=logits.device))
        count = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.float().sum() / count * self.args.world_size  # DDP averages over processes
        return (loss, {"logits": logits}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._hits and "loss" in logs:
            hits = torch.stack([value.double() for value in self._hits]).view(-1, 2).sum(0)
            if self.args.world_size > 1:
                hits = self.accelerator.reduce(hits)
            logs["accuracy"] = float(hits[0] / hits[1])
            self._hits.clear()
        super().log(logs, start_time)

    # Checkpoints: safetensors and JSON.

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.model, str(folder / "model.safetensors"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.model if model is None else model, os.path.join(resume_from_checkpoint, "model.safetensors"))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            save_optimizer(self.optimizer, Path(output_dir) / "optimizer")
            state = {k: v for k, v in self.lr_scheduler.state_dict().items() if k != "lr_lambdas"}
            (Path(output_dir) / "scheduler.json").write_text(json.dumps(state), encoding="utf-8")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_optimizer(self.optimizer, Path(checkpoint) / "optimizer")
            state = json.loads((Path(checkpoint) / "scheduler.json").read_text(encoding="utf-8"))
            self.lr_scheduler.load_state_dict({**self.lr_scheduler.state_dict(), **state})

    def _save_rng_state(self, output_dir: str) -> None:
        save_random_state(Path(output_dir) / f"random_{self.args.process_index}.json")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            load_random_state(Path(checkpoint) / f"random_{self.args.process_index}.json")


class _Progress(TrainerCallback):
    """A progress bar on stderr, where that is a terminal."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from tqdm.auto import tqdm

        if state.is_world_process_zero:
            show = None if sys.stderr is not None else True  # None: tqdm shows the bar on terminals only
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="Training", disable=show)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.bar is not None and logs and "loss" in logs:
            self.bar.set_postfix({k: f"{logs[k]:.3f}" for k in ("loss", "accuracy") if k in logs})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class _HeldOut(TrainerCallback):
    """Loss and accuracy on held-out pairs after each epoch, into the trainer's log history."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        loss, hit = evaluate(model, self.pairs)
        state.log_history.append(
            {"epoch": state.epoch, "step": state.global_step, "eval_loss": loss, "eval_accuracy": hit}
        )
        control.should_log = True  # so that the training loss of this step is there too


@torch.no_grad()
def evaluate(model: PairNetwork, pairs: Pairs) -> tuple[float, float]:
    """Mean loss and accuracy (ties half) of a `PairNetwork` on pairs."""
    was_training = model.training
    model.eval()
    results = [model(**pairs.batch(rows)) for rows in model.network.chunks(pairs.lengths.tolist(), pairs.groups)]
    model.train(was_training)
    losses, logits = (torch.cat(parts).double() for parts in zip(*results))
    return float(losses.mean()), float(accuracy(logits))


def train(
    records: Any,
    model: str | Path | Backbone,
    *,
    output_dir: str | Path | None = None,
    head: str | Head = "scalar",
    eval_data: Any = None,
    epochs: float | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    gradient_accumulation_steps: int = 1,
    gradient_checkpointing: bool = False,
    bf16: bool = False,
    lora: bool = False,
    max_length: int | None = None,
    max_tokens: int | None = None,
    use_margin: bool = False,
    label_smoothing: float = 0.0,
    centering: float = 0.0,
    save_steps: int | None = None,
    seed: int = 0,
    resume: bool = False,
    model_options: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train a reward model (or another preference model) on pairs.

    Works under `accelerate launch` as it is. A `target_prob` column in the records holds soft labels.

    Args:
        records: rows with `prompt`, `chosen`, `rejected` (and what head and loss read): a Dataset, columns, or rows.
        model: `hashed`, a sentence-embedding model (frozen; the head is trained), or any Hugging Face model, by path or
            hub id; or a ready `Backbone`.
        output_dir: where to write the model, whole or not at all. None: nowhere.
        head: `scalar` (Bradley-Terry), `gpm` (general preferences, paper 26) or a `Head`. With `hashed`, a `Head` of
            one's own reads 16 dimensions; for another number, pass `HashedBackbone(hidden_size)`.
        eval_data: held-out pairs; their loss and accuracy after each epoch go into the history.
        epochs: passes over the data; a fraction is allowed. Default: by kind of backbone, as the next two.
        learning_rate: peak; it falls linearly to 0.
        batch_size: pairs per process and accumulation step.
        gradient_accumulation_steps: parts of a step that are computed one after the other.
        gradient_checkpointing: less memory for activations, more time.
        bf16: mixed precision.
        lora: train low-rank adapters; they are merged into the saved model.
        max_length: longest prompt + completion in tokens; a longer prompt is cut from the left.
        max_tokens: bound on the tokens of one forward pass; a step of more is computed in several. Default: by device.
        use_margin: subtract the `margin` column from the logits in the loss.
        label_smoothing: see `losses.preference_loss`.
        centering: see `losses.bradley_terry`.
        save_steps: write a checkpoint into `output_dir` every so many steps.
        seed: of weights, order and dropout.
        resume: go on from the last checkpoint in `output_dir`, to the same weights as without the interruption.
        model_options: further options of the backbone: `dtype`, `revision`, `attn_implementation`, `layout`, ...

    Raises:
        ValueError: for bad options or data (`RecordError` with row and column); nothing has been written then.
    """
    _check_options(
        epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, save_steps=save_steps, max_tokens=max_tokens,
        gradient_accumulation_steps=gradient_accumulation_steps,
    )  # fmt: skip
    if not 0 <= label_smoothing <= 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5], got {label_smoothing}")
    if centering < 0:
        raise ValueError(f"centering must be >= 0, got {centering}")
    if (resume or save_steps) and output_dir is None:
        raise ValueError("resume and save_steps need an output_dir")
    out = None if output_dir is None else Path(output_dir)
    if out is not None:
        _check_output(out)

    set_seed(seed)
    options = dict(model_options or {})
    width = TABLE_WIDTH.get(head if isinstance(head, str) else "", 16)
    backbone: Any = build_backbone(model, hidden_size=width, max_length=max_length, **options)
    if lora:
        if not hasattr(backbone, "add_lora"):
            raise ValueError(f"lora needs a transformer, not {backbone.name!r}")
        backbone.add_lora()
    if gradient_checkpointing:
        if not hasattr(backbone, "gradient_checkpointing_enable"):
            raise ValueError(f"gradient_checkpointing needs a transformer, not {backbone.name!r}")
        backbone.gradient_checkpointing_enable()
    built = build_head(head, backbone)
    pairs = encode_pairs(records, backbone, built, use_margin=use_margin)
    held_out = (
        None if eval_data is None else encode_pairs(eval_data, backbone, built, use_margin=use_margin, what="eval_data")
    )
    if hasattr(backbone, "fit"):
        backbone.fit([*pairs.chosen, *pairs.rejected])
    recipe = RECIPES[_kind(backbone, lora)]
    asked: dict[str, Any] = {
        "model": backbone.name,
        "head": type(built).__name__,
        "epochs": recipe.epochs if epochs is None else epochs,
        "learning_rate": recipe.learning_rate if learning_rate is None else learning_rate,
        "batch_size": batch_size or recipe.batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "bf16": bf16,
        "lora": lora,
        "use_margin": use_margin,
        "label_smoothing": label_smoothing,
        "centering": centering,
        "seed": seed,
        "pairs": len(pairs),
        "data": _data_hash(records),
    }

    kind = RewardModel if built.scalar else PairwiseModel
    made = kind(backbone, built, max_tokens=max_tokens)
    if resume and out is not None and (finished := _finished(out, asked)):
        made = load_model(out, max_length=max_length)
        return TrainResult(model=made, is_main_process=os.environ.get("RANK", "0") == "0", **finished)
    network = PairNetwork(made.network, label_smoothing=label_smoothing, centering=centering)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Path(scratch) if out is None else out / CHECKPOINTS
        last = _last_checkpoint(checkpoints, asked) if resume and out is not None else None
        trainer = PreferenceTrainer(
            network,
            TrainingArguments(
                output_dir=str(checkpoints),
                num_train_epochs=asked["epochs"],
                learning_rate=asked["learning_rate"],
                per_device_train_batch_size=asked["batch_size"],
                gradient_accumulation_steps=gradient_accumulation_steps,
                optim=recipe.optim,
                warmup_steps=recipe.warmup,
                weight_decay=recipe.weight_decay,
                bf16=bf16,
                save_strategy="no" if save_steps is None else "steps",
                save_steps=save_steps or 500,
                save_total_limit=2,
                logging_steps=_logging_steps(len(pairs), asked),
                logging_first_step=True,
                report_to="none",
                seed=seed,
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                ddp_find_unused_parameters=False,
            ),
            pairs,
            callbacks=[_Progress(), *([] if held_out is None else [_HeldOut(held_out)])],
        )
        trainer.args._n_gpu = min(trainer.args.n_gpu, 1)  # several GPUs: accelerate launch, not DataParallel
        main = trainer.is_world_process_zero()
        if save_steps is not None and main:
            if last is None and checkpoints.is_dir():
                shutil.rmtree(checkpoints)
            checkpoints.mkdir(parents=True, exist_ok=True)
            (checkpoints / "options.json").write_text(json.dumps(asked), encoding="utf-8")
        start = time.perf_counter()
        outcome = trainer.train(resume_from_checkpoint=None if last is None else str(last))
        seconds = time.perf_counter() - start
        history = _by_step(trainer.state.log_history)
        steps = outcome.global_step - (0 if last is None else int(last.name.rpartition("-")[2]))
        done = (
            steps
            * len(pairs)
            / math.ceil(len(pairs) / (asked["batch_size"] * gradient_accumulation_steps * trainer.args.world_size))
        )
    if lora:
        backbone.merge_lora()
    made.network.eval()
    result = TrainResult(
        model=made,
        history=history,
        seconds=seconds,
        pairs_per_second=done / max(seconds, 1e-9),
        pairs=len(pairs),
        skipped=pairs.skipped,
        truncated=pairs.truncated,
        peak_memory=_peak_memory(),
        is_main_process=main,
        options=asked,
    )
    if out is not None and main:
        _write_whole(made, out, {k: v for k, v in result.to_dict().items() if k != "fingerprint"})
    trainer.accelerator.wait_for_everyone()
    return result


def _kind(backbone: Backbone, lora: bool) -> str:
    if backbone.name == "hashed":
        return "hashed" if backbone.hidden_size == 1 else "hashed vectors"
    if not backbone.trainable:
        return "frozen"
    return "lora" if lora else "full"


def _check_options(**options: float | None) -> None:
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive, got {value}")


def _check_output(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"output_dir {str(out)!r} is a file")
    if out.is_dir() and any(out.iterdir()) and not ((out / CARD).is_file() or (out / CHECKPOINTS).is_dir()):
        raise ValueError(f"output_dir {str(out)!r} has other files in it; name a new folder")


def _logging_steps(pairs: int, asked: Mapping[str, Any]) -> int:
    """About 50 entries of history."""
    steps = asked["epochs"] * pairs / (asked["batch_size"] * asked["gradient_accumulation_steps"])
    return max(1, round(steps / 50))


def _by_step(log: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """One entry per logged step, with training and held-out figures together."""
    history: dict[float, dict[str, float]] = {}
    for row in log:
        if "loss" in row or "eval_loss" in row:
            history.setdefault(row["step"], {}).update(row)
    return list(history.values())


def _data_hash(records: Any) -> str:
    """First 16 hex digits of the SHA-256 of the pairs."""
    columns = as_columns(records)
    digest = hashlib.sha256()
    for name in ("prompt", "chosen", "rejected"):
        for text in columns.get(name, []):
            digest.update(text_key(text).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def _last_checkpoint(folder: Path, asked: Mapping[str, Any]) -> Path | None:
    """The newest checkpoint that was written to its end, or None.

    Raises:
        ValueError: where the checkpoints are of another run.
    """
    options = folder / "options.json"
    if not options.is_file():
        return None
    saved = json.loads(options.read_text(encoding="utf-8"))
    changed = [key for key in asked if saved.get(key) != asked[key]]
    if changed:
        key = changed[0]
        raise ValueError(
            f"cannot resume in {str(folder.parent)!r}: {key} was {saved.get(key)!r} and is now {asked[key]!r}"
        )
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        with contextlib.suppress(OSError, ValueError):
            json.loads((checkpoint / STATE).read_text(encoding="utf-8"))  # written last
            return checkpoint
    return None


def _finished(out: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a finished run in `out` with the same options reported, or None."""
    if (out / CHECKPOINTS).is_dir() or not (out / CARD).is_file():
        return None
    training = json.loads((out / CARD).read_text(encoding="utf-8"))["training"]
    return training if training.get("options") == json.loads(json.dumps(asked)) else None


def _write_whole(model: RewardModel | PairwiseModel, out: Path, training: Mapping[str, Any]) -> None:
    """Save into a folder beside the others, then move the files in, the one that `load_model` looks for last."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=out) as folder:
        model.save(folder, training)
        (out / CARD).unlink(missing_ok=True)
        files = sorted(Path(folder).iterdir(), key=lambda file: (file.name == CARD, file.suffix == ".json"))
        for file in files:
            if file.is_dir():
                shutil.rmtree(out / file.name, ignore_errors=True)
            os.replace(file, out / file.name)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
