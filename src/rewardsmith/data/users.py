"""Records of many users: histories of choices for personal models, and splits that keep users apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.data.records import RecordError, Row, as_columns

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

CHOICE = ("prompt", "chosen", "rejected")


def by_user(records: Any) -> dict[Any, list[int]]:
    """Row numbers of each user, in the order in which they come.

    Raises:
        RecordError: for a row without a user.
        ValueError: where there is no column `user`.
    """
    columns = as_columns(records)
    if "user" not in columns:
        raise ValueError(f"no column 'user': who preferred; there are {sorted(columns)}")
    rows: dict[Any, list[int]] = {}
    for row, user in enumerate(columns["user"]):
        if user is None:
            raise RecordError("is missing: who preferred", row=row, column="user")
        rows.setdefault(user, []).append(row)
    return rows


def choices(records: Any, rows: Sequence[int] | None = None) -> list[Row]:
    """Rows as a history has them: prompt, chosen and rejected alone."""
    columns = as_columns(records)
    prompts = columns.get("prompt") or [""] * len(columns["chosen"])
    every = range(len(prompts)) if rows is None else rows
    return [{"prompt": prompts[i], "chosen": columns["chosen"][i], "rejected": columns["rejected"][i]} for i in every]


def with_histories(records: Any, size: int | tuple[int, int] = (2, 8), *, seed: int = 0) -> list[Row]:
    """Give each row a `history`: other choices of its user, drawn without replacement.

    Args:
        records: preferences with a `user`.
        size: of a history, or the smallest and largest, drawn evenly. A user with fewer other choices gives them all;
            one with a single choice has an empty history.
        seed: of the draw.

    Returns:
        the rows, in their order.

    Raises:
        RecordError: for a row without a user.
        ValueError: for a size below 1, or a missing column.
    """
    low, high = (size, size) if isinstance(size, int) else size
    if not 1 <= low <= high:
        raise ValueError(f"size must be at least 1, smallest first, got {size}")
    columns = as_columns(records)
    generator = np.random.default_rng(seed)
    histories: list[list[Row]] = [[] for _ in columns["chosen"]]
    every = choices(columns)
    for rows in by_user(columns).values():
        for at, row in enumerate(rows):
            wanted = min(int(generator.integers(low, high + 1)), len(rows) - 1)
            drawn = generator.choice(len(rows) - 1, size=wanted, replace=False)
            histories[row] = [every[rows[i + (i >= at)]] for i in drawn]
    names = [name for name in columns if name != "history"]
    return [
        {**{name: columns[name][row] for name in names}, "history": history} for row, history in enumerate(histories)
    ]


def split_by_user(records: Any, *, test_size: float = 0.2, seed: int = 0) -> DatasetDict:
    """Split into `train` and `test` so that no user is in both.

    Args:
        records: rows with a `user`.
        test_size: share of users to hold out, in (0, 1); at least one user is on either side.
        seed: of the draw.

    Raises:
        RecordError: for a row without a user.
        ValueError: for fewer than two users, or a share outside (0, 1).
    """
    from datasets import Dataset, DatasetDict

    if not 0 < test_size < 1:
        raise ValueError(f"test_size must lie in (0, 1), got {test_size}")
    rows = by_user(records)
    if len(rows) < 2:
        raise ValueError(f"there are {len(rows)} users: nobody can be held out")
    data: Dataset = records if isinstance(records, Dataset) else Dataset.from_dict(as_columns(records))
    users = list(rows)
    order = np.random.default_rng(seed).permutation(len(users))
    held = min(max(round(test_size * len(users)), 1), len(users) - 1)
    test = {users[i] for i in order[:held]}
    parts: dict[bool, list[int]] = {False: [], True: []}
    for user, at in rows.items():
        parts[user in test] += at
    return DatasetDict({"train": data.select(sorted(parts[False])), "test": data.select(sorted(parts[True]))})
