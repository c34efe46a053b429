"""verifiers: a reward in a `Rubric` (0.1 to 0.3), and as a task's reward of a trace (`verifiers.v1`, 0.4).

rubric = vf.Rubric(funcs=[as_rubric_func(reward)])                     # one rollout at a time
rubric = vf.Rubric(funcs=[as_group_func(reward)])                      # the rollouts of a prompt together

class MyTask(vf.Task):                                                 # verifiers.v1
    @vf.reward(weight=1.0)
    async def quality(self, trace: vf.Trace) -> float:
        return await score_trace(self.data, trace)                     # score_trace = as_trace_func(reward)
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rewardsmith.reward import Reward, Scores


def as_rubric_func(
    reward: Reward, *, answer_column: str = "answer", failed: float = math.nan
) -> Callable[..., Awaitable[float]]:
    """`async func(prompt, completion, answer="", state=None, info=None, **kwargs) -> float`, scored in a thread.

    The entries of `info` and further columns of the data set reach the reward as columns, `answer` as `answer_column`.

    Args:
        reward: any reward.
        answer_column: name under which the reward reads the reference answer.
        failed: what a rollout that could not be scored gets. A rubric takes an exception for 0.0, so the default is
            NaN, which shows; the reason is kept in `state["reward_failures"]`.
    """
    scored = as_group_func(reward, answer_column=answer_column, failed=failed)

    async def func(
        prompt: Any, completion: Any, answer: Any = "", state: Any = None, info: Any = None, **kwargs: Any
    ) -> float:
        columns = {name: [value] for name, value in kwargs.items()}
        return (await scored([prompt], [completion], [answer], [state], [info], **columns))[0]

    func.__name__ = reward.__name__
    return func


def as_group_func(
    reward: Reward, *, answer_column: str = "answer", failed: float = math.nan
) -> Callable[..., Awaitable[list[float]]]:
    """`async func(prompts, completions, answers=None, states=None, infos=None, **kwargs) -> list[float]`.

    The plural names make it a group function of a rubric: the rollouts of one prompt are one batch, so the prompt is
    encoded once and `on_failure="group_mean"` works. Arguments as for `as_rubric_func`.
    """

    async def func(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        answers: Sequence[Any] | None = None,
        states: Sequence[Any] | None = None,
        infos: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        rows = len(completions)
        infos = [info if isinstance(info, Mapping) else {} for info in (infos or [None] * rows)]
        columns = {name: [info.get(name) for info in infos] for info in infos for name in info}
        columns |= {k: v for k, v in kwargs.items() if isinstance(v, list) and len(v) == rows and all(map(_is_data, v))}
        batch = {
            **columns,
            answer_column: list(answers or [None] * rows),
            "prompt": [_plain(prompt) for prompt in prompts],
            "completion": [_plain(completion) for completion in completions],
        }
        scores = await asyncio.to_thread(reward.resolved, batch)
        for row, failure in scores.failures.items():
            if states is not None and states[row] is not None:
                found = states[row].setdefault("reward_failures", {})
                found[reward.__name__] = f"{failure.kind}: {failure.reason}"
        return np.where(scores.ok, scores.values, failed).tolist()

    func.__name__ = reward.__name__
    return func


def as_trace_func(reward: Reward, *, columns: Sequence[str] = ()) -> Callable[[Any, Any], Awaitable[float]]:
    """`async func(task, trace) -> float` for `verifiers.v1`: `task` is the task's data, `trace` its finished run.

    The messages up to the first one of the assistant are the prompt, the others the completion. A trace that cannot be
    scored raises, which verifiers records as an error of the task, apart from any reward.

    Args:
        reward: any reward.
        columns: fields of the task's data that reach the reward as columns.

    Raises (when called):
        RewardError: where the trace could not be scored.
        ValueError: where the trace has no message of the assistant.
    """

    async def func(task: Any, trace: Any) -> float:
        messages = _plain(list(trace.messages))
        start = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), None)
        if start is None:
            raise ValueError(f"the trace has no message of the assistant among {len(messages)}")
        batch = {name: [getattr(task, name)] for name in columns}
        batch |= {"prompt": [messages[:start]], "completion": [messages[start:]]}
        scores: Scores = await asyncio.to_thread(reward.resolved, batch)
        return float(scores.resolve("raise").values[0])

    func.__name__ = reward.__name__
    return func


def _plain(text: Any) -> Any:
    """Text as strings and dicts: verifiers' messages may be pydantic models."""
    if isinstance(text, str) or text is None:
        return text
    return [m.model_dump(exclude_none=True) if hasattr(m, "model_dump") else dict(m) for m in text]


def _is_data(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float | list | dict)
