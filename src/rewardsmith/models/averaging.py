"""WARM (Ramé et al. 2024, arXiv 2401.12187): one reward model whose weights are the mean of several.

The models start from one checkpoint and are trained with different learning rates and orders of the data (3e-6 to 7e-6
and two batch sizes in paper 61, five models). The mean has the cost of one model and is harder to hack than any.
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
    states = [model.network.state_dict() for model in models]
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in states]
    for number, shape in enumerate(shapes):
        if shape != shapes[0]:
            differ = sorted(name for name in shape.keys() | shapes[0].keys() if shape.get(name) != shapes[0].get(name))
            raise ValueError(f"model {number} is not of the same architecture as model 0: they differ in {differ[0]!r}")
    made = copy.deepcopy(models[0])
    mean = {
        name: torch.stack([state[name].float().to(tensor.device) for state in states]).mean(0).to(tensor.dtype)
        for name, tensor in states[0].items()
    }
    made.network.load_state_dict(mean)
    return made
