"""One linear reward per context, r(x, z, y) = w_z . h (paper 52): for a known, finite list of contexts.

Also the heads of several tasks on one trunk ("MultiPref" in paper 62): the context is then the task's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rewardsmith.data.records import RecordError
from rewardsmith.models.heads import Head


class ContextHead(Head):
    """Reads the column `context`; None there means the mean reward over all contexts.

    Args:
        hidden_size: H.
        contexts: their names. Default: those of the training rows.
    """

    scalar = True
    columns = ("context",)

    def __init__(self, hidden_size: int, contexts: Sequence[str] = ()) -> None:
        super().__init__()
        self.contexts = list(contexts)
        self.weight = nn.Parameter(torch.zeros(len(self.contexts), hidden_size))

    def fit(self, columns: Mapping[str, list[Any]], hidden: Callable[[], torch.Tensor]) -> None:
        """Take the names of the contexts from the training rows, where none were given."""
        for row, context in enumerate(columns["context"]):
            if context is not None and not isinstance(context, str):
                raise RecordError(f"must be text, not {type(context).__name__}", row=row, column="context")
        if not self.contexts:
            self.contexts = sorted({context for context in columns["context"] if context is not None})
            if not self.contexts:
                raise ValueError("no row has a context")
            self.weight = nn.Parameter(self.weight.new_zeros(len(self.contexts), self.weight.shape[1]))

    def reward(
        self, hidden: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None, **columns: Any
    ) -> torch.Tensor:
        place = {context: at for at, context in enumerate(self.contexts)}
        vectors = torch.cat([self.weight, self.weight.mean(0, keepdim=True)])
        try:
            rows = [len(self.contexts) if context is None else place[context] for context in columns["context"]]
        except KeyError as error:
            shown = ", ".join(self.contexts[:5]) + (", ..." if len(self.contexts) > 5 else "")
            raise ValueError(f"unknown context {error.args[0]!r}; this model knows {shown}") from error
        return (hidden * vectors[rows]).sum(-1)

    def preference(
        self, a: torch.Tensor, b: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None, **columns: Any
    ) -> torch.Tensor:
        return self.reward(a - b, **columns)  # linear, without a constant

    def config(self) -> dict[str, Any]:
        return {"contexts": self.contexts}
