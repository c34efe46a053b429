"""How numbers are written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rewardsmith.report.cells import Cell, as_cell, check_kind, decimals, estimate_cell, fixed, number, percent, span


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.12345, "0.123"),
        (-0.5, "−0.500"),
        (1234.5, "1,234"),
        (12345, "12,345"),
        (0.0, "0.00"),
        (1e-5, "1.00e−05"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_number(value: float, written: str) -> None:
    assert number(value) == written


def test_number_with_sign() -> None:
    assert number(0.5, 2, sign=True) == "+0.50"
    assert number(0.0, sign=True) == "0.00"


def test_percent_and_span() -> None:
    assert percent(0.7125) == "71.2%"
    assert percent(None) == "–"
    assert span(0.681, 0.744, share=True) == "68.1 to 74.4"
    assert span(None, 0.7) == ""


def test_decimals_suit_the_largest() -> None:
    assert decimals([1.42, 0.01]) == 2
    assert decimals([0.034, 0.001]) == 4
    assert decimals([142.0]) == 0
    assert decimals([0.0, math.nan]) == 2
    assert fixed(-0.001, 2) == "0.00"
    assert fixed(-0.1, 2) == "−0.10"


def test_estimate_shows_its_interval_and_sorts_by_value() -> None:
    cell = estimate_cell({"value": 0.7, "low": 0.65, "high": 0.75}, share=True)
    assert cell == Cell("70.0%", 0.7, "65.0 to 75.0")
    assert estimate_cell({"value": None, "low": None, "high": None}) == Cell("–")
    assert estimate_cell({"value": 0.7, "low": None, "high": None}).detail == ""


def test_as_cell() -> None:
    assert as_cell(np.float32(0.5)) == Cell("0.500", 0.5)
    assert as_cell(np.int64(1200)) == Cell("1,200", 1200.0)
    assert as_cell(True).text == "yes"
    assert as_cell(["a", 2]).text == "a, 2"
    assert as_cell({"value": 1.0, "low": None, "high": None}) == Cell("1.00", 1.0)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'bad'"):
        check_kind("bad")
