"""A compact PPO for causal language models against any reward (paper 64, Stiennon et al. 2020, section 3.4).

For claims and small models: one process, no sharding. Rollouts are `transformers` generation at temperature 1; the
value network is separate from the policy, as in the paper. For large models give the same reward to TRL, verl or
OpenRLHF.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers
from torch import nn

from rewardsmith.alignment.policy_gradient import (
    clipped_policy_loss,
    clipped_value_loss,
    gae,
    kl_penalized_rewards,
    masked_mean,
    response_mask,
    whiten,
)


class ValueNetwork(nn.Module):
    """A transformer body and a linear map to the value of the state before each token.

    Args:
        body: a Hugging Face base model (`model.base_model`), which becomes part of this network.
        linear: H -> 1; default: zeros. Both may come from a reward model, as in the paper.
    """

    def __init__(self, body: transformers.PreTrainedModel, linear: nn.Linear | None = None) -> None:
        super().__init__()
        self.body = body
        self.linear = nn.Linear(body.config.hidden_size, 1) if linear is None else linear
        if linear is None:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Values (B, L) of rows of ids (B, L)."""
        return self.linear(self.body(**inputs).last_hidden_state).squeeze(-1)


class Rollouts:
    """Completions of prompts: ids, masks and texts.

    Attributes:
        inputs: `input_ids`, `attention_mask` and `position_ids`, (B, P + T): prompts left-padded, then T tokens.
        mask: (B, T) bool: response tokens, the end-of-text token among them.
        texts: B completions without special tokens.
    """

    def __init__(self, inputs: dict[str, torch.Tensor], mask: torch.Tensor, texts: list[str]) -> None:
        self.inputs, self.mask, self.texts = inputs, mask, texts

    @property
    def response(self) -> torch.Tensor:
        """(B, T) ids of the response."""
        return self.inputs["input_ids"][:, -self.mask.shape[1] :]

    def rows(self, index: torch.Tensor) -> Rollouts:
        """The rows at the given indices."""
        inputs = {name: tensor[index] for name, tensor in self.inputs.items()}
        return Rollouts(inputs, self.mask[index], [self.texts[i] for i in index.tolist()])


