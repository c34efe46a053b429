"""A small exact world: N candidate answers to each of P prompts, with a known gold reward and a proxy to be hacked.

A policy is a distribution over the candidates, so the optimum of a reward under a KL penalty is known in closed form,
pi ∝ pi_ref exp(u / beta), and so is its distance from the start. Candidates have texts, so any `Reward` scores them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from rewardsmith.data.records import Batch, as_columns
from rewardsmith.reward import Failure, Reward, Scores


@dataclass(frozen=True)
class Candidates:
    """P prompts with N candidates each.

    Attributes:
        prompts: P texts.
        texts: P lists of N texts, all different.
    """

    prompts: list[str]
    texts: list[list[str]]

    @classmethod
    def make(cls, prompts: int, candidates: int) -> Candidates:
        """Texts that say no more than which prompt and which candidate they are."""
        return cls(
            [f"question {p}" for p in range(prompts)],
            [[f"answer {c} to question {p}" for c in range(candidates)] for p in range(prompts)],
        )

    def scores(self, reward: Reward, **columns: list) -> np.ndarray:
        """(P, N) scores of all candidates by a reward; `columns` have one entry per prompt."""
        return np.stack(reward.score_candidates(self.prompts, self.texts, **columns))


class TableReward(Reward):
    """The reward of each candidate, from a table: the known truth, or a proxy for it.

    Args:
        candidates: the world.
        values: (P, N).
        name: under which it is logged.
    """

    def __init__(self, candidates: Candidates, values: np.ndarray, name: str) -> None:
        self._values = dict(zip((text for group in candidates.texts for text in group), values.ravel().tolist()))
        self.__name__ = name

    def score(self, batch: Batch) -> Scores:
        texts = as_columns(batch)["completion"]
        values = np.array([self._values.get(text, np.nan) for text in texts])
        unknown = {
            i: Failure("unknown", "not a candidate of this world") for i in np.flatnonzero(np.isnan(values)).tolist()
        }
        return Scores(values, failures=unknown)


def hacked_rewards(
    rng: np.random.Generator,
    prompts: int,
    candidates: int,
    *,
    share: float = 0.05,
    proxy: float = 4.0,
    gold: float = -2.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gold ~ N(0, 1), and a proxy that equals it but for hacks, which it takes for very good.

    Args:
        share: of candidates that are hacks.
        proxy: mean of their proxy reward (standard deviation 1).
        gold: their gold reward.

    Returns:
        gold (P, N), proxy (P, N), and which candidates are hacks (P, N).
    """
    truth = rng.standard_normal((prompts, candidates))
    hacks = rng.random((prompts, candidates)) < share
    seen = np.where(hacks, rng.normal(proxy, 1.0, truth.shape), truth)
    return np.where(hacks, gold, truth), seen, hacks


def tilt(utility: np.ndarray, beta: float) -> np.ndarray:
    """The optimum of E[u] - beta KL(pi || uniform): (P, N) probabilities, proportional to exp(u / beta) in each row."""
    logits = utility / beta
    return np.exp(logits - logsumexp(logits, axis=1, keepdims=True))


def kl_from_uniform(policy: np.ndarray) -> float:
    """Mean over the prompts of KL(pi || uniform), nats, for (P, N) probabilities."""
    logs = np.log(policy, out=np.zeros_like(policy), where=policy > 0)
    return float((policy * logs).sum(axis=1).mean() + np.log(policy.shape[1]))


def tilt_to_kl(utility: np.ndarray, kl: float) -> np.ndarray:
    """The tilted policy (P, N) whose mean KL from uniform is `kl` nats, found by bisection on log beta.

    Raises:
        ValueError: where no beta gives it: the largest KL of a row is log N, less where its best candidates tie.
    """
    low, high = -12.0, 12.0  # of log beta, in units of the utility's spread
    scale = float(np.std(utility)) or 1.0
    if not 0 < kl < kl_from_uniform(tilt(utility, scale * np.exp(low))):
        raise ValueError(f"a mean KL of {kl:g} nats cannot be reached with {utility.shape[1]} candidates")
    for _ in range(60):
        middle = (low + high) / 2
        if kl_from_uniform(tilt(utility, scale * np.exp(middle))) > kl:
            low = middle
        else:
            high = middle
    return tilt(utility, scale * np.exp(high))
