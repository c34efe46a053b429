"""Writing: whole files appear at once; lines survive a kill at any byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardsmith.data import ResumableWriter, iter_rows, load_data, write_rows

ROWS = [{"prompt": f"ü{i}", "score": i / 2, "parts": [i, i + 1]} for i in range(4)]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_what_is_written_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"rows{ending}"
    assert write_rows(iter(ROWS), path) == 4
    assert list(iter_rows(path)) == ROWS
    assert os.listdir(path.parent) == [path.name]


@given(
    rows=st.lists(
        st.fixed_dictionaries({"prompt": st.text(), "rating": st.floats(allow_nan=False, allow_infinity=False)}),
        min_size=1,
    )
)
def test_any_text_survives_lines(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    write_rows(rows, path)
    assert list(iter_rows(path)) == rows


def test_half_of_a_surrogate_pair_is_escaped(tmp_path: Path) -> None:
    write_rows([{"prompt": "a\ud83d"}], tmp_path / "rows.jsonl")
    assert list(iter_rows(tmp_path / "rows.jsonl")) == [{"prompt": "a\ud83d"}]


def test_arrays_become_lists(tmp_path: Path) -> None:
    write_rows([{"a": np.arange(3), "b": np.float32(0.5)}], tmp_path / "rows.jsonl")
    assert list(iter_rows(tmp_path / "rows.jsonl")) == [{"a": [0, 1, 2], "b": 0.5}]


@pytest.mark.parametrize("bad, error", [(float("nan"), ValueError), (object(), TypeError)])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, bad: object, error: type[Exception]) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows(ROWS, path)
    with pytest.raises(error, match="row 1 cannot be written as JSON"):
        write_rows([ROWS[0], {"x": bad}], path)
    assert list(iter_rows(path)) == ROWS and os.listdir(tmp_path) == ["rows.jsonl"]


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows\.txt.*\.jsonl"):
        write_rows(ROWS, tmp_path / "rows.txt")


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with ResumableWriter(path, meta={"model": "a"}) as writer:
        assert writer.done == 0 and not path.exists()
        for row in ROWS[:2]:
            writer.write(row)
    with ResumableWriter(path, meta={"model": "a"}) as writer:
        assert writer.done == 2
        for row in ROWS[2:]:
            writer.write(row)
    assert list(iter_rows(path)) == ROWS


def test_a_run_with_other_inputs_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with ResumableWriter(path, meta={"model": "a", "data": "x"}) as writer:
        writer.write(ROWS[0])
    with pytest.raises(ValueError, match="another model: 'a', now 'b'"):
        ResumableWriter(path, meta={"model": "b", "data": "x"})
    with pytest.raises(ValueError, match="another data"):
        ResumableWriter(path, meta={"model": "a"})
    assert list(iter_rows(path)) == ROWS[:1]


def test_a_strangers_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text("mine\n")
    with pytest.raises(ValueError, match="was not written by this command"):
        ResumableWriter(path, meta={})
    with pytest.raises(ValueError, match="folder"):
        ResumableWriter(tmp_path)
    path.with_name("notes.jsonl.meta.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        ResumableWriter(path)
    assert path.read_text() == "mine\n"


def test_a_torn_line_is_dropped_wherever_it_tore(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with ResumableWriter(path) as writer:
        for row in ROWS:
            writer.write(row)
    whole = path.read_bytes()
    for size in range(1, len(whole) + 1):
        path.write_bytes(whole[:size])
        with ResumableWriter(path) as writer:
            assert writer.done == whole[:size].count(b"\n")
            for row in ROWS[writer.done :]:
                writer.write(row)
        assert path.read_bytes() == whole


CHILD = """
import sys
from rewardsmith.data.write import ResumableWriter
with ResumableWriter(sys.argv[1], meta={"run": 1}) as writer:
    for number in range(writer.done, 100_000):
        writer.write({"number": number, "text": "x" * 500})
        if number == writer.done - 1 and number % 50 == 49:
            print(number, flush=True)
"""


def test_nothing_is_lost_by_kills(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    seen = -1
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(3):
            said = int(child.stdout.readline())
            assert said > seen  # it goes on, and does not begin anew
            seen = said
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with ResumableWriter(path, meta={"run": 1}) as writer:
            done = writer.done
        assert done > seen
        numbers = [json.loads(line)["number"] for line in path.read_text().splitlines()]
        assert numbers == list(range(done))
    assert len(load_data([{"prompt": str(n)} for n in numbers])[0]) == done
