"""Crossed bags of words: a weight for every pair of a context's word and an answer's word that training data has.

The smallest model that can use a context (paper 52): a linear model that merely sees both bags side by side gives a
reward that is a sum of two, of which the context's is the same for both answers. No download, and an exact dictionary:
hashed pairs collide.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from rewardsmith.data.contexts import TEMPLATE, split_context
from rewardsmith.data.records import Text, as_text
from rewardsmith.models.backbones import Backbone, Encoded
from rewardsmith.reward import Failure

_ODD = np.uint64(0x9E3779B97F4A7C15)
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
BARE = np.zeros(1, dtype=np.uint64)  # stands beside the words of every context: a word of the answer by itself
CHUNK = 1000  # rows whose pairs `fit` holds at once


class Words(NamedTuple):
    """The words of a row: those of its context (C,), those of its answer (A,), both uint64, and weights (A,)."""

    context: np.ndarray
    answer: np.ndarray
    weights: np.ndarray


class CrossedBackbone(Backbone):
    """Reads the context that `with_context` wrote into the prompt; of the rest of the prompt it sees nothing.

    The words of a context share a norm of 1, a word of the answer weighs 1 + log count. The reward is linear in the
    products of a context's word and an answer's word, and in the answer's words alone, which is what is left without a
    context. Pairs that training data lacks count nothing. `fit` makes the dictionary; a trained backbone keeps its own.

    Args:
        template: of the context, as in `with_context`.

    Attributes:
        keys: (P,) sorted names of the pairs, 64 bits each: of a million pairs, two share one with a chance of 3e-8.
        table: (P, 1) weights.
        factor: what rows are multiplied by, so that training rows have a mean norm of 1.
    """

    name = "crossed"
    trainable = True
    hidden_size = 1
    keys: torch.Tensor
    factor: torch.Tensor

    def __init__(self, template: str = TEMPLATE) -> None:
        super().__init__()
        self.template = template
        self.register_buffer("keys", torch.empty(0, dtype=torch.long))
        self.register_buffer("factor", torch.ones(()))
        self.table = nn.Parameter(torch.zeros(0, 1))
        self.linear = nn.Identity()

    def fit(self, items: Iterable[Words | None]) -> None:
        """Make the dictionary from encoded training rows, once."""
        rows = [item for item in items if item is not None]
        if not rows or len(self.keys):
            return
        device = self.table.device
        found, norms = np.empty(0, dtype=np.int64), []
        for start in range(0, len(rows), CHUNK):
            names, weights, counts = _products(rows[start : start + CHUNK])
            found = np.union1d(found, names)
            norms.append(np.sqrt(np.add.reduceat(np.square(weights), np.cumsum(counts) - counts)))
        self.keys = torch.from_numpy(found).to(device)
        self.factor.fill_(1 / float(np.concatenate(norms).mean()))
        self.table = nn.Parameter(torch.zeros(len(found), 1, device=device))

    def encode(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Encoded:
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions")
        encoded, known = Encoded([], []), _Names()
        for row, (prompt, completion) in enumerate(zip(prompts, completions)):
            context = dict.fromkeys(_WORD.findall((split_context(prompt, self.template)[1] or "").lower()))
            counts = Counter(_WORD.findall(as_text(completion).lower()))
            encoded.lengths.append(counts.total())
            if not counts:
                encoded.failures[row] = Failure("empty", "the completion has no words")
                encoded.items.append(None)
                continue
            weights = 1 + np.log(np.array(list(counts.values()), dtype=np.float64))
            encoded.items.append(Words(known.of(context), known.of(counts), weights))
        return encoded

    def forward(self, items: Sequence[Words], groups: Sequence[Hashable] | None = None) -> torch.Tensor:
        if not len(self.keys):
            return self.table.new_zeros(len(items), 1)
        device = self.table.device
        names, weights, counts = _products(items)
        named = torch.from_numpy(names).to(device)
        place = torch.searchsorted(self.keys, named).clamp(max=len(self.keys) - 1)
        weight = torch.from_numpy(weights).to(device) * (self.keys[place] == named) * self.factor
        offsets = torch.from_numpy(np.cumsum(counts) - counts).to(device)
        return F.embedding_bag(place, self.table, offsets, mode="sum", per_sample_weights=weight.to(self.table.dtype))

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name, "template": self.template, "pairs": len(self.keys), "dtype": "float32"}

    def save(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        config = json.dumps({"template": self.template}, ensure_ascii=False)
        (Path(folder) / "crossed.json").write_text(config + "\n", encoding="utf-8")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, Path(folder) / "crossed.safetensors")

    @classmethod
    def load(cls, folder: str) -> CrossedBackbone:
        """What `save` wrote."""
        config = json.loads((Path(folder) / "crossed.json").read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / "crossed.safetensors")
        backbone = cls(config["template"])
        backbone.keys, backbone.table = tensors["keys"], nn.Parameter(tensors["table"])
        backbone.factor.copy_(tensors["factor"])
        return backbone


class _Names(dict[str, int]):
    """Words to 64 bits, the same on every machine."""

    def __missing__(self, word: str) -> int:
        name = self[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return name

    def of(self, words: Iterable[str]) -> np.ndarray:
        return np.array([self[word] for word in words], dtype=np.uint64)


def _products(rows: Sequence[Words]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names and weights of all rows' pairs, end to end, and how many pairs each row has."""
    names, weights = [], []
    for row in rows:
        share = np.full(len(row.context) + 1, max(len(row.context), 1) ** -0.5)
        share[0] = 1.0
        first = np.concatenate([BARE, row.context])
        names.append((first[:, None] * _ODD + row.answer).ravel())
        weights.append((share[:, None] * row.weights).ravel())
    counts = np.array([len(name) for name in names])
    return _mixed(np.concatenate(names)).view(np.int64), np.concatenate(weights), counts


def _mixed(names: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers that looks random (splitmix64, public domain)."""
    names = (names ^ (names >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    names = (names ^ (names >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return names ^ (names >> np.uint64(31))
