"""The command line on good input: what each command prints, writes and returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewardsmith.cli import main

TOPICS = ["rivers", "bread", "chess", "clouds", "bicycles", "glass", "bees", "maps", "trains", "salt"]


def pairs(count: int) -> list[dict]:
    """Preferences with one learnable fact: the helpful answer is chosen."""
    return [
        {
            "prompt": f"Tell me about {TOPICS[i % 10]}, question {i}.",
            "chosen": f"Here is a helpful explanation of {TOPICS[i % 10]} with detail {i % 7}.",
            "rejected": f"No idea, ask someone else about {TOPICS[(i + 3) % 10]} {i % 5}.",
            "category": "odd" if i % 2 else "even",
        }
        for i in range(count)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command in this process: (exit status, stdout)."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rewardsmith", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    from rewardsmith.models import train

    train(pairs(120), "hashed", output_dir=folder / "model")
    return folder / "model"


def test_train_reports_what_it_did(call, tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", pairs(120))
    code, out = call("train", data, "--out", tmp_path / "model", "--test-size", 0.25, "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["data"]["kept"] == 120 and summary["data"]["skipped"] == 0
    assert summary["held_out_accuracy"]["value"] > 0.9
    assert summary["held_out_accuracy"]["n"] + summary["pairs"] == 120
    assert (tmp_path / "model" / "rewardsmith.json").is_file()


def test_evaluate_twice_gives_the_same_numbers(call, trained: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", pairs(60))
    arguments = ("evaluate", trained, data, f"{__file__}:words", "--by", "category", "--json")
    code, first = call(*arguments)
    again = call(*arguments)[1]
    result = json.loads(first)
    assert code == 0 and first == again
    assert [m["accuracy"]["n"] for m in result["models"]] == [60, 60]
    assert set(result["models"][0]["by"]["category"]) == {"odd", "even"}
    assert len(result["comparison"]["pairs"]) == 1


def test_evaluate_writes_a_report(call, trained: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "pairs.jsonl", pairs(40))
    code, out = call("evaluate", trained, data, "--out", tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert code == 0 and "accuracy" in out
    assert page.startswith("<!doctype html>") and "http://" not in page.replace("http://www.w3.org/", "")
    assert json.loads((tmp_path / "report" / "result.json").read_text())["models"][0]["accuracy"]["n"] == 40


def words(completion: str) -> float:
    return float(len(completion.split()))


def test_audit_finds_that_a_word_counter_counts_words(call, tmp_path: Path) -> None:
    code, out = call("audit", f"{__file__}:words", "sample", "--limit", 60, "--out", tmp_path / "audit", "--json")
    findings = json.loads(out)["findings"]
    assert code == 0
    assert any("length" in f["group"] and f["severity"] == "serious" for f in findings)
    assert (tmp_path / "audit" / "report.html").is_file()


def test_best_of_n_picks_and_draws_the_curve(call, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"question {i}", "candidates": ["a", "a b", "a b c", "a b c d"], "gold": [0.0, 1.0, 2.0, -3.0]}
        for i in range(12)
    ]
    data = write(tmp_path / "candidates.jsonl", rows)
    out_path = tmp_path / "picks.jsonl"
    code, out = call("best-of-n", f"{__file__}:words", data, "--gold", "gold", "--out", out_path, "--json")
    result = json.loads(out)
    assert code == 0
    assert [row["n"] for row in result["curve"]] == [1, 2, 4]
    assert [row["gold"] for row in result["curve"]] == pytest.approx([0.0, (-3 * 3 + 2 * 2 + 1) / 6, -3.0])
    picks = read(out_path)
    assert len(picks) == 12 and all(pick["completion"] == "a b c d" for pick in picks)


def test_scores_of_a_file_are_shaped(tmp_path, call):
    rows = [
        {"prompt": "a", "completion": "x", "score": 2.0, "ref_rewards": [1.0, 3.0]},
        {"prompt": "b", "completion": "y", "score": None, "ref_rewards": [1.0]},
        {"prompt": "c", "completion": "z", "score": 1.0, "ref_rewards": []},
    ]
    data = write(tmp_path / "scored.jsonl", rows)
    status, _ = call("score", "column:score", data, "--transform", "par", "--out", tmp_path / "par.jsonl")
    shaped = read(tmp_path / "par.jsonl")
    assert status == 0 and [line["score"] for line in shaped] == [0.5, None, None]
    assert [line["parts"]["raw"] for line in shaped] == [2.0, None, 1.0]
    assert shaped[2]["failure"].startswith("no_reference")
    table = write(tmp_path / "references.jsonl", [{"prompt": "a", "ref_rewards": [2.0]}])
    options = ("--transform", "length:1+centered", "--references", table)
    assert call("score", "column:score", data, *options, "--out", tmp_path / "centered.jsonl")[0] == 0
    assert [line["score"] for line in read(tmp_path / "centered.jsonl")] == [0.0, None, None]
    assert call("score", "column:score", data, "--references", table, "--out", tmp_path / "no.jsonl")[0] == 2


def test_running_statistics_do_not_go_on_from_a_half_written_file(tmp_path, call):
    rows = [{"prompt": "a", "completion": "x", "score": float(i)} for i in range(4)]
    data, out = write(tmp_path / "scored.jsonl", rows), tmp_path / "out.jsonl"
    options = ("score", "column:score", data, "--transform", "mean-std", "--out", out)
    assert call(*options)[0] == 0 and len(read(out)) == 4
    assert call(*options)[0] == 2
    assert call(*options, "--overwrite")[0] == 0


def test_score_streams_every_shape_of_row(call, tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completion": "one two"},
        {"prompt": "p", "chosen": "one", "rejected": "one two three"},
        {"prompt": "p", "candidates": ["one", "one two"]},
    ]
    data = write(tmp_path / "rows.jsonl", rows)
    code, _ = call("score", f"{__file__}:words", data, "--out", tmp_path / "scores.jsonl", "--batch-size", 2)
    assert code == 0
    assert read(tmp_path / "scores.jsonl") == [
        {"row": 0, "score": 2.0},
        {"row": 1, "chosen_score": 1.0, "rejected_score": 3.0},
        {"row": 2, "scores": [1.0, 2.0]},
    ]


def rated(completion: str) -> dict:
    return {"score": None if completion == "?" else 1.0, "politeness": 0.5}


def test_score_keeps_parts_and_says_why_there_is_no_score(call, tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": "!"}, {"prompt": "p", "completion": "?"}])
    code, _ = call("score", f"{__file__}:rated", data, "--out", tmp_path / "scores.jsonl")
    assert code == 0
    first, second = read(tmp_path / "scores.jsonl")
    assert first == {"row": 0, "score": 1.0, "parts": {"politeness": 0.5}}
    assert second["score"] is None and second["failure"].startswith("missing: ")


def slow_words(completion: str) -> float:
    time.sleep(0.004)
    return words(completion)


def test_score_goes_on_after_a_kill(tmp_path: Path) -> None:
    """SIGKILL in the middle, then the same command again: every row once, in order, as without the kill."""
    rows = [{"prompt": f"p{i}", "completion": "word " * (i % 9 + 1)} for i in range(600)]
    data, out_path = write(tmp_path / "rows.jsonl", rows), tmp_path / "scores.jsonl"
    command = [sys.executable, "-m", "rewardsmith", "score", f"{__file__}:slow_words", str(data)]
    command += ["--out", str(out_path), "--batch-size", "16", "--json"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not out_path.exists() or out_path.stat().st_size < 2_000:
        assert running.poll() is None, "the command ended before it could be killed"
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    left = out_path.read_bytes().count(b"\n")
    assert 0 < left < 600
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["rows"] == 600 and 0 < summary["resumed_at"] <= left
    assert read(out_path) == [{"row": i, "score": float(i % 9 + 1)} for i in range(600)]


def test_papers_lists_all_66(call) -> None:
    code, out = call("papers", "--json")
    table = json.loads(out)
    assert code == 0
    assert [row["number"] for row in table] == list(range(1, 67))
    assert {row["number"] for row in table if row["built"]} >= {26, 64}


def test_a_paper_that_is_not_built_says_so(call, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["rewardsmith", "reproduce", "3"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    assert "not built" in capsys.readouterr().err


def test_import_and_help_load_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "datasets", "pandas", "matplotlib", "scipy", "sklearn")
    code = f"import sys, rewardsmith, rewardsmith.cli\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
