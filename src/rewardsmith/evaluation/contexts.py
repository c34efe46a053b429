"""Whether a preference model uses the context that it is given (paper 52, Pitis et al. 2024).

On reversals, two answers of which either is better in some context, a model that ignores contexts is right exactly half
of the time, and never in both. `context_error_bound` splits the error of a two-step prediction into that of the context
and that of the judgment in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rewardsmith.data.contexts import TEMPLATE, insert_context, reversals, split_context
from rewardsmith.data.records import as_columns, text_key
from rewardsmith.evaluation.intervals import Estimate, bootstrap_mean, cluster_index
from rewardsmith.evaluation.metrics import correctness
from rewardsmith.evaluation.plain import to_plain
from rewardsmith.reward import PreferenceModel


@dataclass(frozen=True)
class ContextError:
    """A bound on the error of p_hat = sum_z p_hat(z) q_hat(z) for p = sum_z p(z) q(z).

    Attributes:
        judgment: sum_z p(z) |q(z) - q_hat(z)|.
        context: total variation of p(z) and p_hat(z).
        bound: their sum.
        error: |p - p_hat|, at most `bound`.
    """

    judgment: float
    context: float
    bound: float
    error: float


def context_error_bound(p: Any, p_hat: Any, q: Any, q_hat: Any) -> ContextError:
    """Split the error of a preference predicted in two steps, over Z contexts.

    p - p_hat = sum_z p(z) (q(z) - q_hat(z)) + sum_z (p(z) - p_hat(z)) q_hat(z), and q_hat lies in [0, 1].

    Args:
        p: (Z,) probabilities of the contexts.
        p_hat: (Z,) the predicted ones.
        q: (Z,) probability in each context that the first answer wins.
        q_hat: (Z,) the predicted ones.

    Raises:
        ValueError: where these are no probabilities, or differ in number.
    """
    given = {"p": p, "p_hat": p_hat, "q": q, "q_hat": q_hat}
    arrays = {name: np.asarray(value, dtype=np.float64) for name, value in given.items()}
    for name, array in arrays.items():
        if array.ndim != 1 or array.shape != arrays["p"].shape:
            raise ValueError(f"{name} must have shape (Z,) as p has, got {array.shape}")
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError(f"{name} must hold probabilities in [0, 1]")
        if name.startswith("p") and abs(array.sum() - 1) > 1e-6:
            raise ValueError(f"{name} must sum to 1, not {array.sum():g}")
    p, p_hat, q, q_hat = arrays.values()
    judgment, context = float(p @ np.abs(q - q_hat)), float(np.abs(p - p_hat).sum() / 2)
    return ContextError(judgment, context, judgment + context, float(abs(p @ q - p_hat @ q_hat)))


@dataclass
class ContextEvaluation:
    """What a model makes of preferences in context. 95 % intervals, from a bootstrap over prompts.

    Attributes:
        accuracy: with each row's own context, ties counting half.
        without: with no context.
        other: with the context of another prompt's row.
        both_right: share of reversals of which both rows are right.
        flips: share of reversals whose verdict changes with the context.
        sensitivity: mean over reversals of |l(z_x) - l(z_y)|, l the logit that a beats b: how far a context moves it.
        rows: evaluated.
        reversals: pairs of rows among them.
        nan: rows without an answer in their own context.
    """

    accuracy: Estimate
    without: Estimate
    other: Estimate
    both_right: Estimate
    flips: Estimate
    sensitivity: Estimate
    rows: int
    reversals: int
    nan: int

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return to_plain(self)


def evaluate_contexts(
    model: PreferenceModel,
    data: Any,
    *,
    place: Literal["prompt", "column"] = "prompt",
    template: str = TEMPLATE,
    seed: int = 0,
    resamples: int = 1000,
) -> ContextEvaluation:
    """Evaluate a model on preferences with its context, without one, and with a wrong one.

    Args:
        model: a reward or preference model.
        data: rows with `prompt`, `chosen`, `rejected` and `context`, which may be in the prompt already.
        place: where the model reads the context, in the `prompt` or in the column `context` (None without one).
        template: of the context in the prompt.
        seed: of the wrong contexts and the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ValueError: where a column is missing, or there are no rows.
    """
    if place not in ("prompt", "column"):
        raise ValueError(f"place must be 'prompt' or 'column', not {place!r}")
    columns = as_columns(data)
    for name in ("prompt", "chosen", "rejected", "context"):
        if name not in columns:
            raise ValueError(f"no column {name!r}; there are {sorted(columns)}")
    if not columns["prompt"]:
        raise ValueError("there are no rows")
    bare = [split_context(prompt, template)[0] for prompt in columns["prompt"]]
    clusters = cluster_index([text_key(prompt) for prompt in bare], len(bare))
    named = ("prompt", "chosen", "rejected", "context", "completion")
    further = {name: values for name, values in columns.items() if name not in named}

    def logits(contexts: Sequence[str | None]) -> np.ndarray:
        prompts, asked = bare, dict(further)
        if place == "prompt":
            prompts = [insert_context(prompt, context, template) for prompt, context in zip(bare, contexts)]
        else:
            asked["context"] = list(contexts)
        found = model.preference(prompts, columns["chosen"], columns["rejected"], **asked)
        return np.asarray(found, dtype=np.float64)

    def mean(values: np.ndarray, groups: np.ndarray = clusters) -> Estimate:
        return bootstrap_mean(values, clusters=groups, resamples=resamples, seed=seed)

    own = logits(columns["context"])
    strange = _other_contexts(columns["context"], clusters, seed)
    pairs = np.array(reversals({**columns, "prompt": bare}, template), dtype=np.int64).reshape(-1, 2)
    x, y = own[pairs[:, 0]], own[pairs[:, 1]]
    known = np.where(np.isnan(x) | np.isnan(y), np.nan, 1.0)
    of_pairs = clusters[pairs[:, 0]]
    return ContextEvaluation(
        accuracy=mean(correctness(own)),
        without=mean(correctness(logits([None] * len(bare)))),
        other=mean(correctness(logits(strange))),
        both_right=mean(known * ((x > 0) & (y > 0)), of_pairs),
        flips=mean(known * (x * y > 0), of_pairs),  # both are logits of what was chosen there
        sensitivity=mean(np.abs(x + y), of_pairs),
        rows=len(own),
        reversals=len(pairs),
        nan=int(np.isnan(own).sum()),
    )


def _other_contexts(contexts: Sequence[Any], clusters: np.ndarray, seed: int) -> list[Any]:
    """For each row the context of a random row of another prompt; None where there is no other prompt."""
    rng = np.random.default_rng(seed)
    order = np.argsort(clusters, kind="stable")
    sizes = np.bincount(clusters)
    starts = np.cumsum(sizes) - sizes
    others = len(clusters) - sizes[clusters]
    picks = (rng.random(len(clusters)) * others).astype(np.int64)
    # The rows of a prompt's own block are jumped over.
    picks = np.where(picks >= starts[clusters], picks + sizes[clusters], picks)
    return [contexts[order[pick]] if other else None for pick, other in zip(picks, others)]
