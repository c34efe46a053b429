"""A reward for verl.

reward.custom_reward_function.path=examples/verl_reward.py reward.custom_reward_function.name=compute_score
"""

import re

from rewardsmith import from_function
from rewardsmith.adapters.verl import as_compute_score


def correct(completion: str, answer: str) -> float:
    """1 where the last number of the completion is the ground truth."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", completion)
    return float(bool(numbers) and numbers[-1] == answer)


def shows_work(prompt: str, completion: str) -> float:
    """1 where every number of the question is used."""
    return float(set(re.findall(r"\d+", prompt)) <= set(re.findall(r"\d+", completion)))


reward = from_function(correct) + 0.1 * from_function(shows_work)
# verl logs `correct` and `shows_work` beside the score; the prompt is the entry `question` of extra_info.
compute_score = as_compute_score(reward, prompt_key="question", failed=-1.0)
