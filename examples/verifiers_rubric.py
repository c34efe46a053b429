"""A reward in a verifiers environment, in the two generations of its interface."""

import re

from rewardsmith import from_function
from rewardsmith.adapters.verifiers import as_rubric_func, as_trace_func
from rewardsmith.data.records import as_text


def correct(completion: list, answer: str) -> float:
    """1 where the last number of the last message is the answer."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", as_text(completion[-1:]))
    return float(bool(numbers) and numbers[-1] == answer)


reward = from_function(correct)
func = as_rubric_func(reward)  # vf.Rubric(funcs=[func], weights=[1.0])
score_trace = as_trace_func(reward, columns=["answer"])  # in a @vf.reward method: await score_trace(self.data, trace)
