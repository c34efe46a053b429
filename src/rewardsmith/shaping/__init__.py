"""Shaping: transforms of scores, and ways to combine several rewards.

`functions` holds the maths on arrays, `transforms` what acts on `Scores`, `shaped` rewards with transforms after them,
`references` the rewards that they are compared with.
"""

from rewardsmith.shaping.references import References, reference_rewards
from rewardsmith.shaping.saving import save_reward_state
from rewardsmith.shaping.shaped import ShapedReward, conjunction, log_sigmoid, par, parse_transforms
from rewardsmith.shaping.transforms import Transform

__all__ = [
    "References",
    "ShapedReward",
    "Transform",
    "conjunction",
    "log_sigmoid",
    "par",
    "parse_transforms",
    "reference_rewards",
    "save_reward_state",
]
