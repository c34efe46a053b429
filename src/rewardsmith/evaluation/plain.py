"""Results as plain JSON values: what every `to_dict()` of this room returns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def to_plain(value: Any) -> Any:
    """`value` as dicts, lists, strings, numbers and None, ready for `json.dumps(..., allow_nan=False)`.

    Dataclasses become dicts, arrays become lists, NaN and infinities become None (JSON has neither).

    Raises:
        TypeError: for anything else, naming its type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"a {type(value).__name__} has no plain JSON form")


def excerpt(text: str, limit: int = 600) -> str:
    """The beginning of `text`, marked where it was cut."""
    return text if len(text) <= limit else f"{text[:limit]} [... {len(text) - limit} more characters]"
