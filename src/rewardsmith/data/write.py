"""Writing rows: a whole file at once, or line by line so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self


def write_rows(rows: Iterable[Mapping[str, Any]], path: str | Path) -> int:
    """Write rows as JSON lines, or as Parquet or CSV by the ending; the file appears whole or not at all.

    Returns:
        how many rows were written.

    Raises:
        ValueError: for another ending.
        TypeError: for a value that JSON cannot hold; NaN and infinity are a ValueError.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet", ".csv"):
        raise ValueError(f"cannot write {path.name!r}: the ending must be .jsonl, .parquet or .csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=path.suffix)
    count = 0
    try:
        with os.fdopen(handle, "wb") as file:
            if path.suffix == ".jsonl":
                for row in rows:
                    file.write(_line(row, count))
                    count += 1
            else:
                from datasets import Dataset

                from rewardsmith.data.records import as_columns

                table = Dataset.from_dict(as_columns(rows))
                count = len(table)
                table.to_parquet(file) if path.suffix == ".parquet" else table.to_csv(file)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return count


def _line(row: Mapping[str, Any], number: int) -> bytes:
    """A row as a line of JSON; arrays and their numbers become lists and numbers."""
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise type(error)(f"row {number} cannot be written as JSON: {error}") from None
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy and torch
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")


class ResumableWriter:
    """JSON lines that survive a kill: what was written stays, a torn last line goes, and the next run appends.

    A small file beside it, `<name>.meta.json`, says what the lines were made from; a run with other inputs is refused.
    The file itself appears with its first line.

    Args:
        path: the file.
        meta: what the rows are made from (JSON): model, data, options.

    Attributes:
        done: rows that are written.

    Raises:
        ValueError: where the file was made from something else.
    """

    def __init__(self, path: str | Path, meta: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.meta = json.loads(json.dumps(meta or {}, sort_keys=True, default=str))
        self.done = 0
        self._file: BinaryIO | None = None
        self._sidecar = self.path.with_name(self.path.name + ".meta.json")
        if self.path.is_dir():
            raise ValueError(f"{str(self.path)!r} is a folder")
        if self.path.is_file():
            self._check_meta()
            self.done = _complete_lines(self.path)

    def _check_meta(self) -> None:
        if self.path.stat().st_size == 0:
            return
        if not self._sidecar.is_file():
            raise ValueError(f"{str(self.path)!r} exists and was not written by this command; name another file")
        try:
            saved = json.loads(self._sidecar.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{str(self._sidecar)!r} is damaged: name another file than {self.path.name!r}") from None
        changed = [key for key in {**saved, **self.meta} if saved.get(key) != self.meta.get(key)]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{str(self.path)!r} was made with another {key}: {saved.get(key)!r}, now {self.meta.get(key)!r}; "
                "name another file, or start anew"
            )

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is with the operating system when this returns."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._sidecar.with_name(self._sidecar.name + ".tmp")
            temporary.write_text(json.dumps(self.meta, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, self._sidecar)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        self._file.write(_line(row, self.done))
        self.done += 1

    def close(self) -> None:
        """Make sure that all rows are on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _complete_lines(path: Path) -> int:
    """Count the lines of a file, after cutting off a last one that has no end."""
    count, end, at = 0, 0, 0
    with open(path, "rb+") as file:
        while chunk := file.read(1 << 20):
            count += chunk.count(b"\n")
            if (last := chunk.rfind(b"\n")) >= 0:
                end = at + last + 1
            at += len(chunk)
        if end < at:
            file.truncate(end)
    return count
