"""TRL's GRPO trainer with an advantage estimator of one's own: the one seam that papers on RL with rewards need.

TRL samples, calls the rewards and computes the loss. Between the last two, an estimator (`alignment.advantages`) may
replace TRL's advantages, one per completion or one per token, with steps and tokens of the rewards placed where they
belong. Without an estimator the trainer is TRL's.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from trl import GRPOTrainer

from rewardsmith.alignment.advantages import Estimator, RewardedRollouts
from rewardsmith.reward import Reward, Scores


class RewardGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer`, whose advantages may come from an estimator.

    Args:
        advantage_estimator: reads the rewards of all processes' completions, `RewardedRollouts`, and gives (B,) or
            (B, T) advantages. None: TRL's own.

    All other arguments are TRL's. A `Reward` among `reward_funcs` that gives steps or tokens reaches the estimator as
    `token_rewards`, times its weight.
    """

    def __init__(self, *args: Any, advantage_estimator: Estimator | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.advantage_estimator = advantage_estimator
        if advantage_estimator is not None:
            self.reward_funcs = [
                _Watched(function) if isinstance(function, Reward) else function for function in self.reward_funcs
            ]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._components = rewards
        self._completion_ids = completion_ids_list
        return rewards

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.advantage_estimator is None:
            return output
        rows = len(output["completion_mask"])
        mask = self._whole(output["completion_mask"].bool())
        weighted = self._components * self.reward_weights.to(self._components.device)
        unscored = self._components.isnan().all(1)
        group = self.num_generations if self.model.training else self.num_generations_eval  # type: ignore[union-attr]
        placed = self._token_rewards(output["completion_mask"].shape)
        # All processes must agree on whether there are token rewards, or they would wait for each other.
        dense = self.accelerator.reduce(torch.tensor(float(placed is not None), device=mask.device)) > 0
        if dense and placed is None:
            placed = torch.full(output["completion_mask"].shape, torch.nan, device=mask.device)
        advantages = self.advantage_estimator(
            RewardedRollouts(
                rewards=weighted.nansum(1).masked_fill(unscored, torch.nan),
                components=self._components,
                groups=torch.arange(len(mask), device=mask.device) // (group or 1),
                mask=mask,
                token_rewards=None if placed is None else self._whole(placed, torch.nan),
                step=self.state.global_step,
            )
        )
        first = self.accelerator.process_index * rows
        advantages = advantages[first : first + rows].nan_to_num(0.0)
        if advantages.dim() == 2:
            advantages = advantages[:, : output["completion_mask"].shape[1]]
        output["advantages"] = advantages.to(output["advantages"])
        return output

    def _whole(self, local: torch.Tensor, padding: float = 0) -> torch.Tensor:
        """(B, T) of all processes."""
        padded = self.accelerator.pad_across_processes(local, dim=1, pad_index=padding)
        return self.accelerator.gather(padded)

    def _token_rewards(self, shape: torch.Size) -> torch.Tensor | None:
        """(B, T) of this process, NaN where nothing ends; None where no reward has steps or tokens."""
        total = None
        for weight, function in zip(self.reward_weights.tolist(), self.reward_funcs):
            scores = function.scores if isinstance(function, _Watched) else None
            if scores is None or (scores.steps is None and scores.tokens is None):
                continue
            placed = place_on_tokens(scores, self._completion_ids, self._tokenizer, shape[1])
            placed = weight * placed.to(self.accelerator.device)
            total = placed if total is None else torch.where(placed.isnan(), total, total.nan_to_num(0.0) + placed)
        return total


class _Watched:
    """A reward as TRL calls it, which keeps the full scores of its last batch."""

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self.scores: Scores | None = None
        self.__name__ = reward.__name__

    def __call__(self, *args: Any, **columns: Any) -> list[float | None]:
        return self.reward(*args, **columns, on_scores=self._keep)

    def _keep(self, scores: Scores) -> None:
        self.scores = scores


def place_on_tokens(
    scores: Scores, completion_ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, length: int
) -> torch.Tensor:
    """The step or token values of scores at the completions' tokens.

    A step's value sits on the first token with which the decoded text reaches the step's end; two that end on one token
    add up.

    Args:
        scores: of B completions, with `tokens`, or `steps` and `step_ends` (characters of the completion's text).
        completion_ids: B lists of token ids.
        tokenizer: that made them.
        length: T.

    Returns:
        (B, T), NaN where no value belongs.

    Raises:
        ValueError: where a row has not one value per token, or steps have no ends.
    """
    out = torch.full((len(scores), length), torch.nan)
    for row, ids in enumerate(completion_ids):
        if scores.tokens is not None:
            values = scores.tokens[row]
            if len(values) not in (0, len(ids)):
                raise ValueError(f"row {row}: {len(values)} token values for {len(ids)} tokens")
            out[row, : len(values)] = torch.as_tensor(values, dtype=out.dtype)
        elif scores.steps is not None:
            if scores.step_ends is None:
                raise ValueError("the scores have steps but no step_ends")
            for value, end in zip(scores.steps[row], scores.step_ends[row]):
                at = token_at(tokenizer, ids, int(end))
                out[row, at] = out[row, at].nan_to_num(0.0) + float(value)
    return out


def token_at(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], end: int) -> int:
    """Index of the first token with which the decoded text has `end` characters; the last one where it never has."""
    counts = range(1, len(ids) + 1)
    decode = tokenizer.decode
    found = bisect.bisect_left(counts, end, key=lambda n: len(decode(list(ids[:n]), skip_special_tokens=True)))
    return min(found, len(ids) - 1)
