"""Tiny causal language models with random weights as policies, on the tokenizers of the reward models' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.append(str(Path(__file__).parents[1] / "models"))

from tiny import DECODERS, tiny_tokenizer

from rewardsmith.alignment.policy import Policy

torch.set_num_threads(1)  # tiny tensors: more threads cost more than they bring


def tiny_lm(family: str = "llama", *, seed: int = 0, std: float = 0.3, dtype=torch.float32, **options) -> Policy:
    """A policy of 2 layers, 32 wide, over 384 tokens, far from small initial weights."""
    tokenizer = tiny_tokenizer("gpt2" if family == "gpt2" else "llama")
    config = {**DECODERS[family], "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": tokenizer.pad_token_id}
    config |= options.pop("config", {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **config), dtype=dtype)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=std)
    return Policy(model.eval(), tokenizer, name=f"tiny-{family}", **options)


def pairs_of_text(count: int) -> list[dict[str, str]]:
    """Pairs behind prompts of two questions: the chosen answer is polite."""
    places = ["Paris", "Rome", "Lima", "Oslo", "Cairo"]
    return [
        {
            "prompt": f"What is the capital of land {i // 2}? Please answer in a few words. ",
            "chosen": f"It is {places[i % 5]}, {'many ' * (i % 3)}thanks for asking.",
            "rejected": f"No idea{', go away' * (1 + i % 2)}.",
        }
        for i in range(count)
    ]


def chat(rows: list[dict[str, str]]) -> list[dict]:
    """The same as messages."""
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")},
        }
        for row in rows
    ]
