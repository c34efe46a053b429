"""verl: a reward as `compute_score`, in a file named by `reward.custom_reward_function.path`.

The file is two lines: `reward = ...` and `compute_score = as_compute_score(reward)`; the second name goes into
`reward.custom_reward_function.name`. An advantage estimator is registered with `register_advantage("name", estimator)`
in a module that verl imports, and chosen by `algorithm.adv_estimator=name`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.reward import Reward

if TYPE_CHECKING:
    import torch

    from rewardsmith.alignment.advantages import Estimator

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


def register_advantage(name: str, estimator: Estimator) -> None:
    """Register an advantage estimator in verl, under a name for `algorithm.adv_estimator`.

    Args:
        name: under which verl finds it.
        estimator: reads a `RewardedRollouts` and gives (B,) or (B, T) advantages. What verl has placed on the last
            response token is the reward of the completion; rewards on earlier tokens are `token_rewards`.

    Raises:
        ImportError: where verl is not installed.
    """
    from verl.trainer.ppo.core_algos import register_adv_est

    register_adv_est(name)(as_advantage(estimator))


def as_advantage(estimator: Estimator) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """An estimator in verl's form: `(token_level_rewards, response_mask, index, ...) -> (advantages, returns)`."""
    import torch

    from rewardsmith.alignment.advantages import RewardedRollouts, returns_to_go

    def compute_advantage(
        token_level_rewards: torch.Tensor,
        response_mask: torch.Tensor,
        index: Sequence[Any] | None = None,
        config: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if index is None:
            raise ValueError("the estimator needs verl's `uid` of each prompt as index")
        mask = response_mask.bool()
        numbers: dict[Any, int] = {}
        groups = torch.tensor([numbers.setdefault(key, len(numbers)) for key in index], device=mask.device)
        last = torch.zeros_like(mask).scatter(1, (mask.sum(1, keepdim=True) - 1).clamp(min=0), True) & mask
        rewards = (token_level_rewards * last).sum(1)
        steps = mask & ~last & (token_level_rewards != 0)
        with torch.no_grad():
            advantages = estimator(
                RewardedRollouts(
                    rewards=rewards,
                    components=rewards[:, None],
                    groups=groups,
                    mask=mask,
                    token_rewards=token_level_rewards.masked_fill(~steps, torch.nan) if steps.any() else None,
                )
            )
        if advantages.dim() == 1:
            advantages = advantages[:, None] * mask
        return advantages, returns_to_go(token_level_rewards * mask)

    return compute_advantage
