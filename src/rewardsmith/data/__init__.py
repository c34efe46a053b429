"""Data: what columns hold, checks, loading, conversions, splits and writing. The names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_LAZY = {
    "COLUMNS": "records",
    "KINDS": "records",
    "CheckReport": "checks",
    "Contamination": "split",
    "RecordError": "records",
    "ResumableWriter": "write",
    "check": "checks",
    "contamination": "split",
    "iter_rows": "load",
    "load_data": "load",
    "near_duplicates": "split",
    "split_by_prompt": "split",
    "split_by_user": "users",
    "with_histories": "users",
    "write_rows": "write",
}
__all__ = [
    "COLUMNS",
    "KINDS",
    "CheckReport",
    "Contamination",
    "RecordError",
    "ResumableWriter",
    "check",
    "contamination",
    "iter_rows",
    "load_data",
    "near_duplicates",
    "split_by_prompt",
    "split_by_user",
    "with_histories",
    "write_rows",
]

if TYPE_CHECKING:
    from rewardsmith.data.checks import CheckReport, check
    from rewardsmith.data.load import iter_rows, load_data
    from rewardsmith.data.records import COLUMNS, KINDS, RecordError
    from rewardsmith.data.split import Contamination, contamination, near_duplicates, split_by_prompt
    from rewardsmith.data.users import split_by_user, with_histories
    from rewardsmith.data.write import ResumableWriter, write_rows


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(f"rewardsmith.data.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'rewardsmith.data' has no attribute {name!r}")
