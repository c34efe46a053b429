"""One run of the engine, from an `ExampleModule` and its rows to a history: arguments, checkpoints, resuming, figures.

What `models.train` and `alignment.align_preferences` share: how a run is set up, and what they report about it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from rewardsmith.data.records import as_columns, text_key
from rewardsmith.models.checkpoint import CHECKPOINTS, last_checkpoint
from rewardsmith.models.engine import ExampleModule, ExampleTrainer
from rewardsmith.models.examples import READ, Examples


@dataclass(frozen=True)
class Recipe:
    """Defaults of a kind of model: what trains it well without tuning."""

    learning_rate: float
    epochs: float
    batch_size: int
    optim: str = "adamw_torch"
    warmup: float = 0.0
    weight_decay: float = 0.0
    lr_scheduler: str = "linear"


@dataclass
class Run:
    """A trainer that is ready to start.

    Attributes:
        trainer: the engine.
        last: the checkpoint to go on from, or None.
        asked: see `training_run`.
    """

    trainer: ExampleTrainer
    last: Path | None
    asked: Mapping[str, Any]

    def fit(self) -> dict[str, Any]:
        """Train; returns `history`, `seconds` and `pairs_per_second`, as results show them."""
        start = time.perf_counter()
        outcome = self.trainer.train(resume_from_checkpoint=None if self.last is None else str(self.last))
        seconds = time.perf_counter() - start
        steps = outcome.global_step - (0 if self.last is None else int(self.last.name.rpartition("-")[2]))
        pairs, asked = len(self.trainer.examples), self.asked
        a_step = asked["batch_size"] * asked["gradient_accumulation_steps"] * self.trainer.args.world_size
        return {
            "history": _by_step(self.trainer.state.log_history),
            "seconds": seconds,
            "pairs_per_second": steps * pairs / math.ceil(pairs / a_step) / max(seconds, 1e-9),
        }


@contextlib.contextmanager
def training_run(
    module: ExampleModule,
    examples: Examples,
    asked: Mapping[str, Any],
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    save_steps: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Iterator[Run]:
    """Set up a run; its checkpoints are there as long as the context is open, or in `out`.

    Args:
        module: what is trained.
        examples: on what.
        asked: what the run was asked to do (JSON): `epochs`, `learning_rate`, `batch_size`, `seed`, `bf16`,
            `gradient_accumulation_steps`, and whatever else must be equal where a run is resumed.
        recipe: the rest of the optimizer's settings.
        out: folder of the run.
        resume: go on from the last checkpoint in `out`, if there is one.
        save_steps: write a checkpoint every so many steps.
        callbacks: of the trainer.

    Raises:
        ValueError: where the checkpoints in `out` are of another run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        checkpoints = Path(scratch) if out is None else out / CHECKPOINTS
        last = last_checkpoint(checkpoints, asked) if resume and out is not None else None
        trainer = ExampleTrainer(
            module,
            TrainingArguments(
                output_dir=str(checkpoints),
                num_train_epochs=asked["epochs"],
                learning_rate=asked["learning_rate"],
                per_device_train_batch_size=asked["batch_size"],
                gradient_accumulation_steps=asked["gradient_accumulation_steps"],
                optim=recipe.optim,
                lr_scheduler_type=recipe.lr_scheduler,
                warmup_steps=recipe.warmup,
                weight_decay=recipe.weight_decay,
                bf16=asked["bf16"],
                save_strategy="no" if save_steps is None else "steps",
                save_steps=save_steps or 500,
                save_total_limit=2,
                logging_steps=_logging_steps(len(examples), asked),
                logging_first_step=True,
                report_to="none",
                seed=asked["seed"],
                use_cpu=not torch.cuda.is_available(),
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                ddp_find_unused_parameters=False,
            ),
            examples,
            callbacks=list(callbacks),
        )
        trainer.args._n_gpu = min(trainer.args.n_gpu, 1)  # several GPUs: accelerate launch, not DataParallel
        if save_steps is not None and trainer.is_world_process_zero():
            if last is None and checkpoints.is_dir():
                shutil.rmtree(checkpoints)
            checkpoints.mkdir(parents=True, exist_ok=True)
            (checkpoints / "options.json").write_text(json.dumps(asked), encoding="utf-8")
        yield Run(trainer, last, asked)


def check_positive(**options: float | None) -> None:
    """Raise ValueError for an option that is there and not a finite number above 0."""
    for name, value in options.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive, got {value}")


def data_hash(records: Any) -> str:
    """First 16 hex digits of the SHA-256 of what a loss reads of the rows."""
    columns = as_columns(records)
    digest = hashlib.sha256()
    for name in READ:
        for text in columns.get(name, []):
            digest.update(text_key(text).encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else the resident set of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
