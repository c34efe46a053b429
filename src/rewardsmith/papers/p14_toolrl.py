"""Paper 14, Qian et al. 2025 (ToolRL): graded credit for tool calls lets GRPO start where exact match gives nothing.

The world: 30 requests, each answered by one call of one of 6 tools with 2 or 3 of the tool's parameters, which have 4
values each. The policy is a table for each request: which tool, which of its parameters, which values, and how long
the thought is, each drawn for itself. It starts a little better than chance at the tool's name,
as a pretrained model would. Samples are written as text, read back and scored by `ToolCallReward`; all runs have the
same samples per update, updates and learning rate. How long a thought is has no effect on the call.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rewardsmith.alignment.advantages import group_advantages
from rewardsmith.alignment.policy_gradient import clipped_policy_loss
from rewardsmith.papers.claim import Outcome
from rewardsmith.verifiers.tool_calls import Granularity, ToolCallReward

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAD, COARSE_SPREAD, FINE_SPREAD, LONGER, NO_BETTER = 0.4, 0.2, 0.9, 0.3, 0.01
CLAIM = (
    f"After equal GRPO updates a policy trained with graded credit calls exactly right at least {LEAD:.0%} more often "
    f"than with all-or-nothing credit, whose groups at first differ in reward under {COARSE_SPREAD:.0%} of the time "
    f"against over {FINE_SPREAD:.0%}; a reward for length makes thoughts over {LONGER:.0%} longer and calls right at "
    f"most {NO_BETTER:.0%} more often."
)
TASKS, TOOLS, VALUES, GROUP = 30, 6, 4, 8
THOUGHTS = (32, 64, 128, 256, 512)  # words
HEAD_START = 1.0  # logit of the right tool
UPDATES, LEARNING_RATE, FIRST = 200, 10.0, 20


@dataclass(frozen=True)
class World:
    """The right call of each request.

    Attributes:
        tool: (TASKS,).
        subset: (TASKS,) which parameters it has, as bits; two or three.
        values: (TASKS, 3) of the parameters.
    """

    tool: np.ndarray
    subset: np.ndarray
    values: np.ndarray

    @classmethod
    def make(cls, rng: np.random.Generator) -> World:
        tool = rng.integers(TOOLS, size=TASKS)
        return cls(tool, rng.choice([0b011, 0b101, 0b110, 0b111], size=TASKS), rng.integers(VALUES, size=(TASKS, 3)))

    def gold(self) -> list[list[dict[str, Any]]]:
        """As a column `tool_calls`."""
        return [[call(*row)] for row in zip(self.tool.tolist(), self.subset.tolist(), self.values.tolist())]


def call(tool: int, subset: int, values: list[int]) -> dict[str, Any]:
    """A call as ToolRL writes it."""
    return {"name": f"tool_{tool}", "parameters": {f"p{k}": f"v{values[k]}" for k in range(3) if subset >> k & 1}}


class Policy:
    """Tables of logits: the tool, and given the tool its parameters and their values; the length of the thought."""

    def __init__(self, world: World) -> None:
        self.world, task = world, torch.arange(TASKS)
        self.tool = torch.zeros(TASKS, TOOLS)
        self.tool[task, torch.as_tensor(world.tool)] = HEAD_START
        self.subset = torch.zeros(TASKS, TOOLS, 8)
        self.values = torch.zeros(TASKS, TOOLS, 3, VALUES)
        self.thought = torch.zeros(TASKS, len(THOUGHTS))
        self.tables = [self.tool, self.subset, self.values, self.thought]
        for table in self.tables:
            table.requires_grad_()

    def sample(self, generator: torch.Generator) -> list[torch.Tensor]:
        """GROUP samples of each request, (TASKS * GROUP,) each: tool, subset, values (.., 3), thought."""
        task = torch.arange(TASKS).repeat_interleave(GROUP)

        def draw(logits: torch.Tensor) -> torch.Tensor:
            flat = logits.softmax(-1).reshape(-1, logits.shape[-1])
            return torch.multinomial(flat, 1, generator=generator).reshape(logits.shape[:-1])

        with torch.no_grad():
            tool = draw(self.tool[task])
            subset = draw(self.subset[task, tool])
            return [tool, subset, draw(self.values[task, tool]), draw(self.thought[task])]

    def logps(self, sample: list[torch.Tensor]) -> torch.Tensor:
        """(TASKS * GROUP, 6) of the choices that were made; 0 for the value of a parameter that is left out."""
        task = torch.arange(TASKS).repeat_interleave(GROUP)
        tool, subset, values, thought = sample
        used = (subset[:, None] >> torch.arange(3)) & 1
        choices = [
            (self.tool[task], tool),
            (self.subset[task, tool], subset),
            (self.thought[task], thought),
        ]
        made = [logits.log_softmax(-1).gather(-1, choice[:, None]) for logits, choice in choices]
        made.append(self.values[task, tool].log_softmax(-1).gather(-1, values[..., None])[..., 0] * used)
        return torch.cat(made, dim=1)

    @torch.no_grad()
    def exact(self) -> float:
        """Probability of the exact right call, mean over requests."""
        task, tool = torch.arange(TASKS), torch.as_tensor(self.world.tool)
        subset, values = torch.as_tensor(self.world.subset), torch.as_tensor(self.world.values)
        used = (subset[:, None] >> torch.arange(3)) & 1
        right = self.values[task, tool].softmax(-1).gather(-1, values[..., None])[..., 0]
        p = self.tool.softmax(-1)[task, tool] * self.subset[task, tool].softmax(-1)[task, subset]
        return float((p * torch.where(used > 0, right, 1.0).prod(1)).mean())

    @torch.no_grad()
    def words(self) -> float:
        """Mean length of the thoughts."""
        return float((self.thought.softmax(-1) @ torch.tensor(THOUGHTS, dtype=torch.float)).mean())


def written(sample: list[torch.Tensor]) -> list[str]:
    """The samples as completions in ToolRL's format."""
    thoughts = ["<think>" + "so " * words + "</think>\n<tool_call>\n" for words in THOUGHTS]
    return [
        thoughts[thought] + json.dumps(call(tool, subset, values)) + "\n</tool_call>"
        for tool, subset, values, thought in zip(*(choice.tolist() for choice in sample))
    ]


