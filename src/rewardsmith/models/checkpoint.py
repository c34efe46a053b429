"""What a run writes: checkpoints without pickle (safetensors, JSON), and a model folder that appears whole."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from rewardsmith.models.reward_model import CARD

CHECKPOINTS = "checkpoints"
STATE = "trainer_state.json"


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


def check_output(out: Path, card: str = CARD) -> None:
    """Refuse a folder that holds anything but a run of ours, which `card` or checkpoints show."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"output_dir {str(out)!r} is a file")
    if out.is_dir() and any(out.iterdir()) and not ((out / card).is_file() or (out / CHECKPOINTS).is_dir()):
        raise ValueError(f"output_dir {str(out)!r} has other files in it; name a new folder")


def last_checkpoint(folder: Path, asked: Mapping[str, Any]) -> Path | None:
    """The newest checkpoint that was written to its end, or None.

    Raises:
        ValueError: where the checkpoints are of another run.
    """
    options = folder / "options.json"
    if not options.is_file():
        return None
    saved = json.loads(options.read_text(encoding="utf-8"))
    changed = [key for key in asked if saved.get(key) != asked[key]]
    if changed:
        key = changed[0]
        raise ValueError(
            f"cannot resume in {str(folder.parent)!r}: {key} was {saved.get(key)!r} and is now {asked[key]!r}"
        )
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for checkpoint in found:
        with contextlib.suppress(OSError, ValueError):
            json.loads((checkpoint / STATE).read_text(encoding="utf-8"))  # written last
            return checkpoint
    return None


def finished_run(out: Path, asked: Mapping[str, Any], card: str = CARD) -> dict[str, Any] | None:
    """What a finished run in `out` with the same options reported, or None."""
    if (out / CHECKPOINTS).is_dir() or not (out / card).is_file():
        return None
    training = json.loads((out / card).read_text(encoding="utf-8"))["training"]
    return training if training.get("options") == json.loads(json.dumps(asked)) else None


class Savable(Protocol):
    """Something that writes itself into a folder, with a card about how it was made."""

    def save(self, folder: str | Path, training: Mapping[str, Any] | None = None) -> None: ...


def write_whole(model: Savable, out: Path, training: Mapping[str, Any], card: str = CARD) -> None:
    """Save into a folder beside the others, then move the files in, the card by which a run is known last."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=out) as folder:
        model.save(folder, training)
        (out / card).unlink(missing_ok=True)
        files = sorted(Path(folder).iterdir(), key=lambda file: (file.name == card, file.suffix == ".json"))
        for file in files:
            if file.is_dir():
                shutil.rmtree(out / file.name, ignore_errors=True)
            os.replace(file, out / file.name)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
