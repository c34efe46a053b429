"""Embeddings from behaviour alone, by a variational autoencoder (Kingma and Welling 2014): what paper 62 compares with.

It keeps what varies most, which need not be what anybody cares for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from rewardsmith.models.arrays import ArrayBackbone, mlp


def vae_loss(
    states: torch.Tensor, rebuilt: torch.Tensor, mean: torch.Tensor, log_var: torch.Tensor, beta: float = 1.0
) -> torch.Tensor:
    """(N,) |s - s'|^2 / 2 + beta KL(N(mean, var) || N(0, I)), from states (N, D) and codes (N, m)."""
    divergence = (mean.square() + log_var.exp() - 1 - log_var).sum(-1) / 2
    return (states - rebuilt).square().sum(-1) / 2 + beta * divergence


def train_vae(
    trajectories: np.ndarray,
    hidden_size: int,
    layers: Sequence[int] = (128, 128),
    *,
    activation: str = "relu",
    beta: float = 0.1,
    steps: int = 3000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> ArrayBackbone:
    """An encoder of states that keeps what is needed to rebuild them; the code's mean is the hidden vector.

    Args:
        trajectories: (N, T, D) or (N, D); states are taken one by one.
        hidden_size: m.
        layers: of encoder and, backwards, decoder.
        activation: of both.
        beta: weight of the divergence: how noisy a code may be.
        steps: of Adam.
        batch_size: states per step.
        learning_rate: of Adam.
        seed: of weights, batches and noise.
    """
    states = torch.as_tensor(np.asarray(trajectories).reshape(-1, np.shape(trajectories)[-1]), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = states.shape[1]
        backbone = ArrayBackbone(size, layers, hidden_size, activation)
        spread = mlp([size, *layers, hidden_size], activation)
        decoder = mlp([hidden_size, *reversed(list(layers)), size], activation)
        parts = nn.ModuleList([backbone, spread, decoder])
        optimizer = torch.optim.Adam(parts.parameters(), lr=learning_rate, fused=True)
        for _ in range(steps):
            batch = states[torch.randint(len(states), (min(batch_size, len(states)),))]
            mean, log_var = backbone.encoder(batch), spread(batch)
            code = mean + torch.randn_like(mean) * (log_var / 2).exp()
            optimizer.zero_grad()
            vae_loss(batch, decoder(code), mean, log_var, beta).mean().backward()
            optimizer.step()
    return backbone.eval()
