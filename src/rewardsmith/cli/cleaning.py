"""`rewardsmith clean`: find wrong and ambiguous labels by voting, and mend them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from rewardsmith.cli.common import (
    Json,
    Limit,
    MaxLength,
    OnBad,
    Revision,
    Seed,
    Split,
    Trust,
    emit_json,
    err,
    given,
    out,
    plain,
    table,
)

SHOWN = 200  # changed rows on the page


def clean(
    data: Annotated[
        str, typer.Argument(help="Preferences. Rows that have a `strength` already are not voted on again.")
    ],
    out_file: Annotated[Path, typer.Option("--out", help="File for the cleaned rows: .jsonl, .parquet or .csv.")] = ...,  # type: ignore[assignment]
    do: Annotated[
        str,
        typer.Option(
            "--do",
            help="What to do, with commas between: flip, drop (`flip:0.1`: the lowest tenth; `flip:negative`: by "
            "sign), soften, margin (`soften:0.2-0.4`: a band of strength), smooth (`smooth:0.1`), or recommended.",
        ),
    ] = "flip,soften",
    model: Annotated[
        str,
        typer.Option("--model", help="Who votes: `hashed`, a sentence-embedding model, or any Hugging Face model."),
    ] = "hashed",
    members: Annotated[int, typer.Option("--members", min=2, help="How many models vote.")] = 10,
    share: Annotated[
        float,
        typer.Option(
            "--share",
            min=0.0,
            max=1.0,
            help="Of the rows, that each model trains on; the others vote. 1: all, and all.",
        ),
    ] = 0.6,
    epochs: Annotated[float, typer.Option("--epochs", help="Passes of each voter. Few: it must not memorize.")] = 1.0,
    scale: Annotated[
        float, typer.Option("--scale", help="Of strength in soft labels and margins, in units of the final reward.")
    ] = 1.0,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="File that says what was changed and why: .html to read, .json with every row."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", "--lr")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1)] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Voters are low-rank adapters of a transformer.")] = False,
    max_length: MaxLength = None,
    split: Split = None,
    limit: Limit = None,
    on_bad: OnBad = "raise",
    revision: Revision = None,
    trust_remote_code: Trust = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train several models briefly, let them vote on every pair, and mend the labels that they speak against.

    Nothing goes unsaid: --report names every row that was changed or left out. `rewardsmith train` reads soft labels by
    itself, and margins with --margin.
    """
    from rewardsmith.data import write_rows
    from rewardsmith.data.clean import clean as run
    from rewardsmith.data.clean import parse_operations
    from rewardsmith.loading import load_records

    operations = parse_operations(do, scale=scale)
    if report is not None and report.suffix not in (".html", ".json"):
        raise ValueError(f"--report is a .html or a .json file, not {str(report)!r}")
    if out_file.suffix not in (".jsonl", ".parquet", ".csv"):
        raise ValueError(f"--out is a .jsonl, .parquet or .csv file, not {str(out_file)!r}")
    records, checked = load_records(data, kind="preference", split=split, limit=limit, on_bad=on_bad)
    voted: dict[str, Any] | None = None
    rows: Any = records
    if "strength" not in records.column_names:
        from rewardsmith.models.strength import preference_strength

        def told(done: int, of: int) -> None:
            if err.is_terminal and done < of:
                err.print(f"{done} of {of} models have voted")

        strengths = preference_strength(
            records,
            model,
            members,
            share=share,
            epochs=epochs,
            seed=seed,
            on_member=told,
            votes_file=out_file.with_name(out_file.name + ".votes.jsonl"),
            max_length=max_length,
            lora=lora,
            model_options=given(revision=revision, trust_remote_code=trust_remote_code),
            **given(learning_rate=learning_rate, batch_size=batch_size),
        )
        rows, voted = strengths.attach(records), strengths.to_dict()
    cleaned = run(rows, *operations)
    write_rows(cleaned.records, out_file)
    summary = {
        **cleaned.report.summary(),
        "do": do,
        "model": model if voted else None,
        "votes": voted,
        "data": checked.to_dict(),
        "out": str(out_file),
    }
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        if report.suffix == ".json":
            whole = plain({**summary, **cleaned.report.to_dict()})
            report.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            _page(summary, cleaned.report, rows, name=data).save(report)
    if as_json:
        emit_json(summary)
        return
    lines: list[list[Any]] = [
        ["rows", len(rows), f"{checked.skipped} skipped"],
        ["strength below 0", cleaned.report.negative, "share"],
    ]
    if voted is not None:
        lines.append(["surely below 0", voted["surely_negative"], "share; by two standard errors"])
        lines.append(["votes per row", voted["votes_per_row"], f"of {members} models, {voted['seconds']:.1f} s"])
    why = {operation.name: operation.why() for operation in operations}
    lines += [[name, count, why[name]] for name, count in cleaned.report.counts.items()]
    lines.append(["left as they are", len(cleaned.report.unjudged), "no votes"])
    lines.append(["rows written", cleaned.report.kept, str(out_file)])
    table(f"{data}, votes of {model}" if voted else data, ["", "", ""], lines)
    if report is not None:
        out.print(f"-> {report}")


def _page(summary: dict[str, Any], found: Any, rows: Any, *, name: str) -> Any:
    """The page of a cleaning: figures, strengths, and the changed rows with their texts."""
    from rewardsmith.data.records import as_columns, as_text
    from rewardsmith.report import Report

    columns = as_columns(rows)
    changed = sum(found.counts.values())
    page = Report(
        f"Cleaning of {name}",
        f"{changed} changes to {found.rows} rows; {found.rows - found.kept} rows left out. Strength is below 0 in "
        f"{found.negative:.1%}: there, the votes speak against the label.",
        kind="note",
    )
    page.stats(
        [("Rows", found.rows), *((name, count) for name, count in found.counts.items()), ("Written", found.kept)]
    )
    page.section("Strengths", "By how much the models prefer chosen, on the mean; quantiles over the rows.")
    page.table(
        [{"share": f"{10 * at} %", "strength": value} for at, value in enumerate(found.quantiles)],
        {"share": "of the rows", "strength": "strength up to"},
    )
    shown = sorted(found.changes, key=lambda change: change.strength)[:SHOWN]
    page.section(
        "What was changed, and why",
        f"The {len(shown)} changes with the lowest strength, of {changed}. A report in .json has all of them.",
    )
    page.table(
        [
            {
                "row": change.row,
                "operation": change.operation,
                "strength": change.strength,
                "why": change.why,
                "prompt": as_text(columns["prompt"][change.row])[-300:] if "prompt" in columns else "",
                "chosen": as_text(columns["chosen"][change.row])[:300],
                "rejected": as_text(columns["rejected"][change.row])[:300],
            }
            for change in shown
        ],
        {
            "row": "row",
            "operation": "change",
            "strength": "strength",
            "why": "why",
            "prompt": "prompt",
            "chosen": "chosen, as labeled",
            "rejected": "rejected, as labeled",
        },
    )
    return page
