"""Optimizer, scheduler and random states as safetensors and JSON: a checkpoint without pickle."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def save_optimizer(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Write `<file>.safetensors` (state tensors, by parameter number and name) and `<file>.json` (everything else)."""
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for number, entries in state["state"].items():
        for name, value in entries.items():
            key = f"{number}/{name}"
            if torch.is_tensor(value):
                tensors[key] = value.detach().cpu().contiguous()
            else:
                plain[key] = value
    save_file(tensors, file.with_suffix(".safetensors"))
    _write(file.with_suffix(".json"), {"state": plain, "param_groups": state["param_groups"]})


def load_optimizer(optimizer: torch.optim.Optimizer, file: Path) -> None:
    """Read what `save_optimizer` wrote."""
    saved = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**saved["state"], **load_file(file.with_suffix(".safetensors"))}.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


def save_random_state(file: Path) -> None:
    """Write the states of Python's, NumPy's and torch's generators (CPU, and the current GPU) as JSON."""
    version, keys, gauss = random.getstate()
    name, words, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state: dict[str, Any] = {
        "python": [version, list(keys), gauss],
        "numpy": [name, np.asarray(words).tolist(), position, has_gauss, cached],
        "torch": torch.random.get_rng_state().tolist(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().tolist()
    _write(file, state)


def load_random_state(file: Path) -> None:
    """Set the generators to what `save_random_state` wrote."""
    state = json.loads(file.read_text(encoding="utf-8"))
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, words, *rest = state["numpy"]
    np.random.set_state((name, np.array(words, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.random.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))


def _write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")
