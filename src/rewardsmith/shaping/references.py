"""Reference rewards: what completions of the same prompt by the starting policy score. Computed once, then constants.

They reach a transform as a column of the batch (`ref_rewards`, one list per row) or by prompt, from a `References`
table, for trainers that pass on no columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.data.records import RecordError, Text, text_key

if TYPE_CHECKING:
    from rewardsmith.chat.protocol import ChatModel
    from rewardsmith.reward import Reward

COLUMN = "ref_rewards"


class References:
    """Reference rewards by prompt.

    Args:
        rows: rows with `prompt` and `ref_rewards` (a list of numbers, null for a reference that could not be scored).

    Raises:
        RecordError: naming the row and column that is wrong.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rewards: dict[str, list[float]] = {}
        for number, row in enumerate(rows):
            if row.get("prompt") is None:
                raise RecordError("missing", row=number, column="prompt")
            self._rewards[text_key(row["prompt"])] = _numbers(row.get(COLUMN), number)

    @classmethod
    def load(cls, path: str | Path) -> References:
        """From a file of rows (JSON lines, Parquet, CSV), as `reference_rewards` makes them."""
        from rewardsmith.data import iter_rows

        return cls(iter_rows(Path(path)))

    def __len__(self) -> int:
        return len(self._rewards)

    def lookup(self, prompts: Sequence[Text]) -> list[list[float]]:
        """The reference rewards of each prompt; an empty list for a prompt that is not in the table."""
        return [self._rewards.get(text_key(prompt), []) for prompt in prompts]


def reference_matrix(
    columns: Mapping[str, Sequence[Any]], source: str | References, max_references: int | None = None
) -> np.ndarray:
    """(B, M) reference rewards of a batch, NaN where a row has fewer than M.

    Args:
        columns: the batch.
        source: name of a column with one list (or one number) per row, or a table by prompt.
        max_references: use the first so many of each row.

    Raises:
        ValueError: where the column is not there.
        RecordError: where a row of it is not a list of numbers.
    """
    if isinstance(source, References):
        lists = source.lookup(columns["prompt"])
    else:
        if source not in columns:
            raise ValueError(
                f"no column {source!r} with reference rewards; make it with shaping.reference_rewards, or give "
                f"references=References.load(file). There are {sorted(columns)}"
            )
        lists = [_numbers(value, row, source) for row, value in enumerate(columns[source])]
    lists = [values[:max_references] for values in lists]
    out = np.full((len(lists), max(map(len, lists), default=0)), np.nan)
    for row, values in enumerate(lists):
        out[row, : len(values)] = values
    return out


def reference_rewards(
    reward: Reward,
    prompts: Sequence[Text],
    model: ChatModel,
    n: int = 10,
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.9,
    top_p: float = 0.9,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Sample n completions of each prompt from the starting policy and score them: the pre-pass of papers 61 and 28.

    Args:
        reward: what will be shaped.
        prompts: equal ones are sampled once.
        model: the starting policy, `LocalModel.from_pretrained(...)` or an endpoint.
        n: references per prompt. One is nearly as good as ten for PAR; LSC's quantile wants 64.
        max_new_tokens, temperature, top_p, seed: of sampling.

    Returns:
        one row per distinct prompt, in order: `prompt`, `references` (texts) and `ref_rewards`, null for a reference
        that could not be had or scored.
    """
    distinct = list({text_key(prompt): prompt for prompt in prompts}.values())
    groups = model.generate(distinct, n, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    texts = [[None if answer.error else answer.text for answer in group] for group in groups]
    known = [[text for text in group if text is not None] for group in texts]
    scores = [iter(values) for values in reward.score_candidates(distinct, known)]
    rows = []
    for prompt, group, values in zip(distinct, texts, scores):
        numbers = [np.nan if text is None else float(next(values)) for text in group]
        rows.append(
            {"prompt": prompt, "references": group, COLUMN: [None if np.isnan(value) else value for value in numbers]}
        )
    return rows


def _numbers(value: Any, row: int, column: str = COLUMN) -> list[float]:
    if value is None:
        return []
    if isinstance(value, bool | str | Mapping):
        raise RecordError(f"must be a list of numbers, not {type(value).__name__}", row=row, column=column)
    values = [value] if isinstance(value, int | float) else list(value)
    for number in values:
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float | np.number)):
            raise RecordError(f"must be a list of numbers, found {number!r}", row=row, column=column)
    return [float(number) for number in values if number is not None and np.isfinite(number)]
