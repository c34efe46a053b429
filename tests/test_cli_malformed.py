"""Bad input: each gives one line that says where and what, exit status 2, no traceback, nothing half-written."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

GOOD = {"prompt": "What is the capital of France?", "chosen": "It is Paris.", "rejected": "It is Rome."}
CHAT = {
    "prompt": [{"role": "user", "content": "Hi"}],
    "chosen": [{"role": "assistant", "content": "Hello, how can I help?"}],
    "rejected": [{"role": "assistant", "content": "What?"}],
}
ROWS = [{**GOOD, "prompt": f"{GOOD['prompt']} ({i})"} for i in range(6)]


def jsonl(folder: Path, rows: list, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def with_row(change: dict, base: dict = GOOD, row: int = 3) -> Callable[[Path], Path]:
    """A file of good rows but for one."""

    def make(folder: Path) -> Path:
        rows = [{**base, "id": str(i)} for i in range(6)]
        rows[row] = {k: v for k, v in {**rows[row], **change}.items() if v is not ...}
        return jsonl(folder, rows)

    return make


def raw(content: bytes, name: str = "data.jsonl") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def parquet_cut(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = folder / "whole.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS * 50), whole)
    cut = folder / "data.parquet"
    cut.write_bytes(whole.read_bytes()[:-200])
    return cut


def two_gaps(folder: Path) -> Path:
    rows = [dict(row) for row in ROWS]
    del rows[2]["rejected"]
    return jsonl(folder, rows)


LINE = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
GZ = gzip.compress(LINE * 500)

# name -> (what to train on, words that the one line must hold)
TRAIN_CASES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "missing column": (lambda d: jsonl(d, [{"prompt": "a", "chosen": "b"}]), ["rejected"]),
    "column missing in one row": (two_gaps, ["row 2", "rejected"]),
    "no known layout": (lambda d: jsonl(d, [{"x": 1, "y": 2}]), ["x", "y", "chosen"]),
    "chosen is a number": (with_row({"chosen": 7}), ["row 3", "chosen"]),
    "chosen is null": (with_row({"chosen": None}), ["row 3", "chosen"]),
    "chosen is empty": (with_row({"chosen": ""}), ["row 3", "chosen", "empty"]),
    "rejected is white space": (with_row({"rejected": " \n\t"}), ["row 3", "rejected", "empty"]),
    "prompt is a number": (with_row({"prompt": 3}), ["row 3", "prompt"]),
    "prompt is null": (with_row({"prompt": None}), ["row 3", "prompt"]),
    "identical completions": (with_row({"rejected": GOOD["chosen"]}), ["row 3", "chosen", "rejected"]),
    "margin is NaN": (with_row({"margin": float("nan")}), ["row 3", "margin"]),
    "margin is infinite": (with_row({"margin": float("inf")}), ["row 3", "margin"]),
    "margin is text": (with_row({"margin": "large"}), ["row 3", "margin"]),
    "target_prob above one": (with_row({"target_prob": 1.5}), ["row 3", "target_prob"]),
    "unknown role": (with_row({"chosen": [{"role": "robot", "content": "x"}]}, CHAT), ["row 3", "chosen", "robot"]),
    "message without content": (with_row({"chosen": [{"role": "assistant"}]}, CHAT), ["row 3", "chosen", "content"]),
    "message without role": (with_row({"chosen": [{"content": "x"}]}, CHAT), ["row 3", "chosen", "role"]),
    "message is a string": (with_row({"chosen": ["x"]}, CHAT), ["row 3", "chosen"]),
    "no messages": (with_row({"chosen": []}, CHAT), ["row 3", "chosen"]),
    "last message is the user's": (with_row({"chosen": [{"role": "user", "content": "x"}]}, CHAT), ["row 3", "chosen"]),
    "assistant says nothing": (with_row({"chosen": [{"role": "assistant", "content": ""}]}, CHAT), ["row 3", "chosen"]),
    "image does not exist": (with_row({"images": ["nowhere/cat.png"]}), ["row 3", "images", "cat.png"]),
    "broken JSON on a line": (raw(LINE * 3 + b'{"prompt": "a", "cho\n' + LINE), ["line 4"]),
    "a line that is a list": (raw(LINE * 2 + b"[1, 2]\n"), ["line 3"]),
    "a line that is a number": (raw(LINE * 2 + b"7\n"), ["line 3"]),
    "not UTF-8": (raw(LINE * 2 + b'{"prompt": "caf\xe9", "chosen": "b", "rejected": "c"}\n'), ["line 3", "UTF-8"]),
    "an empty file": (raw(b""), ["empty"]),
    "blank lines only": (raw(b"\n\n\n"), ["empty"]),
    "no such file": (lambda d: d / "none.jsonl", ["none.jsonl"]),
    "a folder without data": (lambda d: d, []),
    "unknown ending": (raw(b"hello", "data.docx"), ["docx"]),
    "cut gzip": (raw(GZ[: len(GZ) // 2], "data.jsonl.gz"), ["data.jsonl.gz"]),
    "not gzip at all": (raw(LINE, "data.jsonl.gz"), ["data.jsonl.gz"]),
    "truncated Parquet": (parquet_cut, ["data.parquet"]),
    "CSV without a header": (raw(b"a,b,c\nd,e,f\n", "data.csv"), ["chosen"]),
    "CSV with a ragged row": (raw(b"prompt,chosen,rejected\na,b,c\nd,e\n", "data.csv"), ["rejected"]),
    "CSV with an empty cell": (raw(b"prompt,chosen,rejected\na,b,c\nd,,f\n", "data.csv"), ["chosen", "row 1"]),
}


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    from rewardsmith.cli import main

    monkeypatch.setattr(sys, "argv", ["rewardsmith", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    captured = capsys.readouterr()
    assert captured.out == ""
    return int(exit_.value.code or 0), captured.err


def assert_one_line(code: int, message: str, words: list[str]) -> None:
    assert code == 2, message
    lines = [line for line in message.splitlines() if line.strip()]
    assert len(lines) == 1, message
    assert lines[0].startswith("rewardsmith: error: ") and "Traceback" not in message
    for word in words:
        assert word in lines[0], f"{word!r} is not in: {lines[0]}"


@pytest.mark.parametrize("name", TRAIN_CASES)
def test_train_refuses(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    make, words = TRAIN_CASES[name]
    (tmp_path / "in").mkdir()
    data = make(tmp_path / "in")
    code, message = run(["train", str(data), "--out", str(tmp_path / "model")], monkeypatch, capsys)
    assert_one_line(code, message, words)
    assert not (tmp_path / "model").exists()


def words_reward(completion: str) -> float:
    return float(len(completion.split()))


REWARD = f"{Path(__file__)}:words_reward"

OTHER_CASES: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "score without a completion": (
        lambda d: ["score", REWARD, str(jsonl(d, [{"prompt": "a"}])), "--out", str(d / "s.jsonl")],
        ["row 0", "completion"],
    ),
    "score with broken JSON": (
        lambda d: ["score", REWARD, str(raw(b'{"prompt": "a"\n')(d)), "--out", str(d / "s.jsonl")],
        ["line 1"],
    ),
    "evaluate on unpaired data": (
        lambda d: ["evaluate", REWARD, str(jsonl(d, [{"prompt": "a", "completion": "b"}]))],
        ["chosen"],
    ),
    "evaluate by an unknown column": (
        lambda d: ["evaluate", REWARD, str(jsonl(d, ROWS)), "--by", "topic"],
        ["topic"],
    ),
    "no such model": (lambda d: ["evaluate", str(d / "no-model"), str(jsonl(d, ROWS))], ["no-model"]),
    "no such function": (lambda d: ["evaluate", "json:nothing", str(jsonl(d, ROWS))], ["nothing"]),
    "a function that takes no completion": (
        lambda d: ["audit", "json:dumps", str(jsonl(d, ROWS))],
        ["completion"],
    ),
    "best-of-n without candidates": (lambda d: ["best-of-n", REWARD, str(jsonl(d, ROWS))], ["candidates"]),
    "audit of nothing": (lambda d: ["audit", REWARD, str(raw(b"")(d))], ["empty"]),
    "an unknown paper": (lambda d: ["reproduce", "99"], ["99"]),
    "a paper that is no number": (lambda d: ["reproduce", "gpm"], ["gpm"]),
}


@pytest.mark.parametrize("name", OTHER_CASES)
def test_other_commands_refuse(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    make, words = OTHER_CASES[name]
    arguments = make(tmp_path)
    code, message = run(arguments, monkeypatch, capsys)
    assert_one_line(code, message, words)
    assert not (tmp_path / "s.jsonl").exists() or (tmp_path / "s.jsonl").read_text() == ""
