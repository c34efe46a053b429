"""How a number, an interval or a verdict is written in a table, a tile or a figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["", "ok", "note", "warning", "serious"]
KINDS = ("ok", "note", "warning", "serious")
MISSING = "–"
MINUS = "\u2212"


@dataclass(frozen=True)
class Cell:
    """A table cell that is more than its text.

    Attributes:
        text: what is read first.
        value: what the column sorts by; None: by the text.
        detail: a quieter second part, such as an interval.
        kind: a verdict, shown as a badge: "ok", "note", "warning", "serious", or "" for none.
    """

    text: str
    value: float | None = None
    detail: str = ""
    kind: Kind = ""


def check_kind(kind: str) -> str:
    """`kind` itself, where it is one of the four verdicts or empty."""
    if kind and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return kind


def is_missing(value: Any) -> bool:
    """None, NaN and infinities: there is no number to show."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def number(value: float | int | None, digits: int = 3, *, sign: bool = False) -> str:
    """`value` with `digits` significant digits (integers whole, with thousands separators); a dash where missing."""
    if is_missing(value):
        return MISSING
    assert value is not None
    if isinstance(value, int):
        text = f"{value:+,}" if sign else f"{value:,}"
    elif value == 0 or 1e-3 <= abs(value) < 1e6:
        places = digits - 1 - (math.floor(math.log10(abs(value))) if value else 0)
        text = f"{value:{'+' if sign else ''},.{max(0, places)}f}"
        if float(text.replace(",", "")) == 0:
            text = text.lstrip("+-")
    else:
        text = f"{value:{'+' if sign else ''}.{digits - 1}e}"
    return text.replace("-", MINUS)


def decimals(values: Iterable[float]) -> int:
    """Decimal places that suit a set of numbers: three significant digits for the largest."""
    largest = max((abs(value) for value in values if not is_missing(value)), default=0.0)
    if largest == 0:
        return 2
    return max(0, 2 - math.floor(math.log10(largest)))


def fixed(value: float, places: int) -> str:
    """`value` with that many decimal places, and no minus before a zero."""
    text = f"{value:,.{places}f}"
    return (text if float(text.replace(",", "")) else text.lstrip("-")).replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as percent."""
    return MISSING if is_missing(value) else f"{100 * value:.{digits}f}%".replace("-", MINUS)  # type: ignore[operator]


def span(low: float | None, high: float | None, *, share: bool = False, digits: int = 3) -> str:
    """An interval as `low to high`, empty where there is none; `share`: both in percent, the sign left out."""
    if is_missing(low) or is_missing(high):
        return ""
    if share:
        return f"{percent(low)[:-1]} to {percent(high)[:-1]}"
    return f"{number(low, digits)} to {number(high, digits)}"


def estimate_cell(estimate: Mapping[str, Any] | None, *, share: bool = False) -> Cell:
    """`{"value", "low", "high"}` as a cell: the value, and its interval as detail.

    Args:
        share: write them in percent.
    """
    if estimate is None or is_missing(estimate.get("value")):
        return Cell(MISSING)
    value = float(estimate["value"])
    text = percent(value) if share else number(value)
    return Cell(text, value, span(estimate.get("low"), estimate.get("high"), share=share))


def as_cell(value: Any) -> Cell:
    """Any value as a cell: numbers sort by value, estimates show their interval, lists are joined."""
    if isinstance(value, Cell):
        return value
    if isinstance(value, bool):
        return Cell("yes" if value else "no", float(value))
    if is_missing(value):
        return Cell(MISSING)
    if isinstance(value, int | float):
        return Cell(number(value), float(value))
    if isinstance(value, Mapping):
        if "value" in value:
            return estimate_cell(value)
        return Cell(", ".join(f"{key}: {as_cell(item).text}" for key, item in value.items()))
    if isinstance(value, list | tuple):
        return Cell(", ".join(as_cell(item).text for item in value))
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a numpy scalar
        return as_cell(value.item())
    return Cell(str(value))
