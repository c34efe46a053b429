"""Numbers in place of text: feature vectors, ready-made embeddings, trajectories of states.

A completion is an array (D,) or (T, D); its hidden vector is the sum over t of f(s_t), where f is the identity or a
small network (as the encoders of SIRL, paper 62, and of preference learning in control). The prompt is not read.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rewardsmith.data.records import Text
from rewardsmith.models.backbones import Backbone, Encoded
from rewardsmith.reward import Failure

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "none": nn.Identity,
}


def mlp(sizes: Sequence[int], activation: str = "relu") -> nn.Sequential:
    """Linear layers of the given sizes, input first, with an activation between them."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    layers: list[nn.Module] = []
    for at, (before, after) in enumerate(itertools.pairwise(sizes)):
        layers += [ACTIVATIONS[activation]()] * (at > 0) + [nn.Linear(before, after)]
    return nn.Sequential(*layers)


class ArrayBackbone(Backbone):
    """See the module.

    Args:
        size: D, numbers per state.
        layers: sizes of the hidden layers of f.
        hidden_size: H, what f ends in. Default: D, and without `layers` f is the identity.
        activation: a key of `ACTIVATIONS`.

    Attributes:
        trainable: whether f is trained. Set it to False to learn a head on an encoder as it stands.
    """

    name = "arrays"
    anchor: torch.Tensor

    def __init__(
        self, size: int, layers: Sequence[int] = (), hidden_size: int | None = None, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.size, self.layers, self.activation = size, list(layers), activation
        self.hidden_size = size if hidden_size is None else hidden_size
        identity = not layers and self.hidden_size == size
        self.encoder = nn.Sequential() if identity else mlp([size, *layers, self.hidden_size], activation)
        self.trainable = not identity
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # knows the device

    def encode(self, prompts: Sequence[Text], completions: Sequence[Any]) -> Encoded:
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts but {len(completions)} completions")
        encoded = Encoded([], [])
        for row, completion in enumerate(completions):
            try:
                states = np.atleast_2d(np.asarray(completion, dtype=np.float32))
            except (TypeError, ValueError):
                states = np.empty((0, 0), dtype=np.float32)
            failure = None
            if states.ndim != 2 or states.shape[1] != self.size or not len(states):
                failure = Failure("wrong_shape", f"must be numbers, ({self.size},) or (T, {self.size})")
            elif not np.isfinite(states).all():
                failure = Failure("nonfinite", "has a number that is not finite")
            if failure is not None:
                encoded.failures[row] = failure
            encoded.items.append(None if failure else states)
            encoded.lengths.append(0 if failure else len(states))
        return encoded

    def forward(self, items: Sequence[np.ndarray], groups: Sequence[Hashable] | None = None) -> torch.Tensor:
        sizes = [len(item) for item in items]
        states = torch.from_numpy(np.concatenate(items)).to(self.anchor.device)
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            vectors = self.encoder(states)
        if len(vectors) == len(items):
            return vectors
        rows = torch.repeat_interleave(torch.tensor(sizes, device=states.device))
        return vectors.new_zeros(len(items), vectors.shape[1]).index_add(0, rows, vectors)

    def fingerprint(self) -> dict[str, Any]:
        return {"name": self.name, **self._config(), "dtype": "float32"}

    def _config(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "layers": self.layers,
            "hidden_size": self.hidden_size,
            "activation": self.activation,
        }

    def save(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "arrays.json").write_text(json.dumps(self._config()) + "\n", encoding="utf-8")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        if tensors:
            save_file(tensors, Path(folder) / "arrays.safetensors")

    @classmethod
    def load(cls, folder: str) -> ArrayBackbone:
        """What `save` wrote."""
        backbone = cls(**json.loads((Path(folder) / "arrays.json").read_text(encoding="utf-8")))
        weights = Path(folder) / "arrays.safetensors"
        if weights.is_file():
            backbone.load_state_dict(load_file(weights))
        return backbone
