"""`rewardsmith train`, `score` and `serve`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rewardsmith.cli.common import (
    Dtype,
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
    interval,
    number_or_none,
    out,
    table,
)
from rewardsmith.data.records import RecordError

if TYPE_CHECKING:
    from rewardsmith.reward import Reward


def train(
    data: Annotated[
        str, typer.Argument(help="Preferences: a hub id, a .jsonl/.csv/.parquet file (also .gz), or `sample`.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", help="`hashed`, a sentence-embedding model, or any Hugging Face model, by id or path."),
    ] = "hashed",
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the trained model.")] = ...,  # type: ignore[assignment]
    eval_data: Annotated[str | None, typer.Option("--eval", help="Held-out preferences to report accuracy on.")] = None,
    test_size: Annotated[
        float,
        typer.Option("--test-size", min=0, max=0.9, help="Share of prompts to hold out, where there is no --eval."),
    ] = 0.0,
    head: Annotated[
        str, typer.Option("--head", help="'scalar' (Bradley-Terry), 'gpm' (general preferences), 'odin'.")
    ] = "scalar",
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the data.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", "--lr", help="Default: by kind of model.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Pairs per step and device.")] = None,
    accumulation: Annotated[int, typer.Option("--gradient-accumulation-steps", min=1)] = 1,
    checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, slower.")] = False,
    lora: Annotated[bool, typer.Option("--lora", help="Train low-rank adapters; merged into the saved model.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Mixed precision.")] = False,
    max_length: MaxLength = None,
    use_margin: Annotated[bool, typer.Option("--margin", help="Subtract the `margin` column in the loss.")] = False,
    label_smoothing: Annotated[float, typer.Option("--label-smoothing", min=0, max=0.5)] = 0.0,
    centering: Annotated[float, typer.Option("--centering", min=0, help="Weight of (r_chosen + r_rejected)^2.")] = 0.0,
    l2: Annotated[float, typer.Option("--l2", min=0, help="Weight of r_chosen^2 + r_rejected^2.")] = 0.0,
    save_steps: Annotated[
        int | None, typer.Option("--save-steps", min=1, help="Checkpoint every so many steps.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    split: Split = None,
    limit: Limit = None,
    on_bad: OnBad = "raise",
    dtype: Dtype = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train a reward model from preferences.

    The model is an ordinary Hugging Face checkpoint where the backbone is one. `accelerate launch` works.
    """
    from rewardsmith.data import split_by_prompt
    from rewardsmith.loading import load_records
    from rewardsmith.models import train as run

    records, report = load_records(data, kind="preference", split=split, limit=limit, on_bad=on_bad)
    held_out = None
    if eval_data is not None:
        held_out, _ = load_records(eval_data, kind="preference", on_bad=on_bad)
    elif test_size > 0:
        parts = split_by_prompt(records, test_size=test_size, seed=seed)
        records, held_out = parts["train"], parts["test"]
    result = run(
        records,
        model,
        output_dir=out_dir,
        head=head,
        eval_data=held_out,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        bf16=bf16,
        lora=lora,
        max_length=max_length,
        use_margin=use_margin,
        label_smoothing=label_smoothing,
        centering=centering,
        l2=l2,
        seed=seed,
        resume=resume,
        model_options=given(dtype=dtype, revision=revision, trust_remote_code=trust_remote_code),
        **given(learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, save_steps=save_steps),
    )
    if not result.is_main_process:
        return
    accuracy = None
    if held_out is not None:
        from rewardsmith.evaluation import evaluate_pairs

        accuracy = evaluate_pairs(result.model, held_out, seed=seed).to_dict()["accuracy"]
    summary = {**result.to_dict(), "data": report.to_dict(), "held_out_accuracy": accuracy, "out": str(out_dir)}
    if as_json:
        emit_json(summary)
        return
    rows: list[tuple[str, Any]] = [
        ("pairs", f"{len(records)} trained on, {report.skipped} skipped"),
        ("loss", f"{result.history[0]['loss']:.3f} -> {result.history[-1]['loss']:.3f}" if result.history else "-"),
        ("seconds", f"{result.seconds:.1f} ({result.pairs_per_second:.0f} pairs/s)"),
        ("model", str(out_dir)),
    ]
    if accuracy is not None and held_out is not None:
        shown = interval(accuracy["value"], accuracy["low"], accuracy["high"])
        rows.insert(1, ("held-out accuracy", f"{shown} on {len(held_out)} pairs"))
    table(f"{model} on {data}", ["", ""], rows)
    if held_out is None:
        out.print("No held-out accuracy: give --eval DATA or --test-size 0.1.")


