"""`rewardsmith clean`: votes, the cleaned file, and a report that names every changed row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rewardsmith.cli.cleaning import clean

GOOD, BAD = ["clear", "kind", "right", "short"], ["rude", "vague", "wrong", "long"]
WRONG = (2, 9, 19, 24, 33)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty pairs, five of them with the wrong label."""
    rows = []
    for i in range(40):
        good, bad = (f"A {words[i % 4]} and {words[(i + 1) % 4]} answer" for words in (GOOD, BAD))
        chosen, rejected = (bad, good) if i in WRONG else (good, bad)
        rows.append({"prompt": f"Question {i}", "chosen": chosen, "rejected": rejected})
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def call(*arguments: object) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    app.command()(clean)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.exception


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_wrong_labels_are_found_and_flipped(data: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "cleaned.jsonl", tmp_path / "report.json"
    options = ("--members", 6, "--share", 0.5, "--epochs", 3, "--do", "flip:negative,soften", "--seed", 1)
    code, printed, _ = call(data, "--out", out, "--report", report, *options, "--json")
    summary = json.loads(printed)
    assert code == 0
    assert summary["counts"]["flip"] == 5 and summary["kept"] == 40
    assert summary["votes"]["one_run"] and summary["votes"]["votes_per_row"] == 3
    rows = read(out)
    assert all(any(word in row["chosen"] for word in GOOD) for row in rows)
    told = json.loads(report.read_text(encoding="utf-8"))
    assert sorted(change["row"] for change in told["changes"] if change["operation"] == "flip") == list(WRONG)
    assert all(row["strength"] > 0 for row in rows)
    assert any(row["target_prob"] < 1 for row in rows)


def test_strengths_that_are_there_are_used_and_the_page_names_rows(tmp_path: Path) -> None:
    data, out, page = (tmp_path / name for name in ("pairs.jsonl", "cleaned.jsonl", "report.html"))
    rows = [
        {"prompt": "p", "chosen": f"c{i}", "rejected": f"<b>r{i}</b>", "strength": s}
        for i, s in enumerate((1.0, -2.0, 0.5))
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, printed, _ = call(data, "--out", out, "--do", "drop:negative,margin", "--report", page)
    assert code == 0 and "drop" in printed
    assert [(row["chosen"], row["margin"]) for row in read(out)] == [("c0", 1.0), ("c2", 0.5)]
    html = page.read_text(encoding="utf-8")
    assert "strength below 0" in html and "&lt;b&gt;r1&lt;/b&gt;" in html


def test_bad_usage_writes_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "cleaned.jsonl"
    for wrong, message in (
        (("--do", "polish"), "there are flip, drop"),
        (("--report", tmp_path / "report.txt"), "--report is a .html or a .json file"),
    ):
        code, _, error = call(data, "--out", out, *wrong)
        assert code != 0 and isinstance(error, ValueError) and message in str(error)
    code, _, error = call(data, "--out", tmp_path / "cleaned.txt")
    assert isinstance(error, ValueError) and "--out is a .jsonl" in str(error)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.jsonl"]
