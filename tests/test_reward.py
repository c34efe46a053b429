"""Rewards and preference models: invariants of scores, what a failure becomes, sums and products, TRL's signature."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.data.records import as_columns, as_text
from rewardsmith.functions import from_function
from rewardsmith.reward import (
    Combination,
    Failure,
    PreferenceModel,
    Reward,
    RewardError,
    Scores,
    called_batch,
    linear_schedule,
)

values_with_gaps = st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=12)


class Length(Reward):
    """Number of characters; fails on 'bad', and on 'inf' gives infinity. Says how often it was called."""

    __name__ = "length"

    def __init__(self) -> None:
        self.calls = 0

    def score(self, batch) -> Scores:
        self.calls += 1
        values, failures = [], {}
        for row, text in enumerate(map(as_text, as_columns(batch)["completion"])):
            values.append(math.inf if text == "inf" else float(len(text)))
            if text == "bad":
                failures[row] = Failure("error", "bad sample", 0.5)
        return Scores(np.array(values), failures=failures, latency=np.ones(len(values)))


def fixed(*numbers: float | None, name: str = "fixed", **options: Any) -> Reward:
    """A reward that gives these values, whatever it is asked."""
    return from_function(lambda completions: list(numbers), name=name, **options)


def batch(*completions: str, prompts: list[str] | None = None) -> dict:
    return {"prompt": prompts or ["p"] * len(completions), "completion": list(completions)}


# ---- Scores


@given(values_with_gaps)
def test_a_row_is_nan_exactly_where_it_failed(values: list[float | None]) -> None:
    scores = Scores(values)  # type: ignore[arg-type]
    assert set(scores.failures) == {i for i, v in enumerate(values) if v is None}
    assert scores.to_list() == values
    assert scores.ok.tolist() == [v is not None for v in values]
    assert len(scores) == len(values)


def test_infinity_and_named_failures_become_nan() -> None:
    given_values = np.array([1.0, np.inf, 0.0, -np.inf])
    scores = Scores(given_values, failures={2: Failure("timeout", "slow")})
    assert scores.to_list() == [1.0, None, None, None]
    assert [scores.failures[i].kind for i in (1, 2, 3)] == ["nonfinite", "timeout", "nonfinite"]
    assert given_values[2] == 0.0  # the caller's array is left alone
    with pytest.raises(ValueError, match=r"rows \[-1\] of 2"):
        Scores(np.zeros(2), failures={-1: Failure("empty", "nothing")})


@pytest.mark.parametrize("name", ["std", "latency", "steps", "step_ends", "tokens", "details"])
def test_columns_of_another_length_are_refused(name: str) -> None:
    column = np.zeros(3) if name in ("std", "latency") else [np.zeros(1)] * 3
    with pytest.raises(ValueError, match=f"{name} has 3 rows, values has 2"):
        Scores(np.zeros(2), **{name: column})
    with pytest.raises(ValueError, match="part 'x' has 1 rows"):
        Scores(np.zeros(2), parts={"x": np.zeros(1)})
    with pytest.raises(ValueError, match=r"shape \(B,\)"):
        Scores(np.zeros((2, 2)))


@given(values_with_gaps, st.data())
def test_take_picks_rows_of_every_field(values: list[float | None], data: st.DataObject) -> None:
    n = len(values)
    rows = data.draw(st.lists(st.integers(0, n - 1), max_size=15))
    scores = Scores(
        values,  # type: ignore[arg-type]
        std=np.arange(n),
        steps=[np.arange(i) for i in range(n)],
        step_ends=[np.arange(i) + 1 for i in range(n)],
        tokens=[np.full(2, i) for i in range(n)],
        parts={"a": np.arange(n) * 10.0},
        details=[{"row": i} for i in range(n)],
        latency=np.arange(n) / 2,
    )
    taken = scores.take(rows)
    assert taken.to_list() == [values[i] for i in rows]
    assert taken.std.tolist() == rows
    assert [len(s) for s in taken.steps] == [len(s) for s in taken.step_ends] == rows
    assert [int(t[0]) for t in taken.tokens] == rows
    assert taken.parts["a"].tolist() == [10.0 * i for i in rows]
    assert [d["row"] for d in taken.details] == rows
    assert taken.latency.tolist() == [i / 2 for i in rows]
    assert set(taken.failures) == {new for new, old in enumerate(rows) if values[old] is None}


def test_take_leaves_absent_fields_absent() -> None:
    taken = Scores(np.arange(3.0)).take(np.array([2, 0]))
    assert taken.values.tolist() == [2.0, 0.0]
    assert (taken.std, taken.steps, taken.tokens, taken.details, taken.latency) == (None,) * 5


# ---- what a failure becomes


def test_drop_keeps_nan_and_raise_names_the_first_row() -> None:
    scores = Scores(np.array([1.0, np.nan, np.nan]), failures={2: Failure("timeout", "slow")})
    assert scores.resolve("drop") is scores
    with pytest.raises(RewardError, match=r"row 1: nonfinite: .*\(2 of 3 failed\)"):
        scores.resolve("raise")
    fine = Scores(np.array([1.0]))
    assert fine.resolve("raise") is fine
    with pytest.raises(ValueError, match="'drop', 'group_mean' or 'raise'"):
        scores.resolve("zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs groups"):
        scores.resolve("group_mean")


def test_group_mean_is_that_of_the_groups_other_samples() -> None:
    scores = Scores(np.array([1.0, np.nan, 3.0, np.nan, 7.0, np.nan]))
    filled = scores.resolve("group_mean", ["a", "a", "a", "b", "c", "c\0"])
    assert filled.to_list() == [1.0, 2.0, 3.0, None, 7.0, None]  # all of b failed; c\0 is not c
    assert set(filled.failures) == {3, 5}
    assert set(scores.failures) == {1, 3, 5}  # the original is left alone


@given(
    st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.floats(-100, 100))), min_size=1, max_size=20),
)
def test_group_mean_does_not_move_the_mean_of_a_group(rows: list[tuple[int, float | None]]) -> None:
    groups = [g for g, _ in rows]
    filled = Scores([v for _, v in rows]).resolve("group_mean", groups)  # type: ignore[arg-type]
    for group in set(groups):
        known = [v for g, v in rows if g == group and v is not None]
        after = filled.values[[g == group for g in groups]]
        if known:
            np.testing.assert_allclose(after, [v if v is not None else np.mean(known) for g, v in rows if g == group])
        else:
            assert np.isnan(after).all()


def test_the_policy_of_a_reward_reads_groups_from_the_prompts() -> None:
    reward = Length()
    prompts = ["p", "p", "q", "q"]
    texts = ["abcd", "bad", "bad", "bad"]
    assert reward(prompts, texts) == [4.0, None, None, None]
    reward.on_failure = "group_mean"
    assert reward(prompts, texts) == [4.0, 4.0, None, None]
    messages = [[{"role": "user", "content": "p"}], [{"content": "p", "role": "user"}]]  # one prompt
    assert reward(messages, ["abcd", "bad"]) == [4.0, 4.0]
    # The policy also holds for rows instead of columns, and needs the prompts.
    rows = [{"prompt": p, "completion": c} for p, c in zip(prompts, texts)]
    assert reward.resolved(rows).to_list() == [4.0, 4.0, None, None]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs groups"):
        reward.resolved({"completion": ["bad"]})
    reward.on_failure = "raise"
    with pytest.raises(RewardError, match="row 1: error: bad sample"):
        reward(prompts, texts)


# ---- sums and products


@given(st.floats(-10, 10), st.floats(-10, 10), st.lists(st.floats(-100, 100), min_size=1, max_size=5))
def test_the_algebra_of_sums(w: float, c: float, numbers: list[float]) -> None:
    a, b = fixed(*numbers, name="a"), fixed(*[x * x for x in numbers], name="b")
    x = np.array(numbers)
    rows = batch(*["t"] * len(numbers))

    def close(reward: Reward, expected: np.ndarray) -> None:
        np.testing.assert_allclose(reward.score(rows).values, expected, rtol=1e-9, atol=1e-9)

    close(a + b, x + x**2)
    close(a - b, x - x**2)
    close(w * a + c, w * x + c)
    close(c - a * w, c - w * x)
    close(a - c, x - c)
    close(-(a + b), -(x + x**2))
    close(w * (a + w * b) + c, w * (x + w * x**2) + c)
    close((a + b) / 2, (x + x**2) / 2)
    close(sum([a, b, a]), 2 * x + x**2)  # type: ignore[arg-type]
    close(a * b, x**3)
    close(w * (a * b), w * x**3)
    close((2 * a) * (b + 1), 2 * x * (x**2 + 1))


def test_a_nested_sum_is_flat_and_each_component_is_scored_once() -> None:
    length = Length()
    total = 2.0 * (length + 0.5 * fixed(1.0, 2.0, name="rule")) - 3
    assert isinstance(total, Combination)
    assert [r.__name__ for r in total.rewards] == ["length", "rule"]
    assert (total.weights, total.bias) == ([2.0, 1.0], -3.0)
    assert total.__name__ == "length + rule"
    scores = total.score(batch("ab", "abc"))
    assert scores.values.tolist() == [2.0, 5.0]
    assert length.calls == 1
    # Components are kept before weights.
    assert {k: v.tolist() for k, v in scores.parts.items()} == {"length": [2.0, 3.0], "rule": [1.0, 2.0]}


def test_names_of_components_are_unique_and_nested_parts_are_kept() -> None:
    graded = from_function(lambda completion: {"score": 1.0, "tone": 2.0}, name="graded")
    total = Length() + Length() + graded + graded * Length()
    scores = total.score(batch("abc"))
    assert set(scores.parts) == {
        "length", "length_2", "graded", "graded/tone",
        "graded * length", "graded * length/graded", "graded * length/graded/tone", "graded * length/length",
    }  # fmt: skip
    assert total.names == ["length", "length_2", "graded", "graded * length"]
    assert scores.values.tolist() == [3.0 + 3.0 + 1.0 + 3.0]


@pytest.mark.parametrize("op", ["sum", "product"])
def test_a_failed_component_fails_the_sample_and_is_named(op: str) -> None:
    total = Combination([fixed(1.0, 1.0, 1.0, name="one"), Length()], op=op)  # type: ignore[arg-type]
    scores = total.score(batch("abc", "bad", "inf"))
    assert scores.to_list() == [4.0 if op == "sum" else 3.0, None, None]
    assert scores.failures[1] == Failure("error", "length: bad sample", 0.5)
    assert scores.failures[2].kind == "nonfinite"
    assert scores.parts["one"].tolist() == [1.0, 1.0, 1.0]
    # Even a weight of 0 does not turn a failure into a score.
    assert (0.0 * Length() + 1).score(batch("bad")).to_list() == [None]


def test_a_component_may_impute_its_own_failures() -> None:
    length = Length()
    length.on_failure = "group_mean"
    scores = (length + 1).score(batch("abcd", "bad", "bad", prompts=["p", "p", "q"]))
    assert scores.to_list() == [5.0, 5.0, None]


def test_a_schedule_follows_the_training_step() -> None:
    fade = linear_schedule(1.0, 0.0, 10)
    assert [fade(s) for s in (-5, 0, 5, 10, 99)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    total = fixed(1.0, name="a") + 2.0 * (fade * fixed(10.0, name="b"))
    values = []
    for step in (0, 5, 10):
        total.set_step(step)
        values.append(total.score(batch("x")).values[0])
    assert values == [21.0, 11.0, 1.0]
    nested = (fade * Length()) * fixed(1.0)
    nested.set_step(5)
    assert nested.score(batch("abcd")).values[0] == 2.0
    with pytest.raises(ValueError, match="positive"):
        linear_schedule(0, 1, 0)


def test_combinations_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Combination([])
    with pytest.raises(ValueError, match="2 rewards but 1 weights"):
        Combination([Length(), Length()], [1.0])
    with pytest.raises(TypeError, match="component 1 is a function"):
        Combination([Length(), as_text])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="'sum' or 'product'"):
        Combination([Length()], op="mean")  # type: ignore[arg-type]
    for wrong in (lambda: Length() + "x", lambda: Length() * "x", lambda: "x" * Length()):
        with pytest.raises(TypeError):
            wrong()


def test_a_combination_survives_pickling() -> None:
    total = Length() * linear_schedule(0.0, 2.0, 4) + 0.5 * (Length() * Length()) - 1
    total.set_step(2)
    copy = pickle.loads(pickle.dumps(total.named("mine")))
    assert copy.__name__ == "mine"
    assert copy(["p"], ["abcd"]) == total(["p"], ["abcd"]) == [4.0 + 8.0 - 1.0]


# ---- TRL's signature


class State:
    global_step = 5


def test_the_call_takes_what_trl_passes() -> None:
    seen: dict[str, Any] = {}
    metrics: dict[str, float] = {}

    class Keep(Length):
        def score(self, given) -> Scores:
            seen.update(given)
            return super().score(given)

    reward = Keep() + linear_schedule(0.0, 10.0, 10) * fixed(1.0, 1.0, None, name="rule")
    out = reward.named("total")(
        prompts=["p", "q", "q"],
        completions=["ab", "bad", "abc"],
        completion_ids=[[1], [2], [3]],
        answer=["x", "y", "z"],
        trainer_state=State(),
        log_metric=metrics.__setitem__,
        log_extra=lambda column, values: None,
        environments=None,
        something_new=object(),  # a later TRL may pass more
    )
    assert out == [2.0 + 5.0, None, None]
    assert set(seen) == {"prompt", "completion", "completion_ids", "answer"}
    assert seen["answer"] == ["x", "y", "z"]
    assert metrics == {"total/length": 2.5, "total/rule": 1.0, "total/failed": pytest.approx(2 / 3)}


def test_text_and_messages_are_both_prompts() -> None:
    user, assistant = [{"role": "user", "content": "p"}], [{"role": "assistant", "content": "four"}]
    assert Length()(["p"], ["four"]) == Length()([user], [assistant]) == [4.0]
    assert Length()([], []) == []


def test_the_batch_behind_a_call() -> None:
    made = called_batch(["p", "q"], ("a", "b"), ids=np.array([1, 2]), flag=True, missing=None)
    assert made == {"ids": [1, 2], "prompt": ["p", "q"], "completion": ["a", "b"]}
    with pytest.raises(ValueError, match="2 prompts but 1 completions"):
        Length()(["p", "q"], ["a"])
    with pytest.raises(ValueError, match="column 'answer' has 1 values for 2 completions"):
        Length()(["p", "q"], ["a", "b"], answer=["x"])


# ---- preferences


class Cycle(PreferenceModel):
    """Rock, paper, scissors: no scalar reward has these preferences."""

    def __init__(self) -> None:
        self.pairs = 0

    def preference(self, prompts, a, b, **columns):
        self.pairs += len(a)
        beats = {("r", "s"), ("s", "p"), ("p", "r")}
        return np.array([0.0 if x == y else (1.0 if (x, y) in beats else -1.0) for x, y in zip(a, b)])


words = st.sampled_from(["", "a", "bb", "ccc", "bad", "inf", "dddd"])


@given(st.lists(st.tuples(words, words), min_size=1, max_size=6))
def test_a_rewards_preference_is_antisymmetric_and_consistent_with_its_scores(pairs: list[tuple[str, str]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    prompts = ["p"] * len(pairs)
    reward = Length()
    logits = reward.preference(prompts, a, b, user=list(range(len(pairs))))
    np.testing.assert_array_equal(logits, -reward.preference(prompts, b, a))
    np.testing.assert_array_equal(logits, reward.score(batch(*a)).values - reward.score(batch(*b)).values)
    assert np.isnan(logits).tolist() == [bool({x, y} & {"bad", "inf"}) for x, y in pairs]


@given(st.lists(st.lists(words, max_size=4), max_size=4))
def test_a_rewards_matrix_is_the_generic_one(groups: list[list[str]]) -> None:
    prompts = [f"p{i}" for i in range(len(groups))]
    fast = Length().preference_matrix(prompts, groups)
    generic = PreferenceModel.preference_matrix(Length(), prompts, groups)
    assert len(fast) == len(generic) == len(groups)
    for one, other, group in zip(fast, generic, groups):
        off = ~np.eye(len(group), dtype=bool)
        assert one.shape == other.shape == (len(group), len(group))
        np.testing.assert_array_equal(one[off], other[off])
        np.testing.assert_array_equal(one, -one.T)


def test_columns_follow_their_prompt_into_the_candidates() -> None:
    def by_user(completion: str, user: str) -> float:
        return {"ann": 1.0, "bob": -1.0}[user] * len(completion)

    reward = from_function(by_user)
    scores = reward.score_candidates(["p", "q"], [["a", "bb"], ["ccc"]], user=["ann", "bob"])
    assert [s.tolist() for s in scores] == [[1.0, 2.0], [-3.0]]
    assert reward.preference(["p", "q"], ["aa", "aa"], ["b", "b"], user=["ann", "bob"]).tolist() == [1.0, -1.0]
    assert reward.score_candidates([], []) == []


def test_a_cyclic_model_has_a_matrix_and_no_winner() -> None:
    model = Cycle()
    matrix, single = model.preference_matrix(["p", "q"], [["r", "p", "s"], ["r"]])
    np.testing.assert_array_equal(matrix, [[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    assert single.tolist() == [[0.0]]
    assert model.pairs == 3  # each pair once
    assert [s.tolist() for s in model.win_scores(["p", "q"], [["r", "p", "s"], ["r"]])] == [[0.0, 0.0, 0.0], [0.0]]
    assert model.preference_matrix(["p"], [["r"]])[0].shape == (1, 1)


def test_win_scores_leave_failed_candidates_out() -> None:
    scores = Length().win_scores(["p"], [["a", "bad", "aaa"]])[0]
    np.testing.assert_array_equal(scores, [-2.0, np.nan, 2.0])