def grpo(world: World, reward: ToolCallReward, seed: int, updates: int) -> dict[str, Any]:
    """Train a fresh policy; a row of the table, with the curve of accuracy."""
    generator = torch.Generator().manual_seed(seed)
    policy = Policy(world)
    # Plain gradient steps: in a table Adam would blow a rare success up to a full-sized step, as no network's can be.
    optimizer = torch.optim.SGD(policy.tables, lr=LEARNING_RATE)
    groups = torch.arange(TASKS).repeat_interleave(GROUP)
    gold = [calls for calls in world.gold() for _ in range(GROUP)]
    prompts = [f"request {task}" for task in groups.tolist()]
    curve, spread = [policy.exact()], []
    for _ in range(updates):
        sample = policy.sample(generator)
        rewards = torch.tensor(reward(prompts, written(sample), tool_calls=gold))
        advantages = group_advantages(rewards, groups)
        spread.append(float((advantages.reshape(TASKS, GROUP) != 0).any(1).float().mean()))
        logps = policy.logps(sample)
        loss = clipped_policy_loss(logps, logps.detach(), advantages[:, None]).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(policy.exact())
    return {
        "exact calls": curve[-1],
        "groups that differ, first 20 updates": float(np.mean(spread[:FIRST])),
        "groups that differ, all updates": float(np.mean(spread)),
        "words of thought": policy.words(),
        "curve": curve,
    }


def run(seed: int, ablate: bool, scale: str) -> Outcome:
    updates = UPDATES if scale == "small" else 5 * UPDATES
    world = World.make(np.random.default_rng(seed))
    graded: Granularity = "coarse" if ablate else "default"
    rewards = {
        "ablated (all or nothing)" if ablate else "graded": ToolCallReward(granularity=graded),
        "graded, with length": ToolCallReward(granularity=graded, length="fixed"),
        "all or nothing": ToolCallReward(granularity="coarse"),
        "strict": ToolCallReward(granularity="strict"),
        "intermediate": ToolCallReward(granularity="intermediate"),
    }
    runs = {name: grpo(world, reward, seed, updates) for name, reward in rewards.items()}
    rows = [{"reward": name, **{k: v for k, v in row.items() if k != "curve"}} for name, row in runs.items()]
    fine, long, coarse = rows[:3]
    first = "groups that differ, first 20 updates"
    checks = {
        f"exact calls {LEAD:.0%} above all or nothing": fine["exact calls"] >= coarse["exact calls"] + LEAD,
        f"graded: over {FINE_SPREAD:.0%} of groups differ at first": fine[first] > FINE_SPREAD,
        f"all or nothing: under {COARSE_SPREAD:.0%} of groups differ at first": coarse[first] < COARSE_SPREAD,
        f"length: thoughts over {LONGER:.0%} longer": long["words of thought"]
        > (1 + LONGER) * fine["words of thought"],
        f"length: exact calls at most {NO_BETTER:.0%} above": long["exact calls"] <= fine["exact calls"] + NO_BETTER,
    }
    return Outcome(rows, checks, lambda: _figure(runs))


def _figure(runs: dict[str, dict[str, Any]]) -> Figure:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    colors = ("#4477AA", "#66CCEE", "#CC6677", "#CCBB44", "#228833")
    for (name, row), color in zip(runs.items(), colors):
        axes.plot(row["curve"], label=name, color=color)
    axes.set(xlabel="update", ylabel="exact calls", ylim=(0, 1), title="Credit for parts of a call")
    axes.legend(frameon=False)
    return figure
