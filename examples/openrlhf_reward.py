"""A reward for OpenRLHF: `python -m openrlhf.cli.train_ppo_ray --reward.remote_url examples/openrlhf_reward.py ...`.

OpenRLHF loads `reward_func` from this file. The labels of the data set reach the functions as `answer`.
"""

import re
from functools import partial

from rewardsmith import from_function
from rewardsmith.adapters.openrlhf import as_reward_func, split_query


def correct(completion: str, answer: str) -> float:
    """1 where the last number of the completion is the answer."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", completion)
    return float(bool(numbers) and numbers[-1] == answer)


def brief(completion: str) -> float:
    """0 for an empty completion, down to -1 for 400 words."""
    return -min(len(completion.split()) / 400, 1.0)


reward = from_function(correct) + 0.2 * from_function(brief)
# OpenRLHF keeps special tokens: take the end of the turn off. A sample that fails gets -1, and `failed` is logged.
reward_func = as_reward_func(reward, parse=partial(split_query, end_tokens=("<|im_end|>", "</s>")), failed=-1.0)
