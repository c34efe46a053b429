"""Heads: what turns hidden vectors into rewards and preferences. A head never sees text.

To add one, subclass `Head`: `preference` is the logit that a beats b, `loss` is what training minimizes, `reward`
exists where `scalar` is true. `ScalarHead` is the ordinary reward model (paper 64), `models.gpm` general preferences,
`models.odin` a reward without the length that it could be bought with.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import nn

from rewardsmith.models.backbones import Backbone
from rewardsmith.models.losses import bradley_terry, preference_loss


class Head(nn.Module, ABC):
    """Hidden vectors (B, H) of completions, in the context of their prompts, to preferences.

    Every keyword argument of a subclass's constructor beyond `hidden_size` is what `config` returns, so that a saved
    head can be built again.

    Attributes:
        scalar: whether there is a `reward`; the model is then a `Reward`, else a `PreferenceModel` alone.
        reads_prompt: whether the head wants `prompt_hidden`, (B, H) hidden vectors of the prompts read as texts of
            their own.
        columns: further columns that the head reads (`user`, `context`); they arrive as lists of length B.
        reads_length: whether the loss wants `length`, (B, 2) characters of the chosen and the rejected completion.
    """

    scalar: ClassVar[bool] = False
    reads_prompt: bool = False
    columns: tuple[str, ...] = ()
    reads_length: bool = False

    @classmethod
    def build(cls, backbone: Backbone, **config: Any) -> Self:
        """The head for a backbone: by default `cls(backbone.hidden_size, **config)`."""
        return cls(backbone.hidden_size, **config)

    @abstractmethod
    def preference(
        self, a: torch.Tensor, b: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None, **columns: Any
    ) -> torch.Tensor:
        """(B,) logit that a beats b, from hidden vectors (B, H); antisymmetric in a and b."""

    def reward(
        self, hidden: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None, **columns: Any
    ) -> torch.Tensor:
        """(B,) rewards of hidden vectors (B, H). Only where `scalar` is true."""
        raise TypeError(f"{type(self).__name__} compares completions and gives no scalar reward")

    def loss(
        self,
        chosen: torch.Tensor,
        rejected: torch.Tensor,
        *,
        prompt_hidden: torch.Tensor | None = None,
        margin: torch.Tensor | None = None,
        target_prob: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
        centering: float = 0.0,
        l2: float = 0.0,
        **columns: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses and preference logits, each (B,), of pairs of hidden vectors (B, H); see `losses.bradley_terry`.

        `centering` and `l2` concern scalar rewards; a head without one has no use for them.
        """
        logits = self.preference(chosen, rejected, prompt_hidden=prompt_hidden, **columns)
        return preference_loss(logits, margin, target_prob, label_smoothing), logits

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Keyword arguments (JSON) that `build` needs to make this head again."""


class ScalarHead(Head):
    """A linear map to one reward, r(x, y) = w . h (paper 64); the preference is r(a) - r(b), as in Bradley-Terry.

    Where the backbone has a scalar head of its own (`backbone.linear`, as every sequence classifier), that one is used
    and trained, so the saved model is an ordinary checkpoint. A new linear map starts at N(0, 1 / (H + 1)), as there.
    """

    scalar = True

    def __init__(self, hidden_size: int, backbone: Backbone | None = None) -> None:
        super().__init__()
        self._owner = (backbone,)  # in a tuple: the backbone's parameters are not this head's
        if backbone is None:
            self.linear = nn.Linear(hidden_size, 1)
            nn.init.normal_(self.linear.weight, std=(hidden_size + 1) ** -0.5)
            nn.init.zeros_(self.linear.bias)

    @classmethod
    def build(cls, backbone: Backbone, **config: Any) -> Self:
        return cls(backbone.hidden_size, backbone if getattr(backbone, "linear", None) is not None else None)

    def reward(
        self, hidden: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None, **columns: Any
    ) -> torch.Tensor:
        backbone = self._owner[0]
        out = (self.linear if backbone is None else backbone.linear)(hidden)  # type: ignore[operator]
        return out.squeeze(-1)

    def preference(
        self, a: torch.Tensor, b: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None, **columns: Any
    ) -> torch.Tensor:
        return self.reward(a) - self.reward(b)

    def loss(
        self,
        chosen: torch.Tensor,
        rejected: torch.Tensor,
        *,
        prompt_hidden: torch.Tensor | None = None,
        margin: torch.Tensor | None = None,
        target_prob: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
        centering: float = 0.0,
        l2: float = 0.0,
        **columns: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        r_chosen, r_rejected = self.reward(torch.cat([chosen, rejected])).chunk(2)
        loss = bradley_terry(r_chosen, r_rejected, margin, target_prob, label_smoothing, centering, l2)
        return loss, r_chosen - r_rejected

    def config(self) -> dict[str, Any]:
        return {}


def build_head(head: str | Head, backbone: Backbone, **config: Any) -> Head:
    """`scalar`, `gpm`, `odin`, the `module.Class` of a head of this library, or a ready `Head`, for a backbone."""
    if isinstance(head, Head):
        return head
    path = {
        "scalar": "rewardsmith.models.heads.ScalarHead",
        "gpm": "rewardsmith.models.gpm.SkewHead",
        "odin": "rewardsmith.models.odin.QualityLengthHead",
    }.get(head, head)
    module, _, name = path.rpartition(".")
    if not module.startswith("rewardsmith."):
        raise ValueError(f"head must be 'scalar', 'gpm', 'odin' or a Head, not {head!r}")
    found = getattr(importlib.import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Head)):
        raise ValueError(f"{path!r} is no head")
    return found.build(backbone, **config)


def head_path(head: Head) -> str:
    """The `module.Class` by which `build_head` finds the class of a head again."""
    return f"{type(head).__module__}.{type(head).__qualname__}"
