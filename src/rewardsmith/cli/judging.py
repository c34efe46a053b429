"""`rewardsmith judge`: a language model judges rows, with every answer accounted for."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from rewardsmith.cli.apply import score_rows
from rewardsmith.cli.common import (
    Json,
    Limit,
    OnBad,
    Seed,
    Split,
    emit_json,
    given,
    interval,
    number_or_none,
    out,
    plain,
    progress_bar,
    save_report,
    table,
)
from rewardsmith.reward import PreferenceModel

if TYPE_CHECKING:
    from rewardsmith.judges import Judge, ListwiseJudge, PairwiseJudge

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "rewardsmith" / "chat"


def judge(
    data: Annotated[str, typer.Argument(help="Preferences, rows to score, or candidates: a file, a hub id, `sample`.")],
    model: Annotated[
        str,
        typer.Option("--model", help="`http://host/v1#model`, `openai:model`, or a local model by path or hub id."),
    ] = ...,  # type: ignore[assignment]
    prompt: Annotated[
        str, typer.Option("--prompt", help="A prompt that comes with the library, or your own file.")
    ] = "pairwise",
    votes: Annotated[int, typer.Option("--votes", min=1, help="Samples of each question.")] = 1,
    out_path: Annotated[
        Path | None, typer.Option("--out", help="Judgments as JSON lines, critiques with them.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Folder for report.html and result.json (preferences only).")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, help="Default: 0 for one vote, 0.5 for several.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 1024,
    orders: Annotated[
        str, typer.Option("--orders", help="Pairwise: ask in 'both' orders, 'first' as given, or 'random'.")
    ] = "both",
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Pairwise: read the probability of the verdict, where the server has it.")
    ] = False,
    concurrency: Annotated[int | None, typer.Option("--concurrency", min=1, help="Requests under way at once.")] = None,
    requests_per_minute: Annotated[float | None, typer.Option("--requests-per-minute", min=0)] = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds for one request.")] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of answers; a re-run makes no request. Default: ~/.cache.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep answers.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Rows judged and written at a time.")] = 64,
    split: Split = None,
    limit: Limit = None,
    on_bad: OnBad = "raise",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Judge with a language model: pairs in both orders, single answers, or all candidates at once, by --prompt.

    What could not be parsed or answered has no score, a reason, and a place in the counts. A second call goes on where
    a killed one stopped.
    """
    from rewardsmith.chat import CachedModel, load_chat
    from rewardsmith.data import ResumableWriter
    from rewardsmith.evaluation import evaluate_pairs
    from rewardsmith.judges import Judge, load_prompt, make_judge
    from rewardsmith.loading import load_records

    asked = load_prompt(prompt)
    records, _ = load_records(data, split=split, limit=limit, on_bad=on_bad)
    endpoint = given(concurrency=concurrency, requests_per_minute=requests_per_minute, timeout=timeout)
    chat = load_chat(model, **endpoint)
    if not no_cache:
        chat = CachedModel(chat, (cache or CACHE).expanduser())
    options: dict[str, Any] = {
        "votes": votes,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "temperature": temperature,
    }
    if asked.kind == "pairwise":
        options |= {"orders": orders, "from_logprobs": logprobs}
    elif orders != "both" or logprobs:
        raise ValueError(f"--orders and --logprobs are for pairwise prompts; {asked.name!r} is {asked.kind}")
    made = make_judge(chat, asked, **options)
    pairs = {"chosen", "rejected"} <= set(records.column_names)
    if asked.kind == "pairwise" and not pairs:
        raise ValueError(f"a pairwise prompt needs the columns chosen and rejected; there are {records.column_names}")
    if asked.kind == "listwise" and not pairs and "candidates" not in records.column_names:
        raise ValueError(
            f"a listwise prompt needs candidates, or chosen and rejected; there are {records.column_names}"
        )

    rows = [dict(row) for row in records]
    lines: list[dict[str, Any]] = []
    meta = {"data": data, "limit": limit, "judge": made.fingerprint()}  # type: ignore[attr-defined]
    keeping = None if out_path is None else ResumableWriter(out_path, meta=meta)
    if keeping is not None and keeping.done and out_path is not None:
        from rewardsmith.data import iter_rows

        lines = list(itertools.islice(iter_rows(out_path), keeping.done))
    resumed = len(lines)
    with progress_bar() as progress:
        task = progress.add_task("Judging", total=len(rows), completed=resumed)
        for start in range(resumed, len(rows), batch_size):
            chunk = rows[start : start + batch_size]
            if isinstance(made, Judge):
                new = _scored(made, chunk, start)
            elif pairs:
                new = _compared(made, chunk)  # type: ignore[arg-type]
            else:
                new = _ranked(made, chunk)  # type: ignore[arg-type]
            for number, line in enumerate(new, start):
                lines.append(plain({"row": number, **line}))
                if keeping is not None:
                    keeping.write(lines[-1])
            progress.update(task, advance=len(chunk))
    if keeping is not None:
        keeping.close()

    counts = made.report.to_dict()  # type: ignore[attr-defined]
    result: dict[str, Any] = {
        "model": model,
        "prompt": asked.name,
        "kind": asked.kind,
        "votes": votes,
        "rows": len(rows),
        "resumed_at": resumed,
        "without_judgment": sum(line.get("failure") is not None for line in lines),
        **{name: counts[name] for name in ("answers", "unparsed_share", "failed", "cut", "position_bias")},
        "order_agreement": counts["order_agreement"],
        "problems": counts["problems"],
        "usage": chat.usage.to_dict(),
    }
    evaluation = None
    if pairs:
        logits = np.array([np.nan if line["logit"] is None else line["logit"] for line in lines])
        evaluation = evaluate_pairs(Judged(logits, made), records, seed=seed, name=model)
        result["accuracy"] = evaluation.to_dict()["accuracy"]
    if report is not None:
        if evaluation is None:
            raise ValueError("--report is for preferences: rows with chosen and rejected")
        from rewardsmith.report import evaluation_report

        save_report(evaluation_report([evaluation]), result, report)
    if as_json:
        emit_json(result)
        return
    shown: list[tuple[str, Any]] = [
        ("rows", f"{len(rows)}" + (f", {resumed} of them from an earlier call" if resumed else "")),
        ("without a judgment", result["without_judgment"]),
        ("answers", result["answers"]),
        ("could not be parsed", _percent(result["unparsed_share"])),
        ("did not come", result["failed"]),
    ]
    if evaluation is not None:
        accuracy = result["accuracy"]
        shown.insert(1, ("accuracy", interval(accuracy["value"], accuracy["low"], accuracy["high"])))
        shown += [
            ("same winner in both orders", _percent(result["order_agreement"])),
            ("first place wins more than by chance", _percent(result["position_bias"])),
        ]
    usage = result["usage"]
    shown.append(("requests, from cache", f"{usage['requests']}, {usage['cached']} answers"))
    shown.append(("tokens in, out", f"{usage['prompt_tokens']}, {usage['completion_tokens']}"))
    table(f"{data} judged by {model} ({asked.name}, {votes} vote{'s' * (votes > 1)})", ["", ""], shown)
    for problem, count in list(result["problems"].items())[:5]:
        out.print(f"{count} x {problem}")


