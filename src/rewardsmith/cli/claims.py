"""`rewardsmith papers`, `reproduce` and `quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewardsmith.cli.common import Json, Seed, emit_json, err, out, table


def papers(as_json: Json = False) -> None:
    """The table of the 66 papers: what each claims, where it lives, and whether it is built."""
    from rewardsmith.papers import list_papers

    rows = list_papers()
    if as_json:
        emit_json([row.to_dict() for row in rows])
        return
    built = sum(row.built for row in rows)
    table(
        f"{len(rows)} papers, {built} built; run one with: rewardsmith reproduce NN",
        ["NN", "paper", "year", "arXiv", "room", "status"],
        [(f"{r.number:02d}", r.title, r.year, r.arxiv, r.room, "built" if r.built else "not built yet") for r in rows],
    )


def reproduce(
    paper: Annotated[str, typer.Argument(metavar="NN", help="Number of the paper, as in `rewardsmith papers`.")],
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Take the paper's ingredient out: the claim must fail.")
    ] = False,
    seed: Seed = 0,
    scale: Annotated[
        str, typer.Option("--scale", help="'small' (under a minute) or 'full' (the long version).")
    ] = "small",
    out_dir: Annotated[Path | None, typer.Option("--out", help="Folder for the figure and the JSON.")] = None,
    as_json: Json = False,
) -> None:
    """Run the claim of a paper against its baseline. Exit status 0 where it holds, 1 where it does not."""
    from rewardsmith.papers import reproduce as run

    if not paper.isdigit():
        raise ValueError(f"NN is the number of a paper (1 to 66), not {paper!r}; see: rewardsmith papers")
    if scale not in ("small", "full"):
        raise ValueError(f"--scale is 'small' or 'full', not {scale!r}")
    with err.status(f"Running the claim of paper {int(paper):02d} ..."):
        report = run(int(paper), seed=seed, ablate=ablate, scale=scale, out=out_dir)
    if as_json:
        emit_json(report.to_dict())
    else:
        names = list(dict.fromkeys(name for row in report.rows for name in row))
        table(f"{report.paper:02d} {report.title}", names, [[row.get(name) for name in names] for row in report.rows])
        out.print(f"Claim: {report.claim}")
        verdict = "[green]holds[/]" if report.holds else "[red]does not hold[/]"
        out.print(f"{verdict} (seed {seed}{', ablated' if ablate else ''}, {report.seconds:.1f} s)")
        if out_dir is not None:
            out.print(f"Figure and JSON in {out_dir}")
    raise typer.Exit(0 if report.holds else 1)


def quickstart(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for the report and the models.")] = Path(
        "quickstart-out"
    ),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The main job on the embedded sample: train rewards, test them, use them, write a report. No network needed."""
    from rewardsmith.quickstart import run

    result = run(out_dir, seed=seed, say=(lambda text: err.print(text)))
    if as_json:
        emit_json(result)
    else:
        out.print(f"Open {out_dir / 'report.html'} in a browser.")
