"""`rewardsmith select`: pairs to label, chosen by an ensemble."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rewardsmith.cli import main
from rewardsmith.models import HashedBackbone, train

TOPICS = ["rivers", "bread", "chess", "clouds"]


def helpful(topic: str) -> str:
    return f"Here is a helpful explanation of {topic}."


def unhelpful(topic: str) -> str:
    return f"No idea, ask someone else about {topic}."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble, an ordinary model, and rows with three candidates: clear pairs, and unlike anything seen."""
    folder = tmp_path_factory.mktemp("select")
    pairs = [{"prompt": f"About {t}, {i}?", "chosen": helpful(t), "rejected": unhelpful(t)}
             for i in range(10) for t in TOPICS]  # fmt: skip
    train(pairs, HashedBackbone(4, buckets=4096), head="ensemble", output_dir=folder / "ensemble")
    train(pairs, HashedBackbone(1, buckets=4096), output_dir=folder / "plain")
    rows = [
        {
            "prompt": f"About {t}?",
            "candidates": [helpful(t), unhelpful(t), f"Here is no idea of a helpful someone, {t}."],
        }
        for t in TOPICS
    ]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rewardsmith", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


def test_select_writes_the_pairs(call, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "label.jsonl"
    arguments = ("select", folder / "pool.jsonl", "--model", folder / "ensemble", "--n", 4, "--out", out)
    code, text, _ = call(*arguments, "--json")
    summary = json.loads(text)
    assert code == 0
    assert (summary["pairs"], summary["chosen"], summary["prompts"], summary["unscored"]) == (12, 4, 4, 0)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert {"prompt", "candidates", "row", "logit", "std", "probability", "score"} <= set(rows[0])
    clear = [set(row["candidates"]) == {helpful(t), unhelpful(t)} for row in rows for t in TOPICS]
    assert not any(clear)  # what the model knows well is not asked again
    code, _, err = call(*arguments)
    assert code == 2 and "exists; --overwrite replaces it" in err
    code, text, _ = call(*arguments, "--overwrite")
    assert code == 0 and "4 of 12 pairs by information" in text


def test_a_model_without_std(call, folder: Path, tmp_path: Path) -> None:
    arguments = ("select", folder / "pool.jsonl", "--model", folder / "plain", "--n", 2, "--out", tmp_path / "l.jsonl")
    code, _, err = call(*arguments)
    assert code == 2 and "head='ensemble'" in err and not (tmp_path / "l.jsonl").exists()
    code, text, _ = call(*arguments, "--by", "margin", "--no-diverse", "--json")
    assert code == 0 and json.loads(text)["chosen"] == 2


def test_best_of_n_by_what_is_sure(call, folder: Path, tmp_path: Path) -> None:
    picks = tmp_path / "picks.jsonl"
    for spec in ("lcb:0", "lcb:50"):
        code, _, _ = call("best-of-n", folder / "ensemble", folder / "pool.jsonl", "--transform", spec, "--out", picks)
        assert code == 0
        chosen = [json.loads(line)["completion"] for line in picks.read_text(encoding="utf-8").splitlines()]
        assert (chosen == [helpful(t) for t in TOPICS]) == (spec == "lcb:0")
    code, _, err = call("best-of-n", folder / "plain", folder / "pool.jsonl", "--transform", "lcb")
    assert code == 2 and "Scores.std" in err
