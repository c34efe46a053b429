"""verifiers: called as a rubric calls its functions, and with the real package where it is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from rewardsmith.adapters.verifiers import as_group_func, as_rubric_func, as_trace_func
from rewardsmith.data.records import as_text
from rewardsmith.functions import from_function
from rewardsmith.reward import RewardError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROMPT = [{"role": "user", "content": "6 * 7?"}]


def reply(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def exact(completion: list, answer: str) -> float:
    if as_text(completion) == "bad":
        raise ValueError("bad sample")
    return float(as_text(completion) == answer)


def level(completion: list, difficulty: int, topic: str) -> float:
    return difficulty + len(topic)


def rubric_call(func, state: dict, **extra):
    """What a rubric does: everything by name, as the function has **kwargs."""
    merged = {k: state[k] for k in ("prompt", "completion", "answer", "info")} | {"state": state, "parser": object()}
    return asyncio.run(func(**merged, **extra))


def test_one_rollout() -> None:
    func = as_rubric_func(from_function(exact))
    assert inspect.iscoroutinefunction(func)
    assert func.__name__ == "exact"
    # A rubric takes plural names for a group function: there must be none.
    assert not {"prompts", "completions", "answers", "states", "infos"} & set(inspect.signature(func).parameters)
    state = {"prompt": PROMPT, "completion": reply("42"), "answer": "42", "info": {}}
    assert rubric_call(func, state) == 1.0
    assert rubric_call(func, state | {"completion": reply("41")}) == 0.0
    assert "reward_failures" not in state


def test_a_failure_shows_and_is_explained() -> None:
    state = {"prompt": PROMPT, "completion": reply("bad"), "answer": "42", "info": {}}
    assert math.isnan(rubric_call(as_rubric_func(from_function(exact)), state))
    assert state["reward_failures"] == {"exact": "error: ValueError: bad sample"}
    assert rubric_call(as_rubric_func(from_function(exact), failed=-1.0), state) == -1.0


def test_columns_come_from_info_and_the_row() -> None:
    func = as_rubric_func(from_function(level))
    state = {"prompt": PROMPT, "completion": reply("x"), "answer": "", "info": {"difficulty": 3}}
    assert rubric_call(func, state, topic="sums") == 7.0


def test_a_group_is_one_batch() -> None:
    func = as_group_func(from_function(exact, on_failure="group_mean"))
    assert {"prompts", "completions", "answers"} <= set(inspect.signature(func).parameters)
    states = [{}, {}, {}]
    answers = asyncio.run(
        func(
            prompts=[PROMPT] * 3,
            completions=[reply("42"), reply("bad"), reply("41")],
            answers=["42"] * 3,
            states=states,
            infos=[{}] * 3,
            tasks=[None] * 3,
            parser=object(),
        )
    )
    assert answers == [1.0, 0.5, 0.0]


class Message:
    """As verifiers' pydantic messages."""

    def __init__(self, role: str, content: str) -> None:
        self.role, self.content = role, content

    def model_dump(self, exclude_none: bool) -> dict:
        return {"role": self.role, "content": self.content}


def test_a_trace_is_split_at_the_first_answer() -> None:
    def multi(prompt: list, completion: list, answer: str) -> float:
        assert [m["role"] for m in prompt] == ["system", "user"]
        assert [m["role"] for m in completion] == ["assistant", "user", "assistant"]
        return float(completion[-1]["content"] == answer)

    roles = [("system", "s"), ("user", "q"), ("assistant", "41"), ("user", "sure?"), ("assistant", "42")]
    trace = SimpleNamespace(messages=[Message(*m) for m in roles])
    func = as_trace_func(from_function(multi), columns=["answer"])
    assert asyncio.run(func(SimpleNamespace(answer="42"), trace)) == 1.0
    with pytest.raises(RewardError, match="bad sample"):
        bad = SimpleNamespace(messages=[Message("user", "q"), Message("assistant", "bad")])
        asyncio.run(as_trace_func(from_function(exact), columns=["answer"])(SimpleNamespace(answer="42"), bad))
    with pytest.raises(ValueError, match="no message of the assistant"):
        asyncio.run(func(SimpleNamespace(answer="42"), SimpleNamespace(messages=[Message("user", "q")])))


def test_in_a_real_rubric() -> None:
    vf = pytest.importorskip("verifiers")
    if not hasattr(vf, "Rubric"):
        pytest.skip("this verifiers has no Rubric")
    rubric = vf.Rubric(
        funcs=[as_rubric_func(from_function(exact)), as_rubric_func(from_function(level))], weights=[2.0, 0.0]
    )
    info = {"difficulty": 3, "topic": "sums"}
    state = vf.State(input={"prompt": PROMPT, "answer": "42", "info": info, "example_id": 0, "task": "t"})
    state.update({"prompt": PROMPT, "completion": reply("42"), "answer": "42", "info": info, "task": "t"})
    state.update({"trajectory": [], "timing": {"scoring_ms": 0.0, "total_ms": 0.0, "generation_ms": 0.0}})
    asyncio.run(rubric.score_rollout(state))
    assert state["reward"] == 2.0
    assert state["metrics"] == {"exact": 1.0, "level": 7.0}


def test_in_a_real_task() -> None:
    vf = pytest.importorskip("verifiers.v1")
    if not hasattr(vf, "TaskData"):
        pytest.skip("this verifiers has tasks of another form")
    score_trace = as_trace_func(from_function(exact), columns=["answer"])

    class Data(vf.TaskData):
        answer: str

    class Task(vf.Task[Data]):
        @vf.reward(weight=2.0)
        async def quality(self, trace: vf.Trace) -> float:
            return await score_trace(self.data, trace)

    def scored(text: str):
        task = Task(Data(prompt="6 * 7?", answer="42"))
        messages = [vf.UserMessage(content="6 * 7?"), vf.AssistantMessage(content=text)]
        trace = SimpleNamespace(messages=messages, metrics={}, rewards={})
        trace.record_reward = lambda name, value, weight: trace.rewards.update({name: value * weight})
        asyncio.run(task.score(trace))
        return trace.rewards

    assert scored("42") == {"quality": 2.0}
    assert scored("41") == {"quality": 0.0}
    with pytest.raises(Exception, match="bad sample"):  # an error of the task, not a reward of 0
        scored("bad")


def test_the_example_is_a_rubric_function() -> None:
    spec = importlib.util.spec_from_file_location("verifiers_rubric", EXAMPLES / "verifiers_rubric.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state = {"prompt": PROMPT, "completion": reply("The answer is 42."), "answer": "42", "info": {}}
    right = rubric_call(module.func, state)
    assert right > rubric_call(module.func, state | {"completion": reply("The answer is 41.")})
