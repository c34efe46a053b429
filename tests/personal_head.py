"""A personal head small enough to see through: users care about the first of two numbers, or about the second."""

from __future__ import annotations

import torch

from rewardsmith.models.personal import Particles, PersonalHead

AXES = torch.eye(2)


class OneOfTwo(PersonalHead):
    """Which of the two is inferred from the choices alone, from even odds."""

    reads_history = True

    def posterior(self, history, *, prompt_hidden=None):
        gaps = (history[:, 0] - history[:, 1])[:, :2]
        return Particles(AXES, torch.softmax(torch.nn.functional.logsigmoid(gaps).sum(0), 0))

    def reward_for(self, hidden, states, *, prompt_hidden=None):
        return states @ hidden[:, :2].T

    def preference(self, a, b, *, history, history_mask, **inputs):
        whos = [self.posterior(h[m]).mean for h, m in zip(history, history_mask)]
        return ((a - b)[:, :2] * torch.stack(whos)).sum(-1)

    def config(self):
        return {}
