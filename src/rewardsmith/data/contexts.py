"""Preferences that hold in a context: a criterion, a scenario, a profile (paper 52, Pitis et al. 2024).

The context is a column, `context`, until `with_context` writes it into the prompt, where every model can read it. RPR
(Reasonable Preference Reversal, `microsoft/rpr`) has two answers to each prompt, and a context in which either is the
better one: `rpr_to_preferences` makes a row of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardsmith.data.records import RecordError, Row, Text, as_columns, is_conversational, text_key

if TYPE_CHECKING:
    from datasets import DatasetDict

TEMPLATE = "[Evaluation context: {context}]"
RPR_KINDS = ("criteria", "scenario")


def rpr_to_preferences(rows: Iterable[Mapping[str, Any]], kinds: Sequence[str] = RPR_KINDS) -> list[Row]:
    """Two rows per record and kind of context: response_a is chosen in the context x, response_b in y.

    Args:
        rows: with `prompt`, `response_a`, `response_b`, and `criteria_x`, `criteria_y` or `scenario_x`, `scenario_y`;
            `category_x`, `category_y` and `id` where they are there.
        kinds: of context, `criteria` (stated) and `scenario` (implied by a story).

    Returns:
        rows of `prompt`, `chosen`, `rejected`, `context`, `kind`, `category` and `id` (the number of the record where
        it has none); the two of a reversal follow each other.

    Raises:
        RecordError: for a record that lacks a text.
    """
    if unknown := [kind for kind in kinds if kind not in RPR_KINDS]:
        raise ValueError(f"kinds must be of {', '.join(RPR_KINDS)}, not {unknown[0]!r}")
    out: list[Row] = []
    for number, row in enumerate(rows):
        for name in ("prompt", "response_a", "response_b", *(f"{kind}_{side}" for kind in kinds for side in "xy")):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise RecordError("must be text that is not empty", row=number, column=name)
        for kind in kinds:
            for side, won, lost in (("x", "response_a", "response_b"), ("y", "response_b", "response_a")):
                out.append(
                    {
                        "prompt": row["prompt"],
                        "chosen": row[won],
                        "rejected": row[lost],
                        "context": row[f"{kind}_{side}"],
                        "kind": kind,
                        "category": row.get(f"category_{side}"),
                        "id": row.get("id", number),
                    }
                )
    return out


def insert_context(prompt: Text, context: str | None, template: str = TEMPLATE) -> Text:
    """The prompt with a last line that says the context; of messages, in the last one of the user.

    A prompt without a context (None or empty), and one that has this context already, stay as they are.
    """
    if not context or split_context(prompt, template)[1] == context:
        return prompt
    head, tail = _ends(template)
    line = head + context + tail
    if not is_conversational(prompt):
        return f"{prompt}\n\n{line}" if prompt else line
    messages = [dict(message) for message in prompt]  # type: ignore[arg-type]
    at = _last_user(messages)
    if at is None:
        return [*messages, {"role": "user", "content": line}]
    content = messages[at].get("content") or ""
    if isinstance(content, str):
        messages[at]["content"] = f"{content}\n\n{line}" if content else line
    else:
        messages[at]["content"] = [*content, {"type": "text", "text": f"\n\n{line}"}]
    return messages


def split_context(prompt: Text, template: str = TEMPLATE) -> tuple[Text, str | None]:
    """A prompt as it was before `insert_context`, and the context; None where there is none."""
    if not is_conversational(prompt):
        return _split(str(prompt or ""), template)
    messages = [dict(message) for message in prompt]  # type: ignore[arg-type]
    at = _last_user(messages)
    if at is None:
        return prompt, None
    content = messages[at].get("content")
    if isinstance(content, str):
        bare, context = _split(content, template)
        if context is None:
            return prompt, None
        messages[at]["content"] = bare
        return (messages if bare else messages[:at] + messages[at + 1 :]), context
    if content and content[-1].get("type", "text") == "text":
        bare, context = _split(content[-1].get("text") or "", template)
        if context is not None:
            messages[at]["content"] = [*content[:-1], *([{**content[-1], "text": bare}] if bare else [])]
            return messages, context
    return prompt, None


def _ends(template: str) -> tuple[str, str]:
    head, found, tail = template.partition("{context}")
    if not found or not head:
        raise ValueError(f"a template must have {{context}} after some words, as {TEMPLATE!r}; got {template!r}")
    return head, tail


def _split(text: str, template: str) -> tuple[str, str | None]:
    head, tail = _ends(template)
    at = text.rfind(head)
    if at < 0 or not text.endswith(tail) or len(text) - len(tail) < at + len(head):
        return text, None
    return text[:at].removesuffix("\n\n"), text[at + len(head) : len(text) - len(tail)]


def _last_user(messages: Sequence[Mapping[str, Any]]) -> int | None:
    return next((i for i in reversed(range(len(messages))) if messages[i].get("role") == "user"), None)


def with_context(
    records: Any, template: str = TEMPLATE, *, drop: float = 0.0, seed: int = 0, column: str = "context"
) -> list[Row]:
    """Write each row's context into its prompt.

    Args:
        records: rows with a `prompt` and a `context`, which may be None.
        template: of the line that is added, with `{context}` in it.
        drop: probability with which a row loses its context and becomes an ordinary preference. A row of a reversal
            never does: without its context it would say nothing.
        seed: of the draw.
        column: that holds the context.

    Returns:
        the rows in their order; `context` is None where it was dropped.

    Raises:
        RecordError: for a context that is no text.
        ValueError: where a column is missing, or `drop` lies outside [0, 1].
    """
    if not 0 <= drop <= 1:
        raise ValueError(f"drop must lie in [0, 1], got {drop}")
    columns = as_columns(records)
    for name in ("prompt", column):
        if name not in columns:
            raise ValueError(f"no column {name!r}; there are {sorted(columns)}")
    for row, context in enumerate(columns[column]):
        if context is not None and not isinstance(context, str):
            raise RecordError(f"must be text, not {type(context).__name__}", row=row, column=column)
    dropped = np.random.default_rng(seed).random(len(columns["prompt"])) < drop
    if drop:
        dropped[[row for pair in reversals(columns, template) for row in pair]] = False
    contexts = [None if gone else context for gone, context in zip(dropped, columns[column])]
    return [
        {
            **{name: values[row] for name, values in columns.items()},
            "prompt": insert_context(columns["prompt"][row], context, template),
            column: context,
        }
        for row, context in enumerate(contexts)
    ]


def reversals(records: Any, template: str = TEMPLATE) -> list[tuple[int, int]]:
    """Pairs of rows (i, j), i < j, that order the same two completions of a prompt in opposite ways.

    Contexts in the prompts do not count as part of them. Where a pair of completions is there several times (a
    criterion and a scenario), the first of one order goes with the first of the other.
    """
    columns = as_columns(records)
    waiting: dict[tuple[str, str, str], list[int]] = {}
    found = []
    for row, (prompt, chosen, rejected) in enumerate(zip(columns["prompt"], columns["chosen"], columns["rejected"])):
        bare, a, b = text_key(split_context(prompt, template)[0]), text_key(chosen), text_key(rejected)
        if a == b:
            continue
        if other := waiting.get((bare, b, a)):
            found.append((other.pop(0), row))
        else:
            waiting.setdefault((bare, a, b), []).append(row)
    return sorted(found)


def split_by_record(records: Any, test_size: float = 0.1, *, seed: int = 0, template: str = TEMPLATE) -> DatasetDict:
    """Split into `train` and `test` by prompt, whatever the context in it: both rows of a reversal stay together.

    Args:
        records: rows or a Dataset with `prompt`.
        test_size: share of prompts in the test part.
        seed: which prompts.
        template: of the contexts in the prompts.
    """
    from datasets import Dataset, DatasetDict

    from rewardsmith.data.split import split_by_prompt

    data: Dataset = records if isinstance(records, Dataset) else Dataset.from_dict(as_columns(records))
    if "prompt" not in data.column_names:
        raise ValueError(f"no column 'prompt' to split by; the columns are {data.column_names}")
    bare = [text_key(split_context(prompt, template)[0]) for prompt in data["prompt"]]
    parts = split_by_prompt(Dataset.from_dict({"prompt": bare, "row": list(range(len(bare)))}), test_size, seed)
    return DatasetDict({name: data.select(part["row"]) for name, part in parts.items()})
