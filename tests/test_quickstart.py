"""The quickstart tells a true story: these are the numbers that its page speaks of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rewardsmith.models import load_model
from rewardsmith.quickstart import run


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, run(folder, say=lambda text: None)


def test_the_story_holds(told: tuple[Path, dict[str, Any]]) -> None:
    _, result = told
    plain, combined, unbiased = result["best_of_n"].values()
    assert result["evaluations"][0]["accuracy"]["low"] > 0.7
    padding = [
        next(finding for finding in audit["findings"] if finding["probe"] == "stock padding")
        for audit in result["audit"].values()
    ]
    assert padding[0]["severity"] == "serious" and padding[0]["low"] > 0.5
    assert padding[1]["effect"] < 0.5 * padding[0]["effect"] and padding[2]["severity"] == "ok"
    proxy = [row["proxy"] for row in plain["curve"]]
    assert proxy == sorted(proxy)
    assert plain["over_optimized"] and plain["curve"][-1]["gold"] < plain["curve"][0]["gold"]
    for better in (combined, unbiased):
        assert better["curve"][-1]["gold_low"] > plain["curve"][-1]["gold_high"]
        assert better["curve"][-1]["gold"] > better["curve"][0]["gold"]


def test_it_leaves_what_it_says(told: tuple[Path, dict[str, Any]]) -> None:
    folder, result = told
    assert {"report.html", "result.json", "picks.jsonl", "model", "figures"} <= {path.name for path in folder.iterdir()}
    score = load_model(folder / "model")(["What is the capital of France?"], ["The capital of France is Paris."])
    assert score[0] is not None
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{100 * result['evaluations'][0]['accuracy']['value']:.1f} %" in page