def score(
    model: Annotated[str, typer.Argument(help="A trained model, a hub id, `module:function`, or an http(s) endpoint.")],
    data: Annotated[str, typer.Argument(help="Rows with prompt and completion, candidates, or chosen and rejected.")],
    out_path: Annotated[Path, typer.Option("--out", help="Scores as JSON lines, in the order of the data.")] = ...,  # type: ignore[assignment]
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows read and scored at a time.")] = 256,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew where --out already has other scores.")
    ] = False,
    limit: Limit = None,
    max_length: MaxLength = None,
    dtype: Dtype = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Score a file of any size: streaming, in constant memory; a second call goes on where a killed one stopped.

    Each line holds the row's number and its score (`score`; `scores` for candidates; `chosen_score` and
    `rejected_score` for pairs), null with a reason where there is none.
    """
    from rewardsmith.data import ResumableWriter
    from rewardsmith.loading import load_reward
    from rewardsmith.reward import Reward

    loading = given(max_length=max_length, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code)
    reward = load_reward(model, **loading)
    if not isinstance(reward, Reward):
        raise ValueError(
            f"{model} is a pairwise preference model: it compares and has no scores; use evaluate or best-of-n"
        )
    meta: dict[str, Any] = {
        "model": model,
        "data": data,
        "limit": limit,
        "fingerprint": getattr(reward, "fingerprint", dict)(),
    }
    if overwrite:
        out_path.unlink(missing_ok=True)
    start, failed, scored = time.perf_counter(), 0, 0
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn())
    with ResumableWriter(out_path, meta=meta) as writer, Progress(*columns, console=err, transient=True) as progress:
        resumed = writer.done
        task = progress.add_task("Scoring", completed=resumed, total=None)
        rows = _rows(data, resumed, limit)
        number = resumed
        while chunk := list(itertools.islice(rows, batch_size)):
            for line in _score_rows(reward, chunk, number):
                failed += "failure" in line
                writer.write({"row": number, **line})
                number += 1
            scored += len(chunk)
            progress.update(task, completed=number)
    seconds = time.perf_counter() - start
    summary = {"rows": number, "resumed_at": resumed, "failed": failed, "seconds": seconds, "out": str(out_path)}
    if as_json:
        emit_json(summary)
    else:
        from_row = f", resumed at row {resumed}" if resumed else ""
        out.print(f"{scored} rows scored{from_row}, {failed} without a score, {seconds:.1f} s -> {out_path}")


def _rows(data: str, start: int, limit: int | None) -> Iterator[dict[str, Any]]:
    """Rows of a file, streamed, or of a hub or embedded data set, from `start` on."""
    if Path(data).is_file():
        from rewardsmith.data import iter_rows

        rows = iter_rows(data, start=start)
    else:
        from rewardsmith.loading import load_records

        records, _ = load_records(data)
        rows = iter(records.select(range(min(start, len(records)), len(records))))
    return itertools.islice(rows, None if limit is None else max(limit - start, 0))


def _score_rows(reward: Reward, rows: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """One output line per row: what is scored follows from the columns that the row has."""
    flat: list[dict[str, Any]] = []
    shapes: list[tuple[str, int]] = []
    for index, row in enumerate(rows):
        if row.get("candidates") is not None:
            texts, shape = list(row["candidates"]), "candidates"
        elif row.get("chosen") is not None and row.get("rejected") is not None:
            texts, shape = [row["chosen"], row["rejected"]], "pair"
        elif row.get("completion") is not None:
            texts, shape = [row["completion"]], "single"
        else:
            raise RecordError(
                "nothing to score: a row has a completion, candidates, or chosen and rejected",
                row=first + index,
                column="completion",
            )
        rest = {k: v for k, v in row.items() if k not in ("candidates", "chosen", "rejected", "completion")}
        flat += [{**rest, "completion": text} for text in texts]
        shapes.append((shape, len(texts)))
    scores = reward.score(
        {key: [row.get(key) for row in flat] for key in dict.fromkeys(k for row in flat for k in row)}
    )
    values, lines, at = scores.to_list(), [], 0
    for shape, count in shapes:
        mine = values[at : at + count]
        line: dict[str, Any]
        if shape == "candidates":
            line = {"scores": mine}
        elif shape == "pair":
            line = {"chosen_score": mine[0], "rejected_score": mine[1]}
        else:
            line = {"score": mine[0]}
            if scores.parts:
                line["parts"] = {name: number_or_none(part[at]) for name, part in scores.parts.items()}
        failures = [scores.failures[i] for i in range(at, at + count) if i in scores.failures]
        if failures:
            line["failure"] = "; ".join(f"{f.kind}: {f.reason}" for f in failures)
        lines.append(line)
        at += count
    return lines


def serve(
    model: Annotated[str, typer.Argument(help="A trained model, a hub id, or `module:function`.")],
    host: Annotated[
        str, typer.Option("--host", help="Loopback unless you say so; another host needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port")] = 8000,
    deadline: Annotated[
        float | None, typer.Option("--deadline", help="Seconds for one sample, scored in a process that is then ended.")
    ] = None,
    failed: Annotated[
        float | None,
        typer.Option("--failed", help="Reward of a sample that has no score, for OpenRLHF, which cannot skip one."),
    ] = None,
) -> None:
    """Serve a reward over HTTP: `/get_reward` as OpenRLHF asks, `/score` in full.

    A bearer token is read from the environment variable REWARDSMITH_TOKEN.
    """
    import os

    from rewardsmith.loading import load_reward
    from rewardsmith.reward import Reward
    from rewardsmith.serving import serve as run

    reward = load_reward(model)
    if not isinstance(reward, Reward):
        raise ValueError(f"{model} is a pairwise preference model: it has no scores to serve")
    if deadline is not None:
        reward = reward.with_deadline(deadline)
    run(reward, host=host, port=port, token=os.environ.get("REWARDSMITH_TOKEN"), failed=failed)