class Judged(PreferenceModel):
    """Logits that a judge gave already, in the order of the data that they are of."""

    def __init__(self, logits: np.ndarray, source: Any) -> None:
        self.logits, self.source = logits, source
        self.__name__ = source.__name__

    def preference(self, prompts: Sequence[Any], a: Sequence[Any], b: Sequence[Any], **columns: Any) -> np.ndarray:
        return self.logits

    def fingerprint(self) -> dict[str, Any]:
        """The judge's."""
        return self.source.fingerprint()


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = [name for name in rows[0] if name not in ("prompt", "chosen", "rejected", "candidates", "completion")]
    return {name: [row[name] for row in rows] for name in names}


def _scored(judge: Judge, rows: list[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    lines = score_rows(judge, rows, first, details=True)
    for line in lines:
        if "chosen_score" in line:
            sides = (line["chosen_score"], line["rejected_score"])
            line["logit"] = None if None in sides else sides[0] - sides[1]
    return lines


def _compared(judge: PairwiseJudge | ListwiseJudge, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from rewardsmith.judges import PairwiseJudge

    prompts, chosen, rejected = ([row[name] for row in rows] for name in ("prompt", "chosen", "rejected"))
    if isinstance(judge, PairwiseJudge):
        judged = judge.judge_pairs(prompts, chosen, rejected, **_columns(rows))
        logits = judge.logits(judged)
    else:
        judged = judge.judge_sets(prompts, list(zip(chosen, rejected)), **_columns(rows))
        logits = np.array([t[0] - t[1] for t in judge.totals(prompts, list(zip(chosen, rejected)), judged)])
    lines = []
    for row, (logit, details) in enumerate(zip(logits.tolist(), judged.details())):
        line: dict[str, Any] = {"logit": number_or_none(logit), **details}
        if line["logit"] is None:
            failure = judged.row_failure(row)
            line["failure"] = f"{failure.kind}: {failure.reason}"
        lines.append(line)
    return lines


def _ranked(judge: ListwiseJudge, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    prompts, candidates = [row["prompt"] for row in rows], [row["candidates"] for row in rows]
    judged = judge.judge_sets(prompts, candidates, **_columns(rows))
    lines = []
    for row, (total, details) in enumerate(zip(judge.totals(prompts, candidates, judged), judged.details())):
        details["votes"] = details.pop("scores")
        line: dict[str, Any] = {"scores": [number_or_none(value) for value in total.tolist()], **details}
        if None in line["scores"]:
            failure = judged.row_failure(row)
            line["failure"] = f"{failure.kind}: {failure.reason}"
        lines.append(line)
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
