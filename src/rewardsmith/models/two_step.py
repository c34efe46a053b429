"""Preference in two steps: first the context, then the answer in it (paper 52, Pitis et al. 2024).

P(a > b | x) = sum_z p(z | x, user) P(a > b | x, z) over a finite list of contexts z, with any preference model that
reads contexts (a reward model or a judge), and p(z | user) by Bayes' rule from the user's own choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rewardsmith.data.contexts import TEMPLATE, insert_context
from rewardsmith.data.records import Text
from rewardsmith.reward import PreferenceModel

Prior = Sequence[float] | np.ndarray | Callable[[Sequence[Text]], np.ndarray]


def log_sigmoid(logits: np.ndarray) -> np.ndarray:
    """log P of a logit, without overflow."""
    return -np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64))


def vote_logits(logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) logit of sum_z w_z sigmoid(l_z), from logits (Z, B) and weights (Z,) or (Z, B) of sum 1."""
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights).reshape(len(weights), -1)
    won, lost = log_weights + log_sigmoid(logits), log_weights + log_sigmoid(-logits)
    return np.logaddexp.reduce(won, axis=0) - np.logaddexp.reduce(lost, axis=0)


def context_posterior(prior: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """(Z,) P(z | choices), proportional to p(z) prod_n sigmoid(l_zn).

    Args:
        prior: (Z,).
        logits: (Z, N) that in context z what the user chose beats what she rejected; a column with a NaN says nothing.
    """
    logits = np.asarray(logits, dtype=np.float64)
    logits = logits[:, ~np.isnan(logits).any(0)]
    with np.errstate(divide="ignore"):
        log_p = np.log(np.asarray(prior, dtype=np.float64)) + log_sigmoid(logits).sum(1)
    p = np.exp(log_p - log_p.max())
    return p / p.sum()


class TwoStep(PreferenceModel):
    """See the module.

    Args:
        model: reads contexts, in the prompt (networks) or as a column `context` (judges, `ContextHead`).
        contexts: the finite list.
        prior: p(z), (Z,), or a function of B prompts to (B, Z). Default: uniform.
        aggregate: `vote` averages probabilities (who would choose what), `utility` averages logits, that is rewards.
        place: where the model reads the context, `prompt` or `column`.
        template: of the context in the prompt.
    """

    def __init__(
        self,
        model: PreferenceModel,
        contexts: Sequence[str],
        prior: Prior | None = None,
        *,
        aggregate: Literal["vote", "utility"] = "vote",
        place: Literal["prompt", "column"] = "prompt",
        template: str = TEMPLATE,
    ) -> None:
        if aggregate not in ("vote", "utility"):
            raise ValueError(f"aggregate must be 'vote' or 'utility', not {aggregate!r}")
        if place not in ("prompt", "column"):
            raise ValueError(f"place must be 'prompt' or 'column', not {place!r}")
        if not contexts:
            raise ValueError("there must be at least one context")
        self.model, self.contexts = model, list(contexts)
        uniform = np.full(len(self.contexts), 1 / len(self.contexts))
        self.prior: Any = uniform if prior is None else prior
        if not callable(self.prior):
            self.prior = self._checked(self.prior, (len(self.contexts),))
        self.aggregate, self.place, self.template = aggregate, place, template
        self.__name__ = f"two_step({model.__name__})"

    def _checked(self, prior: Any, shape: tuple[int, ...]) -> np.ndarray:
        prior = np.asarray(prior, dtype=np.float64)
        if prior.shape != shape:
            raise ValueError(f"the prior has shape {prior.shape}, not {shape}: one number per context")
        if not np.isfinite(prior).all() or (prior < 0).any() or (np.abs(prior.sum(-1) - 1) > 1e-6).any():
            raise ValueError("a prior must hold probabilities that sum to 1")
        return prior

    def given(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], **columns: Any) -> np.ndarray:
        """(Z, B) logits that `a[i]` beats `b[i]` in each context."""
        count, times = len(prompts), len(self.contexts)
        contexts = [context for context in self.contexts for _ in range(count)]
        asked = {name: list(column) * times for name, column in columns.items() if name != "context"}
        every = list(prompts) * times
        if self.place == "prompt":
            every = [insert_context(prompt, context, self.template) for prompt, context in zip(every, contexts)]
        else:
            asked["context"] = contexts
        logits = self.model.preference(every, list(a) * times, list(b) * times, **asked)
        return np.asarray(logits, dtype=np.float64).reshape(times, count)

    def preference(self, prompts: Sequence[Text], a: Sequence[Text], b: Sequence[Text], **columns: Any) -> np.ndarray:
        """(B,) logit that `a[i]` beats `b[i]`, NaN where the model has none in some context."""
        weights = self.prior
        if callable(weights):
            weights = self._checked(weights(prompts), (len(prompts), len(self.contexts))).T
        logits = self.given(prompts, a, b, **columns)
        if self.aggregate == "vote":
            return vote_logits(logits, weights)
        return (weights.reshape(len(self.contexts), -1) * logits).sum(0)

    def posterior(self, history: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """(Z,) P(z | choices) of one user, from rows with `prompt`, `chosen`, `rejected`; the prior where there are
        none.

        Raises:
            ValueError: where the prior is a function of the prompt.
        """
        if callable(self.prior):
            raise ValueError("the prior depends on the prompt: a user's contexts need one that does not")
        if not history:
            return self.prior
        prompts = [row.get("prompt", "") for row in history]
        logits = self.given(prompts, [row["chosen"] for row in history], [row["rejected"] for row in history])
        return context_posterior(self.prior, logits)

    def for_user(self, history: Sequence[Mapping[str, Any]]) -> TwoStep:
        """The same model for one user, whose choices say which context is hers."""
        return TwoStep(
            self.model, self.contexts, self.posterior(history),
            aggregate=self.aggregate, place=self.place, template=self.template,
        )  # fmt: skip
