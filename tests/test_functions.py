"""Rewards from functions: every shape, an exception costs its own sample, functions by path."""

from __future__ import annotations

import asyncio
import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rewardsmith.functions import FunctionReward, from_function, import_object
from rewardsmith.reward import RewardError

FILE = Path(__file__).with_name("function_rewards.py")
ROWS = {"prompt": ["p", "q", "p"], "completion": ["a", "bad", "ccc"], "answer": ["a", "b", "c"]}


def one(completion):
    return check(completion)


def with_columns(prompt, completion, answer):
    return check(completion) + (prompt == "p") * 10 + (answer == completion) * 100


def everything(completion, **columns):
    return check(completion) + len(columns)


def batched(prompts, completions, **columns):
    return [check(text) for text in completions]


def named_only(completions, answer):
    return np.array([float(a == c) for a, c in zip(answer, completions)], dtype=np.float32)


async def async_one(completion):
    await asyncio.sleep(0)
    return check(completion)


async def async_batched(completions):
    await asyncio.sleep(0)
    return [check(text) for text in completions]


class Callable_:
    def __call__(self, completion):
        return check(completion)


class AsyncCallable:
    async def __call__(self, completions):
        return [check(text) for text in completions]


def scaled(completion, scale):
    return scale * check(completion)


def check(text: str) -> float:
    if text == "bad":
        raise ValueError("bad\n  sample")
    return float(len(text))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (one, [1.0, None, 3.0]),
        (with_columns, [111.0, None, 13.0]),
        (everything, [3.0, None, 5.0]),  # prompt and answer
        (batched, [1.0, None, 3.0]),
        (named_only, [1.0, 0.0, 0.0]),
        (async_one, [1.0, None, 3.0]),
        (async_batched, [1.0, None, 3.0]),
        (Callable_(), [1.0, None, 3.0]),
        (AsyncCallable(), [1.0, None, 3.0]),
        (functools.partial(scaled, scale=2.0), [2.0, None, 6.0]),
        (lambda completion: check(completion) > 2, [0.0, None, 1.0]),
    ],
)
def test_every_shape(function, expected: list[float | None]) -> None:
    scores = from_function(function).score(ROWS)
    assert scores.to_list() == expected
    if None in expected:  # the exception of one row costs that row, and says what it was
        assert {row: (f.kind, f.reason) for row, f in scores.failures.items()} == {
            1: ("error", "ValueError: bad sample")
        }
        assert scores.failures[1].latency >= 0
    assert scores.latency.shape == (3,)
    assert (scores.latency >= 0).all()


@pytest.mark.parametrize("function", [async_one, async_batched])
def test_an_async_function_also_inside_a_running_loop(function) -> None:
    async def inside() -> list[float | None]:
        return from_function(function)(["p"], ["abc"])

    assert asyncio.run(inside()) == [3.0]


def test_async_samples_run_at_the_same_time() -> None:
    waiting = 0

    async def together(completion: str) -> float:
        nonlocal waiting
        waiting += 1
        while waiting < 3:  # ends only where all three have begun
            await asyncio.sleep(0)
        return 1.0

    assert from_function(together)(["p"] * 3, ["a", "b", "c"]) == [1.0] * 3


def test_results_of_every_kind() -> None:
    polite = {"score": 2.0, "tone": 3, "note": "polite"}
    results = [1, True, None, "high", float("nan"), polite, {"score": None, "tone": np.float32(0.5)}]
    results += [{"tone": 1.0}, np.float32(0.25), object()]
    scores = from_function(lambda completions: results).score({"completion": ["x"] * 10})
    assert scores.to_list() == [1.0, 1.0, None, None, None, 2.0, None, None, 0.25, None]
    kinds = {row: failure.kind for row, failure in scores.failures.items()}
    assert kinds == {2: "missing", 3: "error", 4: "nonfinite", 6: "missing", 7: "missing", 9: "error"}
    assert scores.failures[3].reason == "a score must be a number, got str"
    np.testing.assert_array_equal(scores.parts["tone"], [*[np.nan] * 5, 3.0, 0.5, 1.0, np.nan, np.nan])
    assert "note" not in scores.parts
    assert scores.details[5] == polite
    assert scores.details[0] == {}


def test_plain_numbers_have_no_details() -> None:
    scores = from_function(one).score({"completion": ["a"]})
    assert scores.details is None
    assert scores.parts == {}


def test_a_wrong_number_of_scores_is_no_score_at_all() -> None:
    with pytest.raises(ValueError, match="short returned 2 scores for 3 completions"):
        from_function(lambda completions: [1.0, 2.0], name="short").score(ROWS)


def test_a_missing_column_is_a_failure_that_names_it() -> None:
    scores = from_function(with_columns).score({"prompt": ["p"], "completion": ["a"]})
    assert "answer" in scores.failures[0].reason


def test_a_function_must_say_what_it_scores() -> None:
    with pytest.raises(TypeError, match=r"must take 'completions' .* it takes \['text'\]"):
        from_function(lambda text: 1.0)


def test_name_and_policy() -> None:
    assert from_function(one).__name__ == "one"
    assert from_function(Callable_()).__name__ == "Callable_"
    reward = from_function(one, name="mine", on_failure="raise")
    assert reward.__name__ == "mine"
    with pytest.raises(RewardError, match="row 1"):
        reward(ROWS["prompt"], ROWS["completion"])


def test_a_reward_by_path_survives_pickling_into_a_fresh_process() -> None:
    reward = from_function(f"{FILE}:length")
    assert isinstance(reward, FunctionReward)
    assert (reward(["p"], ["abc"]), reward.__name__) == ([3.0], "length")
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())(['p'], ['abcd']))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(reward), capture_output=True, check=True)
    assert done.stdout.split() == [b"[4.0]"]


def test_paths_lead_to_functions_rewards_and_classes() -> None:
    assert from_function(f"{FILE}:total")(["p"], ["abc"]) == [3.0]
    assert from_function(f"{FILE}:two")(["p"], ["abc"]) == [2.0]
    assert from_function(f"{FILE}:Two").__name__ == "two"
    assert import_object("os.path:join") is os.path.join


def test_modules_of_the_current_folder_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_local_rewards.py").write_text("def ok(completion):\n    return 5\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert from_function("my_local_rewards:ok")(["p"], ["x"]) == [5.0]
    assert sys.path == before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "not an import path"),
        ("module:", "not an import path"),
        (":name", "not an import path"),
        ("no_such_module_anywhere:f", "cannot import 'no_such_module_anywhere'"),
        ("no_such_file.py:f", "no file 'no_such_file.py'"),
        ("os.path:no_such_name", "has no 'no_such_name'"),
        (f"{FILE}:nothing", "has no 'nothing'"),
    ],
)
def test_paths_that_lead_nowhere(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_function(path)


def test_a_file_that_does_not_load_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken_reward_file.py"
    for text, said in [("def f(:\n", "SyntaxError"), ("import no_such_module_anywhere\n", "no_such_module_anywhere")]:
        broken.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=said):
            from_function(f"{broken}:f")
        assert "broken_reward_file" not in sys.modules
    with pytest.raises(TypeError, match="not a callable"):
        from_function(f"{FILE}:number")
