"""Ratings and preferences in one head (Wang et al. 2024, "HelpSteer2-Preference", arXiv 2410.01257).

A linear map gives one number per rated attribute; one of them, the helpfulness, is the reward. Ratings are fitted by
regression, preferences by Bradley-Terry on that same output, so a model may learn from the one and then from the other:

    rated = train(ratings, "some/model", head=RatingsHead(hidden_size, ["helpfulness"]))
    both = train(pairs, rated.model.backbone, head=rated.model.head)   # the head goes on from where it is

With `data.strengths.prefer_by_strength(rows, use="weight")` the second stage is the paper's scaled Bradley-Terry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import nn

from rewardsmith.data.strengths import ATTRIBUTES
from rewardsmith.models.backbones import Backbone
from rewardsmith.models.heads import Head, ScalarHead


def masked_regression(outputs: torch.Tensor, ratings: torch.Tensor) -> torch.Tensor:
    """Squared errors of the attributes that were rated, the mean of which is that over all ratings that are there.

    Args:
        outputs: (B, A).
        ratings: (B, A), NaN where an attribute was not rated; no gradient flows from there.

    Returns:
        (B,) losses: sum of squared errors of a row, times B / number of ratings in the batch.

    Raises:
        ValueError: for a row without any rating.
    """
    known = ~torch.isnan(ratings)
    if not bool(known.any(1).all()):
        row = int((~known.any(1)).nonzero()[0])
        raise ValueError(f"row {row} has no rating at all: leave it out")
    error = torch.where(known, outputs - torch.where(known, ratings, 0.0), 0.0)
    return error.square().sum(1) * (len(ratings) / known.sum())


class RatingsHead(ScalarHead):
    """A linear map to A attributes, of which one is the reward; the preference is the difference of that one.

    `Scores.parts` holds all of them. Training on preferences moves the reward's weights alone.

    Args:
        hidden_size: H.
        attributes: names of what is rated, as in the column `attributes`. Default: HelpSteer2's five.
        reward_attribute: the one that is the reward. Default: the first.
    """

    def __init__(
        self, hidden_size: int, attributes: Sequence[str] = ATTRIBUTES, reward_attribute: str | None = None
    ) -> None:
        Head.__init__(self)  # not ScalarHead's, which makes a map to one number
        if not attributes or len(set(attributes)) < len(attributes):
            raise ValueError(f"attributes must be different names, at least one; got {list(attributes)}")
        self.attributes = tuple(attributes)
        self.reward_attribute = self.attributes[0] if reward_attribute is None else reward_attribute
        if self.reward_attribute not in self.attributes:
            raise ValueError(f"the reward must be one of {', '.join(self.attributes)}, not {self.reward_attribute!r}")
        self.linear = nn.Linear(hidden_size, len(self.attributes))
        nn.init.normal_(self.linear.weight, std=(hidden_size + 1) ** -0.5)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def build(cls, backbone: Backbone, **config: Any) -> Self:
        return cls(backbone.hidden_size, **config)

    def reward(
        self, hidden: torch.Tensor, *, prompt_hidden: torch.Tensor | None = None, **columns: Any
    ) -> torch.Tensor:
        return self.linear(hidden)[:, self.attributes.index(self.reward_attribute)]

    def parts(self, hidden: torch.Tensor, **inputs: Any) -> dict[str, torch.Tensor]:
        return dict(zip(self.attributes, self.linear(hidden).unbind(1)))

    def rating_loss(
        self, hidden: torch.Tensor, *, rating: torch.Tensor, **inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.linear(hidden)
        return masked_regression(outputs, rating), (outputs - rating).abs().nanmean(1)

    def config(self) -> dict[str, Any]:
        return {"attributes": list(self.attributes), "reward_attribute": self.reward_attribute}
