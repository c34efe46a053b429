"""verl: a reward as `compute_score`, in a file named by `reward.custom_reward_function.path`.

The file is two lines: `reward = ...` and `compute_score = as_compute_score(reward)`; the second name goes into
`reward.custom_reward_function.name`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rewardsmith.reward import Reward

# What verl's reward loop passes besides: handles of its own, not columns.
_HANDLES = ("reward_router_address", "reward_model_tokenizer")


def as_compute_score(
    reward: Reward, *, prompt_key: str | None = None, answer_column: str = "answer", failed: float | None = None
) -> Callable[..., dict[str, float]]:
    """`compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs) -> {"score": ..., parts...}`.

    The managers `naive` and `dapo`, and the reward loop, call it once per sample. The entries of `extra_info` (and the
    configured `reward_kwargs`) reach the reward as columns, `ground_truth` as the column `answer_column`. Components of
    a combination, and the stages of a shaped reward, are returned by name, which verl logs; `failed` is 1 for a sample
    without a score.

    Args:
        reward: any reward.
        prompt_key: entry of `extra_info` that holds the prompt, which verl does not pass on by itself. Needed where the
            reward reads the prompt; without it the prompt is an empty string.
        answer_column: name under which the reward reads the reference answer.
        failed: number to give verl for a sample that could not be scored. verl cannot skip one (NaN would spoil the
            advantages of its whole group), so without a number the failure is raised.

    Raises (when called):
        RewardError: for a failed sample, where `failed` is None.
        ValueError: where `extra_info` lacks `prompt_key`.
    """
    batched = as_batch_compute_score(reward, prompt_key=prompt_key, answer_column=answer_column, failed=failed)

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **kwargs: Any
    ) -> dict[str, float]:
        return batched([data_source], [solution_str], [ground_truth], [extra_info], **kwargs)[0]

    return compute_score


def as_batch_compute_score(
    reward: Reward, *, prompt_key: str | None = None, answer_column: str = "answer", failed: float | None = None
) -> Callable[..., list[dict[str, float]]]:
    """`compute_score(data_sources, solution_strs, ground_truths, extra_infos=None, **kwargs) -> list of dicts`.

    For verl's `batch` reward manager: the reward sees the whole batch at once, so shared prompts are encoded once and
    `on_failure="group_mean"` has groups to look at (with `prompt_key`). Arguments as for `as_compute_score`.
    """
    logged: list[str] = getattr(reward, "names", [])  # the components of a combination, the stages of a shaped reward

    def compute_score(
        data_sources: Sequence[str],
        solution_strs: Sequence[str],
        ground_truths: Sequence[Any],
        extra_infos: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, float]]:
        rows = len(solution_strs)
        infos: list[Mapping[str, Any]] = [
            info or {} for info in ([None] * rows if extra_infos is None else extra_infos)
        ]
        prompts: list[Any] = [""] * rows
        if prompt_key is not None:
            for i, info in enumerate(infos):
                if prompt_key not in info:
                    raise ValueError(f"row {i}: extra_info has no {prompt_key!r}, it has {sorted(info)}")
            prompts = [info[prompt_key] for info in infos]
        names = dict.fromkeys(name for info in infos for name in info)
        batch = {
            **{name: [value] * rows for name, value in kwargs.items() if name not in _HANDLES},
            **{name: [info.get(name) for info in infos] for name in names},
            "data_source": list(data_sources),
            answer_column: list(ground_truths),
            "prompt": prompts,
            "completion": list(solution_strs),
        }
        scores = reward.resolved(batch)
        if failed is None:
            scores.resolve("raise")
        values = np.where(scores.ok, scores.values, np.nan if failed is None else failed)
        return [
            {
                "score": float(values[i]),
                # The same keys for every sample: verl turns them into columns.
                **{name: float(scores.parts[name][i]) for name in logged},
                "failed": float(not scores.ok[i]),
            }
            for i in range(rows)
        ]

    return compute_score
