"""The page on columns says what the code says, and its examples are good rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rewardsmith.data import COLUMNS, KINDS, check

PAGE = (Path(__file__).parents[2] / "docs" / "columns.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_is_on_the_page(name: str) -> None:
    kind, meaning = COLUMNS[name]
    assert f"| `{name}` | {kind} | {meaning} |" in PAGE


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_on_the_page_with_a_good_row(name: str) -> None:
    required, optional = (", ".join(f"`{c}`" for c in names) for names in (KINDS[name].required, KINDS[name].optional))
    assert f"| {name} | {required} | {optional} | {KINDS[name].meaning} |" in PAGE
    [example] = re.findall(rf"### {name}\n\n```json\n(.*)\n```", PAGE)
    row = json.loads(example)
    assert check([row], name)[0] == [row]
