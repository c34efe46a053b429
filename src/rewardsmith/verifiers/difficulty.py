"""Which prompts to train on: those that the model to be trained answers worst by the reward (paper 04, data selection).

One answer per prompt by the base model is scored; the prompts with the lowest scores are the hard ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rewardsmith.data.records import Text, as_columns
from rewardsmith.reward import Reward

Mode = Literal["hard", "easy", "medium", "random"]
MODES = ("hard", "easy", "medium", "random")


@dataclass
class Selection:
    """Records picked by how well the base model answers them.

    Attributes:
        data: the records: a `datasets.Dataset` where one was given, else a dict of columns.
        rows: (n,) their rows in the whole, in the order of the whole.
        scores: (N,) the score of the base model's answer to every prompt, NaN where there is none.
        failed: prompts without a score; they are never picked.
    """

    data: Any
    rows: np.ndarray
    scores: np.ndarray
    failed: int


def select_by_difficulty(
    dataset: Any,
    base_completions: Sequence[Text],
    reward: Reward,
    n: int = 5000,
    mode: Mode = "hard",
    *,
    seed: int = 0,
) -> Selection:
    """Pick n of N records by the reward of the base model's answers.

    Args:
        dataset: N records with `prompt` and the columns that the reward reads (`references` for BLEU).
        base_completions: N answers, one to each prompt, by the model that is to be trained.
        reward: scores them.
        n: how many to pick.
        mode: `hard`: the lowest scores; `easy`: the highest; `medium`: the n around the middle rank; `random`.
        seed: of `random`, and of the order among equal scores.

    Raises:
        ValueError: for an unknown mode, where the numbers of rows differ, or fewer than n prompts have a score.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, not {mode!r}")
    columns = as_columns(dataset)
    if "prompt" not in columns:
        raise ValueError(f"no column 'prompt'; there are {sorted(columns)}")
    count = len(columns["prompt"])
    if len(base_completions) != count:
        raise ValueError(f"{count} prompts but {len(base_completions)} completions of the base model")
    scores = reward.resolved({**columns, "completion": list(base_completions)}).values
    known = np.flatnonzero(~np.isnan(scores))
    if not 1 <= n <= len(known):
        raise ValueError(f"n must be between 1 and the {len(known)} prompts that have a score, got {n}")
    order = np.random.default_rng(seed).permutation(known)
    if mode != "random":
        order = order[np.argsort(scores[order], kind="stable")]
    start = {"easy": len(order) - n, "medium": (len(order) - n) // 2}.get(mode, 0)
    rows = np.sort(order[start : start + n])
    return Selection(_rows_of(dataset, columns, rows), rows, scores, count - len(known))


def _rows_of(dataset: Mapping[str, Any] | Iterable[Any], columns: dict[str, list[Any]], rows: np.ndarray) -> Any:
    if hasattr(dataset, "select"):  # datasets.Dataset, without importing it
        return dataset.select(rows.tolist())
    return {name: [column[row] for row in rows.tolist()] for name, column in columns.items()}
