"""What the columns of a data set hold, and the one place that checks and reads them.

TRL's names come first (`prompt`, `chosen`, `rejected`, `completion`, `completions`, `labels`), ours are added.
Text is either plain (`str`) or conversational (a list of `{"role", "content"}` messages), as in TRL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
Text = str | Sequence[Message]
Batch = Mapping[str, Sequence[Any]]


class RecordError(ValueError):
    """A row that cannot be used: says which row and column, and what would be right.

    Attributes:
        row: index of the row, counted from 0, or None where the whole file is meant.
        column: name of the column, or None.
    """

    def __init__(self, message: str, *, row: int | None = None, column: str | None = None) -> None:
        self.row, self.column, self.problem = row, column, message
        where = ", ".join(([] if row is None else [f"row {row}"]) + ([] if column is None else [f"column {column!r}"]))
        super().__init__(f"{where}: {message}" if where else message)


def as_columns(batch: Batch | Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Read a batch as a dict of columns of one length.

    Takes a mapping of columns, a `datasets.Dataset` (or a slice of one), or an iterable of rows.
    Rows that lack a column get None there.

    Raises:
        ValueError: where columns differ in length.
        TypeError: where `batch` is none of these.
    """
    if hasattr(batch, "column_names") and hasattr(batch, "__getitem__"):  # datasets.Dataset, without importing it
        columns = {name: list(batch[name]) for name in batch.column_names}
    elif isinstance(batch, Mapping):
        columns = {name: list(column) for name, column in batch.items()}
    elif isinstance(batch, Iterable) and not isinstance(batch, str | bytes):
        rows = list(batch)
        if not all(isinstance(row, Mapping) for row in rows):
            raise TypeError("a batch is a mapping of columns, a datasets.Dataset, or an iterable of row mappings")
        names = dict.fromkeys(name for row in rows for name in row)
        columns = {name: [row.get(name) for row in rows] for name in names}
    else:
        raise TypeError(f"a batch is a mapping of columns or an iterable of rows, not {type(batch).__name__}")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}")
    return columns


def is_conversational(text: Text | None) -> bool:
    """Whether `text` is a list of messages rather than a plain string."""
    return not isinstance(text, str) and isinstance(text, Sequence)


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list of typed parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type", "text") == "text")


def as_text(text: Text | None) -> str:
    """Plain text of a prompt or completion; of messages, their contents joined by blank lines."""
    if text is None:
        return ""
    if isinstance(text, str):
        return text
    return "\n\n".join(content_text(message.get("content")) for message in text)


def as_messages(text: Text, role: str) -> list[Message]:
    """`text` as messages; a plain string becomes one message of `role`."""
    return [{"role": role, "content": text}] if isinstance(text, str) else list(text)


def text_key(text: Text | None) -> str:
    """A string that is equal exactly where two texts are: groups rows that share a prompt."""
    if text is None or isinstance(text, str):
        return f"s:{text}"
    import json

    return "m:" + json.dumps(text, sort_keys=True, ensure_ascii=False, default=str)
