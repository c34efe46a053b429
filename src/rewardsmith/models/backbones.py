"""What a backbone is: it turns (prompt, completion) rows into hidden vectors, for any head to read.

Three are built in: `hashed` n-grams (`models.hashed`), frozen sentence embeddings (`models.embedding`) and Hugging Face
transformers (`models.transformer`). A head never sees text; a backbone never sees labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from rewardsmith.data.records import Text
from rewardsmith.reward import Failure


@dataclass
class Encoded:
    """The CPU side of N rows: one opaque item per row, ready for `Backbone.forward`.

    Attributes:
        items: N encodings (token ids, n-gram ids, an embedding); None where the row failed.
        lengths: N costs in tokens, 0 where the row failed; what batches are bounded by.
        failures: row -> why it cannot be encoded (`too_long`, `empty`).
        truncated: rows whose prompt was cut from the left to fit. A completion is never cut.
    """

    items: list[Any]
    lengths: list[int]
    failures: dict[int, Failure] = field(default_factory=dict)
    truncated: list[int] = field(default_factory=list)


class Backbone(nn.Module, ABC):
    """Rows of text to hidden vectors.

    Attributes:
        name: the id or path it was made from.
        hidden_size: H.
        trainable: whether gradients flow into it. Features of a frozen backbone are computed once and cached on disk.
    """

    name: str
    hidden_size: int
    trainable: bool

    @abstractmethod
    def encode(self, prompts: Sequence[Text], completions: Sequence[Text]) -> Encoded:
        """Tokenize N rows (no gradients, no device)."""

    @abstractmethod
    def forward(self, items: Sequence[Any], groups: Sequence[Hashable] | None = None) -> torch.Tensor:
        """Hidden vectors (N, H) of encoded rows, in order.

        Args:
            items: N encodings without None.
            groups: N keys, equal for rows that share a prompt, so that the prompt is encoded once. The result must not
                depend on them, nor on what else is in the batch (to 1e-5 in float32).
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What makes scores reproducible: name, revision, template hash, dtype, attention kernel, max length (JSON)."""

    @abstractmethod
    def save(self, folder: str) -> None:
        """Write everything that `load` needs into `folder`, as safetensors and JSON."""
