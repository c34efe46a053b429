"""Votes to a decision, as pure functions of the scores of V samples: (..., V, n), NaN where one was unparsed.

Summing scores over samples (Liu et al. 2025, "Inference-Time Scaling for Generalist Reward Modeling") keeps how much
better each sample found a response; a majority keeps only who won. A meta reward says which samples may vote.
"""

from __future__ import annotations

import numpy as np


def sum_votes(scores: np.ndarray) -> np.ndarray:
    """(..., n) sums over the votes that were parsed; NaN where none was.

    Samples (6, 5), (4, 8), (7, 6) sum to (17, 19): the second wins, though two of three prefer the first.
    """
    known = ~np.isnan(scores).any(-1, keepdims=True)
    total = np.where(known, np.nan_to_num(scores), 0.0).sum(-2)
    return np.where(known.any(-2), total, np.nan)


def majority_votes(scores: np.ndarray) -> np.ndarray:
    """(..., n) how many votes have the response as their best; a tie at the top counts in equal parts."""
    known = ~np.isnan(scores).any(-1, keepdims=True)
    filled = np.where(known, np.nan_to_num(scores), 0.0)
    best = (filled == filled.max(-1, keepdims=True)) & known
    share = best / np.maximum(best.sum(-1, keepdims=True), 1)
    return np.where(known.any(-2), share.sum(-2), np.nan)


def keep_votes(scores: np.ndarray, trust: np.ndarray, k: int) -> np.ndarray:
    """The scores with all but the k most trusted votes set to NaN (meta-guided voting).

    Args:
        scores: (..., V, n).
        trust: (..., V) what a meta reward says of each vote; one without a score is trusted least, an unparsed vote
            never before a parsed one. Of equals the earlier is kept.
        k: votes to keep, at least 1; V or more keeps all.

    Raises:
        ValueError: where k is below 1 or the shapes do not fit.
    """
    if k < 1:
        raise ValueError(f"at least one vote must be kept, got k_meta = {k}")
    if trust.shape != scores.shape[:-1]:
        raise ValueError(f"scores {scores.shape} need trust of shape {scores.shape[:-1]}, got {trust.shape}")
    value = np.where(np.isnan(trust), -np.finfo(np.float64).max, trust)
    value = np.where(np.isnan(scores).any(-1), -np.inf, value)
    rank = np.argsort(np.argsort(-value, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.where((rank < k)[..., None], scores, np.nan)


def winner(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(...) index of the largest of (..., n) values, one of the equal ones at random; -1 where all are NaN."""
    best = np.nan_to_num(values, nan=-np.inf)
    tied = best == best.max(-1, keepdims=True)
    pick = np.argmax(np.where(tied, rng.random(values.shape), -1.0), -1)
    return np.where(np.isnan(values).all(-1), -1, pick)


def share_logit(share: np.ndarray, votes: np.ndarray, smoothing: float = 0.5) -> np.ndarray:
    """Logit of a share of won votes, log (w + s) / (l + s): finite for a unanimous vote, and larger for more votes.

    Args:
        share: (B,) of votes won, ties counting half, in [0, 1].
        votes: (B,) how many there were; NaN comes out for none.
        smoothing: s > 0; 0.5 is the posterior mode of the logit under Jeffreys' prior.
    """
    if smoothing <= 0:
        raise ValueError(f"smoothing must be above 0, got {smoothing}")
    won = np.where(votes > 0, share, 0.5) * votes
    return np.where(votes > 0, np.log((won + smoothing) / (votes - won + smoothing)), np.nan)
