"""Every built claim runs once as it is, and must hold, and once ablated, and must not."""

from __future__ import annotations

import json

import pytest

from rewardsmith.papers import list_papers, reproduce

BUILT = [paper.number for paper in list_papers() if paper.built]


@pytest.mark.parametrize("number", BUILT)
def test_the_claim_holds(number, tmp_path):
    report = reproduce(number, seed=0, out=tmp_path)
    assert report.holds, report.to_dict()
    assert (tmp_path / f"{number:02d}.png").stat().st_size > 1000
    assert json.loads((tmp_path / f"{number:02d}.json").read_text())["holds"] is True


@pytest.mark.parametrize("number", BUILT)
def test_it_fails_without_the_papers_ingredient(number):
    report = reproduce(number, seed=0, ablate=True)
    assert not report.holds, report.to_dict()
