"""An ensemble of K heads on one backbone against K models: CPU-seconds to score, and to score with their uncertainty.

The backbone is a Llama of 6 layers, 256 wide, with random weights; both sides read the same completions. The ensemble
makes one pass, K models make K; what the members say is the same where their heads are.

    python benchmarks/ensembles.py
    python benchmarks/ensembles.py --members 10 --completions 64
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np
import torch
from scoring import sentences, tiny

from rewardsmith.models import RewardModel, ScalarHead
from rewardsmith.models.ensemble import EnsembleHead


class Member(ScalarHead):
    """One member of an ensemble as a head of its own."""

    def __init__(self, head: EnsembleHead, k: int) -> None:
        super().__init__(head.maps.last.in_features)
        with torch.no_grad():
            self.linear.weight.copy_(head.maps.last.weight[k : k + 1])
            self.linear.bias.copy_(head.maps.last.bias[k : k + 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--completions", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = random.Random(0)
    backbone = tiny()
    head = EnsembleHead(backbone.hidden_size, members=options.members)
    single = RewardModel(backbone, Member(head, 0))
    ensemble = RewardModel(backbone, head)
    members = [RewardModel(backbone, Member(head, k)) for k in range(options.members)]
    batch = {
        "prompt": [sentences(rng, 120) for _ in range(options.completions)],
        "completion": [sentences(rng, 40) for _ in range(options.completions)],
    }
    single.score(batch)  # warm

    def timed(score):
        start = time.process_time()
        found = score()
        return time.process_time() - start, found

    alone, _ = timed(lambda: single.score(batch))
    one, together = timed(lambda: ensemble.score(batch))
    many, apart = timed(lambda: np.stack([member.score(batch).values for member in members]))
    print(f"{options.completions} completions, {options.members} members")
    print(f"one model, one head     {alone:7.2f} CPU s")
    print(f"ensemble, one backbone  {one:7.2f} CPU s   {one / alone:.2f} of one model")
    print(f"a model per member      {many:7.2f} CPU s   {many / one:.1f} times the ensemble")
    print(f"largest difference of mean and std  {np.abs(together.values - apart.mean(0)).max():.1e}", end="  ")
    print(f"{np.abs(together.std - apart.std(0, ddof=1)).max():.1e}")


if __name__ == "__main__":
    main()
