"""Low-rank adapters (Hu et al., 2021) in a Hugging Face model: added, switched off for a while, and merged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def add_lora(model: nn.Module, task_type: str, **options: Any) -> None:
    """Freeze a model but for adapters on its linear layers.

    Args:
        model: changed in place.
        task_type: `CAUSAL_LM`, `SEQ_CLS`, ...
        options: `peft.LoraConfig`'s: r, lora_alpha, lora_dropout, target_modules, ...
    """
    import peft

    config = peft.LoraConfig(**{"task_type": task_type, "target_modules": "all-linear", **options})
    peft.inject_adapter_in_model(config, model)


def merge_lora(model: nn.Module) -> None:
    """Add the adapters to the weights and remove them; everything takes gradients again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    model.requires_grad_(True)


def merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a model, with adapters added to the weights that they adapt; the model stays as it is."""
    state = model.state_dict()
    for name, module in model.named_modules():
        if not hasattr(module, "get_delta_weight"):
            continue
        adapted = {key for key in state if key.startswith(f"{name}.")}
        values = {key: state.pop(key) for key in adapted}
        prefix = f"{name}.base_layer."
        state.update({f"{name}.{k.removeprefix(prefix)}": v for k, v in values.items() if k.startswith(prefix)})
        with torch.no_grad():
            for adapter in module.active_adapters:
                state[f"{name}.weight"] = state[f"{name}.weight"] + module.get_delta_weight(adapter)
    return state


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model without its adapters for a while; a model that has none is left as it is."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
