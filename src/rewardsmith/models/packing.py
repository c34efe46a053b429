"""The tensors of the layouts: packed sequences and their masks, shared keys and values, and what work costs a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import transformers
from torch import nn
from transformers import DynamicCache

from rewardsmith.models.layout import Costs


def padded(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    """(N, length) with rows on the left."""
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])


class Packed:
    """Sequences in which several rows stand side by side, each behind what they share.

    Attributes:
        starts: of each row, its sequence and where in that its own tokens begin.
    """

    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.positions: list[list[int]] = []
        self.blocks: list[list[int]] = []
        self.starts: list[tuple[int, int]] = []

    def add(self, shared: Sequence[int], start: int, tails: Sequence[Sequence[int]]) -> None:
        """One sequence: shared tokens, then rows' own tokens, each from position `start` on."""
        ids, positions, blocks = list(shared), list(range(len(shared))), [0] * len(shared)
        for block, own in enumerate(tails, start=1):
            self.starts.append((len(self.ids), len(ids)))
            ids += own
            positions += range(start, start + len(own))
            blocks += [block] * len(own)
        self.ids.append(ids)
        self.positions.append(positions)
        self.blocks.append(blocks)

    def tensors(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (B, T), and which key each query sees (B, T, T)."""
        length, device = like.shape[1], like.device
        blocks = padded(self.blocks, length, -1).to(device)
        sees = (blocks[:, None, :] == blocks[:, :, None]) | (blocks[:, None, :] == 0)
        sees &= torch.ones(length, length, dtype=torch.bool, device=device).tril()
        return padded(self.positions, length, 0).to(device), sees


class SharedPrefixes(DynamicCache):
    """Keys and values of prompts, as sequences of completions see them: each layer copies them when it needs them.

    Args:
        prompts: the filled cache of G prompts.
        group: (B,) which prompt stands before each sequence.
    """

    def __init__(self, prompts: DynamicCache, group: torch.Tensor) -> None:
        super().__init__()
        self.prompts, self.group = prompts, group
        first: Any = prompts.layers[0]
        self.in_order = group.tolist() == list(range(first.keys.shape[0]))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layer: Any = self.prompts.layers[layer_idx]
        known = (layer.keys, layer.values)
        if not self.in_order:
            known = (known[0][self.group], known[1][self.group])
        return torch.cat([known[0], key_states], dim=-2), torch.cat([known[1], value_states], dim=-2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prompts.get_seq_length(layer_idx)


class Sizes:
    """Work per token, per query-key pair and per cached token, in floating-point operations of a forward pass."""

    def __init__(self, token: float, pair: float, cached: float, layers: int) -> None:
        self.token, self.pair, self.cached, self.layers = token, pair, cached, layers

    @classmethod
    def of(cls, model: transformers.PreTrainedModel) -> Self:
        config = model.config.get_text_config()
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
        weights = sum(p.numel() for p in model.parameters()) - tables
        stored = getattr(config, "num_key_value_heads", None) or heads
        return cls(2.0 * max(weights, 1), 4.0 * layers * heads * size, 2.0 * layers * stored * size, layers)

    def costs(self, device: str, batch_tokens: int | None) -> Costs:
        """In units of a token's linear layers.

        The CPU's factors are fitted to times of all layouts on two models (4.7M and 106M weights, one thread): the time
        of an operation in attention and in a copy against one in a matrix product, and the operations that a layer's
        call costs. Estimates were within 20% of times.
        """
        cpu, gpu = (1.0, 300.0, 1e8, 4096), (1.0, 300.0, 1e11, 16384)  # the GPU's are a guess
        slow_pair, slow_copy, per_layer, budget = cpu if device == "cpu" else gpu
        return Costs(
            pair=slow_pair * self.pair / self.token,
            copy=slow_copy * self.cached / self.token,
            call=per_layer * self.layers / self.token,
            budget=batch_tokens or budget,
        )
