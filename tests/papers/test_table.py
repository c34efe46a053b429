"""The table of papers, and what `reproduce` says about those that it cannot run."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

import rewardsmith.papers
from rewardsmith.papers import Outcome, list_papers, reproduce


def test_there_are_66_papers_in_order():
    assert [paper.number for paper in list_papers()] == list(range(1, 67))


def test_every_row_is_complete():
    for paper in list_papers():
        assert paper.title and re.fullmatch(r"\d{4}\.\d{5}", paper.arxiv)
        assert 2016 <= paper.year <= 2025
        assert json.loads(json.dumps(paper.to_dict()))["built"] is paper.built
    assert len({paper.arxiv for paper in list_papers()}) == 66


def test_every_claim_file_is_in_the_table_and_the_other_way_round():
    files = {file.stem for file in Path(rewardsmith.papers.__file__).parent.glob("p[0-9][0-9]_*.py")}
    assert files == {paper.module for paper in list_papers() if paper.built}
    assert all(paper.module.startswith(f"p{paper.number:02d}_") for paper in list_papers() if paper.built)


@pytest.mark.parametrize("number", [0, 67, -1])
def test_a_number_that_is_no_papers(number):
    with pytest.raises(ValueError, match="numbered 1 to 66"):
        reproduce(number)


def test_a_paper_that_is_not_built_says_so_and_what_is():
    missing = next(paper for paper in list_papers() if not paper.built)
    with pytest.raises(ValueError, match=rf"paper {missing.number} .* not built yet; built are .*26.*64"):
        reproduce(missing.number)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="'small' or 'full'"):
        reproduce(26, scale="huge")


def fake(monkeypatch, checks):
    module = importlib.import_module("rewardsmith.papers.p26_general_preferences")

    def run(seed, ablate, scale):
        import matplotlib.pyplot as plt

        return Outcome([{"method": "a", "seed": seed}], checks, lambda: plt.figure())

    monkeypatch.setattr(module, "run", run)


@pytest.mark.parametrize(("second", "holds"), [(True, True), (False, False)])
def test_a_claim_holds_where_all_its_checks_do(monkeypatch, second, holds):
    fake(monkeypatch, {"one": True, "two": second})
    report = reproduce(26, seed=5)
    assert report.holds is holds
    assert report.rows == [{"method": "a", "seed": 5}]
    assert {"paper", "title", "claim", "holds", "rows", "seconds", "seed", "ablate"} <= set(report.to_dict())


def test_json_and_figure_are_written(monkeypatch, tmp_path):
    fake(monkeypatch, {"one": True})
    report = reproduce(26, ablate=True, out=tmp_path / "new")
    assert json.loads((tmp_path / "new" / "26-ablated.json").read_text()) == report.to_dict()
    assert (tmp_path / "new" / "26-ablated.png").read_bytes().startswith(b"\x89PNG")
