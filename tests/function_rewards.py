"""Functions that tests load by the path of this file; it is no test itself."""

import numpy as np

from rewardsmith.reward import Reward, Scores


def length(completion: str) -> int:
    return len(completion)


def total(completions: list[str], **columns: list) -> list[float]:
    return [float(len(text)) for text in completions]


class Two(Reward):
    __name__ = "two"

    def score(self, batch) -> Scores:
        return Scores(np.full(len(batch["completion"]), 2.0))


two = Two()
number = 3
