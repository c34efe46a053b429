"""Loading: formats, packing, folders, public data; every broken file is refused by name and line."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from rewardsmith.data import RecordError, iter_rows, load_data, write_rows

ROWS = [
    {"prompt": f"Ä {i}?", "chosen": f"yes {i}\nand more", "rejected": 'no, "never"', "margin": i / 4} for i in range(5)
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
LINE = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(LINES))
    elif name.endswith(".xz"):
        path.write_bytes(lzma.compress(LINES))
    elif name.endswith(".json"):
        path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    else:
        write_rows(ROWS, path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.jsonl.xz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    data, report = load_data(path)
    assert data.to_list() == ROWS and (report.rows, report.kept, report.kind) == (5, 5, "preference")
    assert list(iter_rows(path)) == ROWS
    for start in (0, 1, 4, 5, 9):
        assert list(iter_rows(path, start=start)) == ROWS[start:]
    assert load_data(path, limit=2)[0].to_list() == ROWS[:2]


def test_large_parquet_files_start_in_any_batch(tmp_path: Path) -> None:
    rows = [{"prompt": str(i)} for i in range(3000)]
    write_rows(rows, tmp_path / "a.parquet")
    for start in (0, 1023, 1024, 1025, 2999, 3000):
        assert [row["prompt"] for row in iter_rows(tmp_path / "a.parquet", start)] == [
            str(i) for i in range(start, 3000)
        ]


@pytest.mark.parametrize(
    "source", [ROWS, Dataset.from_list(ROWS), {name: [row[name] for row in ROWS] for name in ROWS[0]}]
)
def test_data_in_memory(source: object) -> None:
    assert load_data(source)[0].to_list() == ROWS


def test_messages_survive_csv(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Hello"}],
        "rejected": [{"role": "assistant", "content": "No"}],
    }
    (tmp_path / "a.csv").write_text(
        "prompt,chosen,rejected\n" + ",".join('"' + json.dumps(row[k]).replace('"', '""') + '"' for k in row)
    )
    assert load_data(tmp_path / "a.csv")[0].to_list() == [row]


def test_csv_cells_of_text_columns_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,prompt,chosen,rejected,zip,turns\n7,1,2,3,123,1\nx,null,true,4,1a,2\n")
    data, report = load_data(tmp_path / "a.csv")
    assert data.to_list() == [
        {"id": "7", "prompt": "1", "chosen": "2", "rejected": "3", "zip": "123", "turns": 1},
        {"id": "x", "prompt": "null", "chosen": "true", "rejected": "4", "zip": "1a", "turns": 2},
    ]
    assert report.notes == {"values of 'zip' made text, for it mixes types": 2}


def test_a_column_of_ours_that_mixes_text_and_messages_is_refused() -> None:
    chat = {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "a", "rejected": "b"}
    with pytest.raises(RecordError, match="row 1, column 'prompt': mixes types"):
        load_data([ROWS[0], chat])


def test_folders(tmp_path: Path) -> None:
    for part in (0, 1):
        write_rows(ROWS[part * 2 : part * 2 + 2], tmp_path / f"train-0000{part}-of-00002.parquet")
    assert load_data(tmp_path)[0].to_list() == ROWS[:4]  # shards go together
    write_rows(ROWS[4:], tmp_path / "test.jsonl")
    assert load_data(tmp_path, split="test")[0].to_list() == ROWS[4:]
    assert load_data(tmp_path)[0].to_list() == ROWS[:4]  # train, where nothing is said
    with pytest.raises(ValueError, match="splits test, train: name one"):
        load_data(tmp_path, split="dev")
    write_rows(ROWS, tmp_path / "test.csv")
    with pytest.raises(ValueError, match=r"several formats \(test.csv, test.jsonl\)"):
        load_data(tmp_path, split="test")
    with pytest.raises(ValueError, match="no data in"):
        (tmp_path / "empty").mkdir()
        load_data(tmp_path / "empty")


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert load_data(tmp_path / "one")[0].to_list() == ROWS
    DatasetDict(a=Dataset.from_list(ROWS), b=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path / "two")
    assert load_data(tmp_path / "two", split="b")[0].to_list() == ROWS[:1]
    with pytest.raises(ValueError, match="splits a, b: name one"):
        load_data(tmp_path / "two")


def test_a_hub_id_without_a_network_is_one_line() -> None:
    with pytest.raises(ValueError) as caught:
        load_data("nobody-at-all/no-such-data")
    assert "no data at 'nobody-at-all/no-such-data'" in str(caught.value) and "\n" not in str(caught.value)


def cut_parquet(path: Path) -> bytes:
    write_rows(ROWS * 50, path.with_name("whole.parquet"))
    return path.with_name("whole.parquet").read_bytes()[:-100]


BROKEN = {  # name, content, words
    "broken JSON": ("a.jsonl", LINE * 3 + b'{"prompt": \n' + LINE, ["a.jsonl", "line 4", "JSON"]),
    "blank lines count": ("a.jsonl", LINE + b"\n\n" + b"{\n", ["line 4"]),
    "a list": ("a.jsonl", LINE + b"[1]\n", ["line 2", "list"]),
    "a number": ("a.jsonl", LINE + b"3\n", ["line 2", "int"]),
    "not UTF-8": ("a.jsonl", LINE * 2 + b'{"prompt": "\xe9"}\n', ["line 3", "UTF-8"]),
    "UTF-16": ("a.jsonl", LINE.decode().encode("utf-16"), ["line 1", "UTF-8"]),
    "too deep": ("a.jsonl", LINE + b"[" * 100_000 + b"\n", ["line 2", "deep"]),
    "empty": ("a.jsonl", b"", ["a.jsonl", "empty"]),
    "blank": ("a.jsonl", b"\n \n", ["a.jsonl", "empty"]),
    "empty list": ("a.json", b"[]", ["a.json", "empty"]),
    "JSON cut": ("a.json", b'[{"prompt": "a"},\n{"prompt', ["a.json", "line 2"]),
    "JSON of numbers": ("a.json", b"[1, 2]", ["row 0", "int"]),
    "JSON not UTF-8": ("a.json", b'[{"prompt": "\xff"}]', ["a.json", "UTF-8"]),
    "gzip cut": ("a.jsonl.gz", gzip.compress(LINES * 100)[:-40], ["a.jsonl.gz", "damaged"]),
    "gzip damaged": ("a.jsonl.gz", gzip.compress(LINES)[:30] + b"zzzz" + gzip.compress(LINES)[34:], ["a.jsonl.gz"]),
    "not gzip": ("a.jsonl.gz", LINE, ["a.jsonl.gz", "damaged"]),
    "xz cut": ("a.jsonl.xz", lzma.compress(LINES * 100)[:-20], ["a.jsonl.xz", "damaged"]),
    "not xz": ("a.jsonl.xz", LINE, ["a.jsonl.xz", "damaged"]),
    "Parquet cut": ("a.parquet", cut_parquet, ["a.parquet", "Parquet"]),
    "not Parquet": ("a.parquet", LINE, ["a.parquet", "Parquet"]),
    "CSV ragged": ("a.csv", b"prompt,chosen,rejected\na,b,c\na,b,c,d\n", ["row 1", "more cells"]),
    "CSV not UTF-8": ("a.csv", b"prompt,chosen,rejected\na,b,\xe9\n", ["a.csv", "UTF-8"]),
    "CSV open quote": ("a.csv", b'prompt,chosen,rejected\na,b,"c\n', ["a.csv", "line"]),
    "CSV short row": ("a.csv", b"prompt,chosen,rejected\na,b,c\nd,e\n", ["row 1", "'rejected'"]),
    "CSV header only": ("a.csv", b"prompt,chosen,rejected\n", ["a.csv", "empty"]),
    "unknown ending": ("a.txt", LINE, ["a.txt", ".jsonl"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    file, content, words = BROKEN[name]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content(path))
    with pytest.raises(ValueError) as caught:
        load_data(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_rows_before_a_broken_line_are_streamed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE * 3 + b"{")
    rows = iter_rows(tmp_path / "a.jsonl")
    assert [next(rows)["prompt"] for _ in range(3)] == ["a"] * 3
    with pytest.raises(ValueError, match="line 4"):
        next(rows)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for source in (tmp_path / "none.jsonl", "none.parquet"):
        with pytest.raises(ValueError, match=r"there is no file.*none\."):
            load_data(source)


def test_skipped_rows_are_counted_by_reason() -> None:
    rows = [*ROWS, {**ROWS[0], "chosen": ""}, {**ROWS[0], "chosen": " "}, {**ROWS[0], "margin": "x"}]
    data, report = load_data(rows, on_bad="skip")
    assert data.to_list() == ROWS
    assert report.to_dict()["reasons"] == {"chosen: empty": 2, "margin: wrong type": 1} and report.skipped == 3


def test_real_transcripts(shared_data: Path) -> None:
    """Of hh-rlhf every row is read; in one of each part the assistant says nothing, which is refused by row."""
    for name, rows, silent in (("train", 1373, 668), ("test", 364, 13)):
        path = shared_data / "hh-rlhf" / f"{name}.jsonl.xz"
        with pytest.raises(RecordError, match=f"row {silent}, column 'chosen': is empty"):
            load_data(path)
        data, report = load_data(path, on_bad="skip")
        assert (report.rows, report.kept, report.reasons) == (rows, rows - 1, {"chosen: empty": 1})
        raw = [row for number, row in enumerate(iter_rows(path)) if number != silent]
        for row, whole in zip(data, raw, strict=True):
            assert row["prompt"] + row["chosen"] == whole["chosen"]
            assert row["prompt"] + row["rejected"] == whole["rejected"]
            assert row["prompt"].endswith("\n\nAssistant:")


def test_real_judgements(shared_data: Path) -> None:
    for name, rows in (("Natural", 100), ("Adversarial_Neighbor", 134), ("Adversarial_GPTInst", 92)):
        path = shared_data / "llmbar" / f"llmbar_{name}.json.xz"
        data, report = load_data(path)
        assert len(data) == rows and report.skipped == 0
        for row, raw in zip(data, iter_rows(path), strict=True):
            assert row["chosen"] == raw[f"output_{raw['label']}"] and row["prompt"] == raw["input"]
    for name, ties in (("NullModel", 0), ("claude-2.1", 2), ("gemma-7b-it", 1)):
        path = shared_data / "alpaca-eval" / f"annotations_{name}.json.xz"
        data, report = load_data(path, on_bad="skip")
        assert len(data) == 805 - ties and report.skipped == ties
        assert {*data["generator_chosen"], *data["generator_rejected"]} >= {"gpt4_1106_preview"}
        assert min(data["target_prob"]) > 0.5
        wins = sum(row["preference"] > 1.5 for row in iter_rows(path))
        assert sum(name != "gpt4_1106_preview" for name in data["generator_chosen"]) == wins


def test_other_layouts_are_not_guessed(shared_data: Path) -> None:
    with pytest.raises(ValueError, match=r"'prediction 1'.*no known layout.*chosen"):
        load_data(shared_data / "finegrained-rlhf" / "dev_feedback.json.xz")
