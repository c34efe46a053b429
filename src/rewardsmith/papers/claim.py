"""What a claim is, and how one runs.

A claim is a module `papers/pNN_name.py` with two names: `CLAIM`, the sentence that must hold, with its margins, and
`run(seed, ablate, scale) -> Outcome`. It trains the paper's method and its baseline through the public API, on the same
data with the same compute, in a world whose gold reward is known or on small real data. `ablate=True` takes the paper's
ingredient out and nothing else; the claim must then fail.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardsmith.papers.table import PAPERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = ("small", "full")


@dataclass
class Outcome:
    """What one run of a claim found.

    Attributes:
        rows: the table: one dict per method, of names and numbers.
        checks: each part of the claim in words, and whether it held. The claim holds where all do.
        figure: draws the figure; called only where it is wanted.
    """

    rows: list[dict[str, Any]]
    checks: dict[str, bool]
    figure: Callable[[], Figure] | None = None


@dataclass
class ClaimReport:
    """A claim that ran.

    Attributes:
        paper: number in the table, 1 to 66.
        title: of the paper.
        claim: the sentence that must hold.
        holds: whether all checks did.
        rows: see `Outcome`, as `checks`.
        seconds: of the whole run.
        seed: of everything random.
        ablate: whether the paper's ingredient was taken out.
        scale: `small` or `full`.
    """

    paper: int
    title: str
    claim: str
    holds: bool
    rows: list[dict[str, Any]]
    seconds: float
    seed: int
    ablate: bool
    scale: str = "small"
    checks: dict[str, bool] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def reproduce(
    number: int, *, seed: int = 0, ablate: bool = False, scale: str = "small", out: str | Path | None = None
) -> ClaimReport:
    """Run the claim of a paper.

    Args:
        number: of the paper, 1 to 66.
        seed: of everything random.
        ablate: take the paper's ingredient out; the claim must then fail.
        scale: `small` (under a minute on two cores) or `full` (more data, larger models).
        out: folder for `NN.json` and `NN.png`, or `NN-ablated.json` and `.png`. None: nothing is written.

    Raises:
        ValueError: for a number that is no paper's, a paper that is not built, or an unknown scale.
    """
    papers = {paper.number: paper for paper in PAPERS}
    if number not in papers:
        raise ValueError(f"papers are numbered 1 to {len(papers)}; there is no {number}")
    if scale not in SCALES:
        raise ValueError(f"scale must be 'small' or 'full', not {scale!r}")
    paper = papers[number]
    if paper.module is None:
        built = ", ".join(str(other.number) for other in PAPERS if other.built)
        raise ValueError(f"paper {number} ({paper.title}) is not built yet; built are {built}")
    start = time.perf_counter()
    module = importlib.import_module(f"rewardsmith.papers.{paper.module}")
    with _one_thread():
        outcome = module.run(seed, ablate, scale)
    report = ClaimReport(
        paper=number,
        title=paper.title,
        claim=module.CLAIM,
        holds=all(outcome.checks.values()),
        rows=outcome.rows,
        seconds=time.perf_counter() - start,
        seed=seed,
        ablate=ablate,
        scale=scale,
        checks=outcome.checks,
    )
    if out is not None:
        _write(report, outcome, Path(out))
    return report


def _write(report: ClaimReport, outcome: Outcome, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    name = f"{report.paper:02d}" + ("-ablated" if report.ablate else "")
    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    if outcome.figure is not None:
        import matplotlib.pyplot as plt

        figure = outcome.figure()
        figure.savefig(out / f"{name}.png", dpi=150)
        plt.close(figure)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors of a claim are small: more threads cost more than they bring, and change the last digits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
