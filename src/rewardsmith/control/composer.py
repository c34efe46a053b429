"""Sums, products and other combinations of transition rewards, each term under its own name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from rewardsmith.control.transitions import TransitionReward, Transitions
from rewardsmith.reward import Failure, Scores, Weight

Operation = Literal["sum", "product"] | Callable[[np.ndarray], np.ndarray]


class Composer(TransitionReward):
    """Named terms, weighted and combined. Made by `a + b`, `0.5 * a`, `a * b`, or directly.

    A row that a term failed to score is NaN, with the term named in the failure. `Scores.parts` holds every term
    under its name, without its weight, and the term's own parts as `name/part`.

    Args:
        terms: name -> reward.
        weights: name -> number, or a function of the training step; 1 where a term has none.
        op: `sum`, `product`, or a function of the weighted terms (K, N) -> (N,).
        bias: added in the end.

    Raises:
        ValueError: where there are no terms, a weight has no term, or `op` is unknown.
        TypeError: where a term is no `TransitionReward`.
    """

    def __init__(
        self,
        terms: Mapping[str, TransitionReward],
        weights: Mapping[str, Weight] | None = None,
        *,
        op: Operation = "sum",
        bias: float = 0.0,
        name: str | None = None,
    ) -> None:
        self.terms = dict(terms)
        self.weights: dict[str, Weight] = {**dict.fromkeys(self.terms, 1.0), **(weights or {})}
        if not self.terms:
            raise ValueError("there must be at least one term")
        for term, reward in self.terms.items():
            if not isinstance(reward, TransitionReward):
                raise TypeError(f"term {term!r} is a {type(reward).__name__}; wrap it with from_transition_function")
        if unknown := self.weights.keys() - self.terms.keys():
            raise ValueError(f"there are weights {sorted(unknown)} but only the terms {list(self.terms)}")
        if op not in ("sum", "product") and not callable(op):
            raise ValueError(f"op must be 'sum', 'product' or a function of the terms (K, N), not {op!r}")
        self.op, self.bias = op, float(bias)
        self.needs = tuple(dict.fromkeys(key for reward in self.terms.values() for key in reward.needs))
        self.__name__ = name or (" * " if op == "product" else " + ").join(self.terms)

    @classmethod
    def plus(cls, left: TransitionReward | float, right: TransitionReward | float) -> Composer:
        """left + right; sums within are merged, equal names numbered."""
        terms: dict[str, TransitionReward] = {}
        weights: dict[str, Weight] = {}
        bias = 0.0
        for side in (left, right):
            if isinstance(side, int | float):
                bias += side
            elif isinstance(side, Composer) and side.op == "sum":
                bias += side.bias
                for name, reward in side.terms.items():
                    weights[_put(terms, name, reward)] = side.weights[name]
            elif isinstance(side, TransitionReward):
                _put(terms, side.__name__, side)
            else:
                return NotImplemented
        return cls(terms, weights, bias=bias)

    @classmethod
    def times(cls, left: TransitionReward, right: TransitionReward | Weight) -> Composer:
        """left * right: a number or a function of the step weighs, a reward multiplies."""
        terms: dict[str, TransitionReward] = {}
        if isinstance(right, TransitionReward):
            for side in (left, right):
                _put(terms, side.__name__, side)
            return cls(terms, op="product")
        if isinstance(right, int | float) and isinstance(left, Composer) and left.op == "sum":
            fixed = {name: weight * right for name, weight in left.weights.items() if not callable(weight)}
            if len(fixed) == len(left.terms):
                return cls(left.terms, fixed, bias=left.bias * right)
        if not isinstance(right, int | float) and not callable(right):
            return NotImplemented
        return cls({left.__name__: left}, {left.__name__: right})

    def reset(self, env: Iterable[int] | None = None) -> None:
        env = None if env is None else list(env)
        for reward in self.terms.values():
            reward.reset(env)

    def set_step(self, step: int) -> None:
        self.step = step
        for reward in self.terms.values():
            reward.set_step(step)

    def current_weights(self) -> dict[str, float]:
        """The weight of each term at the present training step."""
        return {name: float(w(self.step) if callable(w) else w) for name, w in self.weights.items()}

    def score(self, transitions: Transitions) -> Scores:
        scored = {name: reward.score(transitions) for name, reward in self.terms.items()}
        weights = self.current_weights()
        weighted = np.stack([weights[name] * s.values for name, s in scored.items()])  # (K, N)
        if callable(self.op):
            values = self.op(weighted)
        else:
            values = weighted.sum(axis=0) if self.op == "sum" else weighted.prod(axis=0)
        parts: dict[str, np.ndarray] = {}
        failures: dict[int, Failure] = {}
        for name, s in scored.items():
            parts[name] = s.values
            parts.update({f"{name}/{key}": part for key, part in s.parts.items()})
            for row, failure in s.failures.items():
                failures.setdefault(row, replace(failure, reason=f"{name}: {failure.reason}"))
        return Scores(values + self.bias, parts=parts, failures=failures)


def _put(terms: dict[str, Any], name: str, reward: TransitionReward) -> str:
    """Add a reward under its name, or where that is taken under the next free number; returns the name."""
    free, number = name, 1
    while free in terms:
        number += 1
        free = f"{name}_{number}"
    terms[free] = reward
    return free