@torch.no_grad()
def sample(
    policy: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
) -> Rollouts:
    """One completion for each of B prompts, sampled from the policy itself (temperature 1, no top-k or top-p)."""
    encoded = tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt").to(policy.device)
    prompt_ids, prompt_mask = encoded["input_ids"], encoded["attention_mask"]
    ids = policy.generate(  # type: ignore[operator]
        input_ids=prompt_ids,
        attention_mask=prompt_mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    mask = response_mask(ids[:, prompt_ids.shape[1] :], tokenizer.eos_token_id)
    seen = torch.cat([prompt_mask, mask.to(prompt_mask)], dim=1)
    inputs = {"input_ids": ids, "attention_mask": seen, "position_ids": (seen.cumsum(1) - 1).clamp(min=0)}
    return Rollouts(inputs, mask, tokenizer.batch_decode(ids[:, prompt_ids.shape[1] :], skip_special_tokens=True))


def response_logps(policy: transformers.PreTrainedModel, rollouts: Rollouts) -> torch.Tensor:
    """(B, T) log-probabilities of the response tokens, 0 outside the mask."""
    length = rollouts.mask.shape[1]
    logits = policy(**rollouts.inputs, logits_to_keep=length + 1).logits[:, :-1]
    logps = torch.log_softmax(logits.float(), dim=-1).gather(-1, rollouts.response.unsqueeze(-1)).squeeze(-1)
    return logps * rollouts.mask


def ppo(
    policy: transformers.PreTrainedModel,
    tokenizer: transformers.PreTrainedTokenizerBase,
    reward: Callable[[list[str], list[str]], Sequence[float | None]],
    prompts: Sequence[str],
    *,
    steps: int,
    beta: float = 0.05,
    reference: transformers.PreTrainedModel | None = None,
    value: ValueNetwork | None = None,
    batch_size: int = 512,
    epochs: int = 4,
    minibatches: int = 1,
    learning_rate: float = 1.5e-5,
    max_new_tokens: int = 48,
    gamma: float = 1.0,
    lam: float = 0.95,
    clip: float = 0.2,
    max_grad_norm: float = 1.0,
    seed: int = 0,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Optimize a policy against a reward under a KL penalty, in place.

    Args:
        policy: a causal language model; it is trained.
        tokenizer: with a padding token other than its end-of-text token.
        reward: in TRL's signature, `reward(prompts, completions) -> B floats`; every `Reward` is one. Completions that
            get None are left out of the step, and counted in the history.
        prompts: to draw from, with equal weights.
        steps: rollout batches.
        beta: weight of KL(policy || reference) in the reward.
        reference: the policy that the penalty keeps near. Default: a copy of `policy` as it is now.
        value: the value network; it is trained. Default: a copy of the policy's body with a zero linear map.
        batch_size: completions per step.
        epochs: passes over each rollout batch.
        minibatches: updates in each pass.
        learning_rate: of AdamW, falling linearly to 0.
        max_new_tokens: longest completion.
        gamma: discount.
        lam: of generalized advantage estimation.
        clip: of ratios and values.
        max_grad_norm: gradients are scaled down to it.
        seed: of prompts, sampling and minibatches.
        on_step: called after each step with its number and its row of the history.

    Returns:
        one dict per step: `reward` (mean, without the penalty), `kl` (nats per completion, from the sampled tokens),
        `length` (tokens), `failed` (completions without a reward).

    Raises:
        ValueError: for a tokenizer without a padding token of its own, or a step in which no completion got a reward.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError("the tokenizer needs a padding token that is not its end-of-text token")
    if not prompts:
        raise ValueError("there are no prompts")
    reference = copy.deepcopy(policy) if reference is None else reference
    reference.eval().requires_grad_(False)
    if value is None:
        with torch.random.fork_rng(devices=[]):
            value = ValueNetwork(copy.deepcopy(policy.base_model)).to(policy.device)  # type: ignore[arg-type]
    policy.eval(), value.eval()  # without dropout, ratios start at 1
    parameters = [*policy.parameters(), *value.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = np.random.default_rng(seed)
    history: list[dict[str, float]] = []

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps):
            drawn = [prompts[i] for i in generator.integers(len(prompts), size=batch_size)]
            rollouts = sample(policy, tokenizer, drawn, max_new_tokens)
            scored = reward(drawn, rollouts.texts)
            kept = [i for i, score in enumerate(scored) if score is not None]
            if not kept:
                raise ValueError(f"step {step}: none of {batch_size} completions got a reward")
            rollouts = rollouts.rows(torch.tensor(kept))
            scores = torch.tensor([scored[i] for i in kept], dtype=torch.float32, device=policy.device)
            with torch.no_grad():
                old_logps = response_logps(policy, rollouts)
                ref_logps = response_logps(reference, rollouts)
                old_values = _values(value, rollouts)
                rewards = kl_penalized_rewards(scores, old_logps, ref_logps, rollouts.mask, beta)
                advantages, returns = gae(rewards, old_values, rollouts.mask, gamma, lam)
                advantages = whiten(advantages, rollouts.mask)
            for _ in range(epochs):
                for index in np.array_split(generator.permutation(len(kept)), minibatches):
                    rows = torch.from_numpy(index)
                    part = rollouts.rows(rows)
                    loss = clipped_policy_loss(
                        response_logps(policy, part), old_logps[rows], advantages[rows], clip
                    ) + clipped_value_loss(_values(value, part), old_values[rows], returns[rows], clip)
                    optimizer.zero_grad()
                    masked_mean(loss, part.mask).backward()
                    nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm)
                    nn.utils.clip_grad_norm_(value.parameters(), max_grad_norm)
                    optimizer.step()
            schedule.step()
            row = {
                "reward": float(scores.mean()),
                "kl": float((old_logps - ref_logps).sum(1).mean()),
                "length": float(rollouts.mask.sum(1).float().mean()),
                "failed": float(batch_size - len(kept)),
            }
            history.append(row)
            if on_step is not None:
                on_step(step, row)
    return history


def _values(value: ValueNetwork, rollouts: Rollouts) -> torch.Tensor:
    """(B, T) values of the states before the response tokens."""
    length = rollouts.mask.shape[1]
    return value(**rollouts.inputs)[:, -length - 1 : -1].float() * rollouts.mask
