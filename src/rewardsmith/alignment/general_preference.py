"""General preference optimization (GPO; paper 26, Zhang et al. 2024): a policy against itself under any preference.

One iteration maximizes E_{y ~ pi, y' ~ pi_t} s(y beats y') - beta KL(pi || pi_t). Its solution is
pi_{t+1}(y) ~ pi_t(y) exp(s(y beats pi_t) / beta), which `gpo_loss` reaches by regression on log-ratios.
"""

from __future__ import annotations

from typing import Literal

import torch


def gpo_update(logps: torch.Tensor, scores: torch.Tensor, beta: float) -> torch.Tensor:
    """The exact update over a finite set of K completions.

    Args:
        logps: (..., K) log-probabilities of pi_t.
        scores: (..., K, K) antisymmetric, s(i beats j).
        beta: weight of the KL term, > 0.

    Returns:
        (..., K) log-probabilities of pi_{t+1}. The average over iterations approaches the Nash policy; the last one
        may go around it for ever.
    """
    against = (scores @ logps.exp().unsqueeze(-1)).squeeze(-1)
    return torch.log_softmax(logps + against / beta, dim=-1)


def gpo_targets(
    scores: torch.Tensor,
    beta: float = 1e-3,
    *,
    baseline: Literal["exact", "none"] = "none",
    weights: torch.Tensor | None = None,
    scale: float = 1.0,
    clamp: float | None = 1000.0,
) -> torch.Tensor:
    """What the log-ratio log pi(y|x) - log pi_t(y|x) of each of K sampled completions should become.

    (s_hat_i - b) / beta with s_hat_i = scale * sum_j w_j s(i beats j).

    Args:
        scores: (..., K, K) antisymmetric: logits s / tau of a preference model.
        beta: 1e-3 in the paper.
        baseline: `exact` is b = beta log sum_j w_j exp(s_hat_j / beta), the normalizer of the update; `none` is b = 0,
            as published (s_hat sums to 0), which is near where s_hat is small beside beta.
        weights: (..., K) probabilities w under pi_t. Default 1/K, for completions sampled from it.
        scale: of the scores; the published pipeline takes s(i, j) - s(j, i), which is scale 2.
        clamp: bound on the absolute value of a target; None for no bound.

    Returns:
        (..., K) targets, detached.
    """
    scores = scores.detach() * scale
    size = scores.shape[-1]
    w = torch.full(scores.shape[:-1], 1 / size, dtype=scores.dtype) if weights is None else weights.detach()
    against = (scores @ w.unsqueeze(-1).to(scores)).squeeze(-1) / beta
    if baseline == "exact":
        against = against - torch.logsumexp(against + w.to(scores).log(), dim=-1, keepdim=True)
    elif baseline != "none":
        raise ValueError(f"baseline must be 'exact' or 'none', not {baseline!r}")
    return against if clamp is None else against.clamp(-clamp, clamp)


def gpo_loss(logps: torch.Tensor, ref_logps: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(log pi(y|x) - log pi_t(y|x) - target)^2, elementwise.

    Args:
        logps: (...) summed log-probabilities of completions under the policy.
        ref_logps: (...) the same under pi_t.
        targets: (...) from `gpo_targets`.
    """
    return (logps - ref_logps.detach() - targets.detach()).square()


def best_and_worst(win_scores: torch.Tensor) -> torch.Tensor:
    """Indices (..., 2) of the best and the worst of K completions (..., K): the two that an iteration trains on."""
    return torch.stack([win_scores.argmax(-1), win_scores.argmin(-1)], dim=-1)
