"""Reward models made of the weights of others: their mean, or a point beyond the last of two.

`average_weights` is WARM (Ramé et al. 2024, arXiv 2401.12187): the models start from one checkpoint and are trained
with different learning rates and orders of the data (3e-6 to 7e-6 and two batch sizes in paper 61, five models). The
mean has the cost of one model and is harder to hack than any. `extrapolate` is ExPO (Zheng et al. 2024, arXiv
2404.16792), as paper 49 uses it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from rewardsmith.models.reward_model import RewardModel


@torch.no_grad()
def average_weights(models: Sequence[RewardModel]) -> RewardModel:
    """A new reward model with the mean of the weights of the given ones, which stay as they are.

    Raises:
        ValueError: where there is no model, or the models are not of one architecture.
    """
    if not models:
        raise ValueError("there are no models to average")
    states = _states(models)
    made = copy.deepcopy(models[0])
    mean = {
        name: torch.stack([state[name].float().to(tensor.device) for state in states]).mean(0).to(tensor.dtype)
        for name, tensor in states[0].items()
    }
    made.network.load_state_dict(mean)
    return made


@torch.no_grad()
def extrapolate(theta_1: RewardModel, theta_2: RewardModel, alpha: float) -> RewardModel:
    """A new reward model with the weights theta_2 + alpha (theta_2 - theta_1); the two given stay as they are.

    Where training went from theta_1 to theta_2, it goes on in that direction without a step of training. alpha is to be
    found on held-out data (paper 49 found 0.52): 0 is theta_2 and -1 is theta_1, to the bit.

    Raises:
        ValueError: where the models are not of one architecture.
    """
    first, second = _states([theta_1, theta_2])
    made = copy.deepcopy(theta_2)
    beyond = {}
    for name, tensor in second.items():
        if tensor.is_floating_point():
            wide = torch.promote_types(tensor.dtype, torch.float32)
            start = first[name].to(tensor.device, wide)
            beyond[name] = torch.lerp(start, tensor.to(wide), 1 + alpha).to(tensor.dtype)
        else:
            beyond[name] = tensor
    made.network.load_state_dict(beyond)
    return made


def _states(models: Sequence[RewardModel]) -> list[dict[str, torch.Tensor]]:
    """Weights by name, of models of one architecture."""
    states = [model.network.state_dict() for model in models]
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in states]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            differ = sorted(name for name in shape.keys() | shapes[0].keys() if shape.get(name) != shapes[0].get(name))
            raise ValueError(f"model {number} is not of the same architecture as model 0: they differ in {differ[0]!r}")
    return states
