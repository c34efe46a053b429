"""The bound on the error of two steps, and what a scorer that ignores contexts gets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.evaluation.contexts import context_error_bound, evaluate_contexts
from rewardsmith.functions import from_function


def test_bound_by_hand():
    found = context_error_bound((0.5, 0.5), (0.8, 0.2), (0.9, 0.1), (0.7, 0.2))
    assert found.judgment == pytest.approx(0.15) and found.context == pytest.approx(0.30)
    assert found.bound == pytest.approx(0.45) and found.error == pytest.approx(0.10)
    same = context_error_bound((0.5, 0.5), (0.5, 0.5), (0.9, 0.1), (0.9, 0.1))
    assert same.bound == same.error == 0.0


@pytest.mark.parametrize(
    ("p", "q", "problem"), [((0.5, 0.4), (1, 0), "sum to 1"), ((1, 0), (2, 0), r"\[0, 1\]"), ((1,), (1, 0), "shape")]
)
def test_only_probabilities(p, q, problem):
    with pytest.raises(ValueError, match=problem):
        context_error_bound(p, p, q, q)


def test_bound_is_never_broken():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        size = rng.integers(1, 8)
        p, p_hat = rng.dirichlet(np.ones(size) * rng.choice([0.1, 1, 10]), 2)
        found = context_error_bound(p, p_hat, *rng.random((2, size)))
        assert found.error <= found.bound + 1e-12


def rows(count: int) -> list[dict]:
    out = []
    for i in range(count):
        a, b = f"answer {i}", f"another answer {i}"
        out += [
            {"prompt": f"q{i}", "chosen": a, "rejected": b, "context": "short"},
            {"prompt": f"q{i}", "chosen": b, "rejected": a, "context": "long"},
        ]
    return out


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=6))
def test_a_scorer_that_ignores_contexts_is_right_half_of_the_time(values):
    def ignores(prompts, completions, **columns):
        return [float(values[len(text) % len(values)]) for text in completions]

    found = evaluate_contexts(from_function(ignores), rows(7), resamples=10)
    assert found.accuracy.value == 0.5 and found.both_right.value == 0.0 and found.flips.value == 0.0
    assert found.sensitivity.value == 0.0 and found.reversals == 7 and found.rows == 14 and found.nan == 0


def reads(prompts, completions, **columns):
    """Longer is better in a long context, worse in a short one, and worse by half without one."""
    sign = [1.0 if "long]" in p else -1.0 if "short]" in p else -0.5 for p in prompts]
    return [s * len(text) for s, text in zip(sign, completions)]


def test_a_scorer_that_reads_them():
    found = evaluate_contexts(from_function(reads), rows(40), resamples=100)
    assert found.accuracy.value == found.both_right.value == found.flips.value == 1.0
    assert found.without.value == 0.5
    assert found.other.value == pytest.approx(0.5, abs=0.2)  # half of the other prompts' contexts are right by chance
    assert found.sensitivity.value == 16.0  # 8 characters, one way and the other
    assert found.accuracy.n == 80 and found.both_right.n == 40
    assert found.to_dict()["accuracy"]["value"] == 1.0


def test_contexts_in_the_column():
    def by_column(prompts, completions, context=None, **columns):
        return [(1.0 if c == "long" else -1.0) * len(t) if c else 0.0 for c, t in zip(context, completions)]

    found = evaluate_contexts(from_function(by_column), rows(5), place="column", resamples=10)
    assert found.accuracy.value == 1.0 and found.without.value == 0.5
    with pytest.raises(ValueError, match="no column 'context'"):
        evaluate_contexts(from_function(by_column), [{"prompt": "", "chosen": "a", "rejected": "b"}])
