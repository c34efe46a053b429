"""Scoring 8 candidates of each prompt: CPU-seconds of the transformer backbone against plain transformers.

Three ways to the same scores, in turn, on one thread, from text to numbers:

- plain: `AutoModelForSequenceClassification` on right-padded batches of 16 rows, in the given order;
- sorted: the same, with the rows sorted by length first;
- rewardsmith: `TransformerBackbone` with the prompt of each group encoded once (and each of its layouts by itself).

The default model is a Llama of 6 layers, 256 wide, with random weights; `--model` takes any other.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --model HuggingFaceTB/SmolLM2-135M-Instruct --prompts 4
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from rewardsmith.models.layout import LAYOUTS
from rewardsmith.models.transformer import TransformerBackbone

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "nrs"]


def sentences(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def tiny() -> TransformerBackbone:
    """A Llama of 6 layers, 256 wide, and a tokenizer of about a token a word."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator([sentences(random.Random(i), 200) for i in range(20)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=2048,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
    )
    torch.manual_seed(0)
    return TransformerBackbone(LlamaForSequenceClassification(config).eval(), tokenizer, name="llama, 6 layers of 256")


@torch.no_grad()
def plain(backbone: TransformerBackbone, texts: list[str], by_length: bool) -> torch.Tensor:
    """Scores as plain transformers gives them, in batches of 16."""
    tokenizer, model = backbone.tokenizer, backbone.model
    order = list(range(len(texts)))
    if by_length:
        order.sort(key=[len(ids) for ids in tokenizer(texts)["input_ids"]].__getitem__)
    scores = torch.empty(len(texts))
    for start in range(0, len(texts), 16):
        rows = order[start : start + 16]
        batch = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, padding_side="right")
        scores[rows] = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].float()
    return scores


@torch.no_grad()
def ours(backbone: TransformerBackbone, prompts: list[str], completions: list[str], layout: str) -> torch.Tensor:
    backbone.layout = layout
    encoded = backbone.encode(prompts, completions)
    return backbone.linear(backbone(encoded.items, prompts))[:, 0].float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="path or hub id; default: a tiny Llama with random weights")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--prompt-words", type=int, nargs=2, default=(300, 500), metavar=("LOW", "HIGH"))
    parser.add_argument("--candidate-words", type=int, nargs=2, default=(40, 80), metavar=("LOW", "HIGH"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(1)
    backbone = TransformerBackbone.from_pretrained(args.model) if args.model else tiny()
    rng = random.Random(0)
    prompts, completions = [], []
    for _ in range(args.prompts):
        prompt = sentences(rng, rng.randint(*args.prompt_words))
        prompts += [prompt] * args.candidates
        completions += [" " + sentences(rng, rng.randint(*args.candidate_words)) for _ in range(args.candidates)]
    close = backbone.tokenizer.eos_token or ""
    texts = [prompt + completion + close for prompt, completion in zip(prompts, completions)]
    lengths = backbone.encode(prompts, completions).lengths

    ways: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: plain(backbone, texts, False),
        "sorted": lambda: plain(backbone, texts, True),
        "rewardsmith": lambda: ours(backbone, prompts, completions, "auto"),
    }
    for layout in LAYOUTS:
        ways[layout] = lambda layout=layout: ours(backbone, prompts, completions, layout)
    for _ in range(2):  # warm up, and run the self-test of the layouts
        ours(backbone, prompts[:2], completions[:2], "auto")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores = {}
    for _ in range(args.repeats):
        for name, way in ways.items():
            start = time.process_time()
            scores[name] = way()
            seconds[name].append(time.process_time() - start)

    result = {
        "model": backbone.name,
        "rows": len(texts),
        "candidates": args.candidates,
        "tokens": {"all": sum(lengths), "mean": statistics.mean(lengths), "max": max(lengths)},
        "threads": torch.get_num_threads(),
        "ways": {
            name: {
                "cpu_seconds": statistics.median(times),
                "all_cpu_seconds": times,
                "against_plain": statistics.median(seconds["plain"]) / statistics.median(times),
                "against_sorted": statistics.median(seconds["sorted"]) / statistics.median(times),
                "largest_difference": (scores[name] - scores["plain"]).abs().max().item(),
            }
            for name, times in seconds.items()
        },
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"{backbone.name}: {args.prompts} prompts x {args.candidates}, {statistics.mean(lengths):.0f} tokens a row")
    print(f"{'':12} {'CPU s':>8} {'rows/s':>8} {'x plain':>8} {'x sorted':>8}  largest difference of scores")
    for name, way in result["ways"].items():  # type: ignore[attr-defined]
        cpu = way["cpu_seconds"]
        print(
            f"{name:12} {cpu:8.2f} {len(texts) / cpu:8.1f} {way['against_plain']:8.2f} {way['against_sorted']:8.2f}  "
            f"{way['largest_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
