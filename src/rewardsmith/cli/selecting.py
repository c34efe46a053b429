"""`rewardsmith select`: which pairs to have labeled next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rewardsmith.cli.common import (
    Dtype,
    Json,
    Limit,
    MaxLength,
    OnBad,
    Revision,
    Split,
    Trust,
    emit_json,
    err,
    given,
    out,
    table,
)


def select(
    data: Annotated[
        str,
        typer.Argument(help="Rows with `prompt` and `candidates` (every pair of them), or `chosen` and `rejected`."),
    ],
    model: Annotated[
        str, typer.Option("--model", help="A trained model, best an ensemble (train --head ensemble), or any reward.")
    ] = ...,  # type: ignore[assignment]
    out_path: Annotated[Path, typer.Option("--out", help="The pairs to label as JSON lines, the best first.")] = ...,  # type: ignore[assignment]
    n: Annotated[int, typer.Option("--n", min=1, help="Pairs to choose.")] = 100,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="'information' (what a label would tell, where the members of an ensemble contradict each other), "
            "'uncertainty' (their standard deviation), 'margin' (the smallest, for any model).",
        ),
    ] = "information",
    diverse: Annotated[
        bool, typer.Option("--diverse/--no-diverse", help="One pair of every prompt before a second of any.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out where it exists.")] = False,
    split: Split = None,
    limit: Limit = None,
    on_bad: OnBad = "raise",
    max_length: MaxLength = None,
    dtype: Dtype = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Choose the pairs whose labels would teach a model most.

    Label them (a person, or `rewardsmith judge`), train on them beside the old ones, and choose again.
    """
    from rewardsmith.data import write_rows
    from rewardsmith.data.records import text_key
    from rewardsmith.evaluation.uncertainty import select_pairs
    from rewardsmith.loading import load_records, load_reward

    if out_path.exists() and not overwrite:
        raise ValueError(f"{out_path} exists; --overwrite replaces it")
    loading = given(max_length=max_length, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    chooser = load_reward(model, **loading)
    records, _ = load_records(data, split=split, limit=limit, on_bad=on_bad)
    with err.status(f"Comparing the pairs of {len(records)} rows ..."):
        found = select_pairs(chooser, records, n, by=by, diverse=diverse)
    write_rows(found.rows, out_path)
    chosen = len(found.rows)
    summary: dict[str, Any] = {
        "pairs": found.pairs,
        "unscored": found.unscored,
        "chosen": chosen,
        "prompts": len({text_key(row["prompt"]) for row in found.rows}),
        "by": by,
        "mean_score": sum(row["score"] for row in found.rows) / chosen if chosen else None,
        "out": str(out_path),
    }
    if as_json:
        emit_json(summary)
        return
    columns = ["prompt", "probability", *(["std"] if chosen and "std" in found.rows[0] else []), "score"]
    rows = [[_short(row["prompt"]), *(row[name] for name in columns[1:])] for row in found.rows[:10]]
    title = f"{chosen} of {found.pairs} pairs by {by}" + (", the first ten" if chosen > 10 else "")
    table(title, columns, rows)
    if found.unscored:
        out.print(f"{found.unscored} pairs could not be compared, and none of them is chosen.")
    out.print(f"-> {out_path}")


def _short(prompt: Any) -> str:
    from rewardsmith.data.records import as_text

    text = " ".join(as_text(prompt).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
