"""Pairs per second of DPO: `rewardsmith.alignment.align_preferences` beside TRL's DPOTrainer, on the same work.

    python benchmarks/preference_training.py [PAIRS.jsonl] [--pairs 128] [--min-ratio 4]

Same pairs, tokenizer, starting weights, steps, learning rate and precision; both compute the reference's
log-probabilities once before training; one thread; no gradient checkpointing; the two in turn, each in a process of its
own, timed in CPU seconds from texts to trained weights. Without a file, on the embedded sample.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from training import read, tokenizer_of
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

SIDES = ("rewardsmith", "TRL")


def prepare(options: argparse.Namespace, folder: Path) -> np.ndarray:
    """Write rows and an untrained model; returns (N, 3) tokens of prompt, chosen and rejected."""
    rows = read(options.data)
    tokenizer = tokenizer_of(rows, options.vocabulary)
    names = ("prompt", "chosen", "rejected")
    sizes = np.array([[len(tokenizer(row[name])["input_ids"]) for name in names] for row in rows])
    keep = (sizes[:, 0] >= options.min_ratio * sizes[:, 1:].mean(1)) & (sizes[:, 0] + sizes[:, 1:].max(1) < 1000)
    chosen = np.flatnonzero(keep)[: options.pairs]
    (folder / "rows.json").write_text(json.dumps([rows[i] for i in chosen]), encoding="utf-8")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=options.hidden // 64,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return sizes[chosen]


def ours(rows: list, folder: Path, options: argparse.Namespace) -> Any:
    from rewardsmith.alignment.preference_trainer import align_preferences

    return align_preferences(
        rows, folder / "model", epochs=options.epochs, learning_rate=options.learning_rate,
        batch_size=options.batch_size, max_length=1024, model_options={"layout": options.layout},
    ).model  # fmt: skip


def trl(rows: list, folder: Path, options: argparse.Namespace) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        output_dir=str(folder / "trl"),
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=options.batch_size,
        max_length=1024,
        precompute_ref_log_probs=True,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1000,
        warmup_steps=0.1,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    trainer = DPOTrainer(model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    return trainer.model


def one_side(side: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds and peak memory of one side, imports and a first call on a few pairs left out."""
    torch.set_num_threads(1)
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    way = ours if side == "rewardsmith" else trl
    way(rows[:8], folder, argparse.Namespace(**{**vars(options), "epochs": 1}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    model = way(rows, folder, options)
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weight = model.get_output_embeddings().weight
    return {"cpu_seconds": seconds, "peak_mib": peak / 1024, "warm_mib": before / 1024, "weights": float(weight.norm())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="what `rewardsmith train` takes")
    parser.add_argument("--pairs", type=int, default=128)
    parser.add_argument("--min-ratio", type=float, default=0.0, help="keep pairs whose prompt is that often a response")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(one_side(options.side, Path(options.folder), options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        sizes = prepare(options, Path(folder))
        found = {}
        for side in SIDES:
            command = [sys.executable, *sys.argv, "--side", side, "--folder", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[side] = json.loads(done.stdout.strip().splitlines()[-1])
    rate = {side: options.epochs * len(sizes) / found[side]["cpu_seconds"] for side in SIDES}
    result = {
        "pairs": len(sizes),
        "mean_tokens": dict(zip(("prompt", "chosen", "rejected"), sizes.mean(0).round(1).tolist())),
        "sides": found,
        "pairs_per_cpu_second": rate,
        "ratio": rate["rewardsmith"] / rate["TRL"],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
