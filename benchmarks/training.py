"""Pairs per second of reward-model training: `rewardsmith.models.train` beside TRL's RewardTrainer, on the same work.

    python benchmarks/training.py [PAIRS.jsonl] [--min-ratio 4] [--pairs 256]

Same pairs, tokenizer, starting weights, steps, learning rate and precision; one thread; no gradient checkpointing; the
two in turn, timed in CPU seconds of the process from texts to trained weights. Without a file, on the embedded sample.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from rewardsmith.data.records import as_text
from rewardsmith.loading import load_records
from rewardsmith.models import RewardModel, TransformerBackbone, train


def read(source: str) -> list[dict[str, str]]:
    """Rows with prompt, chosen and rejected as plain text; rows that cannot be used are left out of both sides."""
    records, _ = load_records(source, kind="preference", on_bad="skip")
    names = ("prompt", "chosen", "rejected")
    return [{name: as_text(row[name]) for name in names} for row in records]


def tokenizer_of(rows: list[dict[str, str]], vocabulary: int = 8000) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the texts."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        (text for row in rows for text in row.values()), vocabulary, special_tokens=["<pad>", "<eos>"]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<eos>", pad_token="<pad>")


def ours(model: Any, tokenizer: Any, rows: list, options: argparse.Namespace) -> RewardModel:
    backbone = TransformerBackbone(model, tokenizer, max_length=options.max_length, layout=options.layout)
    return train(
        rows,
        backbone,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        max_tokens=options.max_tokens,
    ).model


def trl(model: Any, tokenizer: Any, rows: list, options: argparse.Namespace) -> RewardModel:
    from trl import RewardConfig, RewardTrainer

    with tempfile.TemporaryDirectory() as folder:
        arguments = RewardConfig(
            output_dir=folder,
            num_train_epochs=options.epochs,
            learning_rate=options.learning_rate,
            per_device_train_batch_size=options.batch_size,
            max_length=options.max_length,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1000,
            warmup_steps=0.03,
        )
        RewardTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    return RewardModel(TransformerBackbone(model.eval(), tokenizer, max_length=options.max_length))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", default="sample", help="what `rewardsmith train` takes")
    parser.add_argument("--test", help="file of held-out pairs; default: a tenth of the data")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--min-ratio", type=float, default=0.0, help="keep pairs whose prompt is that often a response")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(1)
    disable_progress_bars()
    rows = read(options.data)
    tokenizer = tokenizer_of(rows)

    def tokens(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    if options.test is None:
        cut = len(rows) // 10
        rows, held_out = rows[cut:], rows[:cut]
    else:
        held_out = read(options.test)
    sizes = np.array([[tokens(row["prompt"]), tokens(row["chosen"]), tokens(row["rejected"])] for row in rows])
    keep = (sizes[:, 0] >= options.min_ratio * sizes[:, 1:].mean(1)) & (sizes.sum(1) < options.max_length)
    chosen_rows = np.flatnonzero(keep)[: options.pairs]
    rows, sizes = [rows[i] for i in chosen_rows], sizes[chosen_rows]

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=options.hidden // 64,
        max_position_embeddings=options.max_length,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        num_labels=1,
    )
    start = LlamaForSequenceClassification(config)
    warm = argparse.Namespace(**{**vars(options), "epochs": 1})
    for way in (ours, trl):  # imports and first calls are not what is compared
        way(copy.deepcopy(start), tokenizer, rows[:8], warm)
    seconds: dict[str, list[float]] = {"rewardsmith": [], "TRL": []}
    hits = {}
    for _ in range(options.repeats):
        for name, way in (("rewardsmith", ours), ("TRL", trl)):
            model = copy.deepcopy(start)
            begin = time.process_time()
            trained = way(model, tokenizer, rows, options)
            seconds[name].append(time.process_time() - begin)
            columns = [[row[key] for row in held_out] for key in ("prompt", "chosen", "rejected")]
            hits[name] = float(np.mean(trained.preference(*columns) > 0))
    rate = {name: options.epochs * len(rows) / min(times) for name, times in seconds.items()}
    result = {
        "pairs": len(rows),
        "mean_tokens": dict(zip(("prompt", "chosen", "rejected"), sizes.mean(0).round(1).tolist())),
        "cpu_seconds": seconds,
        "pairs_per_cpu_second": rate,
        "ratio": rate["rewardsmith"] / rate["TRL"],
        "held_out_accuracy": hits,
        "held_out_pairs": len(held_out),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
