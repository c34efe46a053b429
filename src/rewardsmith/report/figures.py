"""Figures of results, each from the plain form that `to_dict()` gives; every function returns a matplotlib Figure.

Names of models come first by color and marker, so no meaning hangs on color alone. Row labels stand above their row and
axis titles above their axis: a figure stays readable at the width of a phone.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, MultipleLocator, NullLocator

from rewardsmith.evaluation.intervals import wilson
from rewardsmith.report.cells import KINDS, MINUS, decimals, fixed, is_missing, number, percent
from rewardsmith.report.svg import GRID, INK, MUTED, PANEL, SERIES, SEVERITY, xml_text

Result = Mapping[str, Any]
P = ParamSpec("P")

WIDTH = 4.8  # inches: 346 points, about the pixels that a phone has for it
SMALL, TEXT = 9.3, 10.3
MARKERS = ("o", "s", "^", "D", "v")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1)))
SEVERITY_MARKERS = {"ok": "o", "note": "D", "warning": "^", "serious": "s"}
MOST_ROWS = 24

_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib, so layout is the same everywhere; the page sets its own
    "font.size": TEXT,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.labelcolor": MUTED,
    "axes.labelsize": SMALL,
    "axes.titlesize": TEXT,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": TEXT,
    "legend.handlelength": 1.9,
    "legend.borderaxespad": 0.2,
}


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the house style without changing the caller's."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(cast(Any, _STYLE)):
            figure = draw(*args, **kwargs)
            for ax in figure.axes:  # ticks that are made later, when the figure is saved, keep the style too
                ax.tick_params(labelsize=SMALL, colors=MUTED, grid_color=GRID, grid_linewidth=0.8)
            return figure

    return drawn


# --- evaluation on pairs ---------------------------------------------------------------------------------------------


@_styled
def reliability_plot(evaluations: Result | Sequence[Result]) -> Figure:
    """How often a winner named with probability p is the better one, with Wilson intervals, and how often p is said.

    Args:
        evaluations: one or several `PairEvaluation.to_dict()`; read are `name` and `calibration`.
    """
    evaluations = _several(evaluations)
    figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    lows, starts, handles = [0.5], [0.5], []
    for index, evaluation in enumerate(evaluations):
        color, marker, dash = _look(index)
        bins = evaluation["calibration"]["bins"]
        x = np.array([b["confidence"] for b in bins])
        y = np.array([b["accuracy"] for b in bins])
        n = np.array([b["n"] for b in bins], dtype=float)
        ends = [wilson(min(max(a, 0.0), 1.0) * k, int(k)) for a, k in zip(y, n)]
        if len(bins):
            lows += list(y)
            if len(evaluations) <= 2:  # more would hide each other
                top.vlines(x, [e.low for e in ends], [e.high for e in ends], color=color, linewidth=3.2, alpha=0.3)
                lows += [e.low for e in ends]
            starts += [b["low"] for b in bins]
            top.plot(x, y, color=color, marker=marker, linestyle=dash, markeredgecolor=PANEL, markeredgewidth=0.8)
            width = np.array([b["high"] - b["low"] for b in bins])
            step = 0.86 / len(evaluations)
            left = np.array([b["low"] for b in bins]) + width * (0.07 + step * index)
            bottom.bar(left, n / n.sum(), width * step, align="edge", color=color, linewidth=0)
        handles.append(_handle(index, f"{_name(evaluation)}, ECE {number(evaluation['calibration']['ece'], 2)}"))
    handles.append((Line2D([], [], color=MUTED, linewidth=1, linestyle=(0, (4, 3))), "perfectly calibrated"))
    start = 0.0 if min(starts) < 0.5 else 0.5
    top.set(xlim=(start, 1), ylim=(min(0.48, min(lows) - 0.03) if start else -0.02, 1.02))
    top.set_title("share right")
    bottom.set_title("share of pairs")
    bottom.set_xlabel("probability given to the preferred completion")
    for ax in (top, bottom):
        _percent_axis(ax, "y")
    top.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    bottom.yaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
    _percent_axis(bottom, "x")
    _legend(figure, handles)
    return figure


@_styled
def score_distributions(scores: Mapping[str, Result]) -> Figure:
    """Histograms of scores, such as of chosen and rejected completions, with their medians.

    Args:
        scores: label -> summary as `describe` gives it (`edges`, `counts`, `quantiles`, `n`).
    """
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    ax = figure.subplots()
    handles = []
    for index, (label, summary) in enumerate(scores.items()):
        color, _, dash = _look(index)
        counts, edges = np.asarray(summary["counts"], dtype=float), np.asarray(summary["edges"], dtype=float)
        median = summary.get("quantiles", {}).get("50")
        if counts.sum():
            ax.stairs(counts / counts.sum(), edges, fill=True, color=color, alpha=0.16, linewidth=0)
            ax.stairs(counts / counts.sum(), edges, color=color, linewidth=1.7, linestyle=dash)
        if not is_missing(median):
            ax.axvline(float(median), color=color, linewidth=1.2, linestyle=(0, (2, 2)))
        handles.append(_handle(index, f"{_short(label)}, median {number(median, 2)}", marker=False))
    ax.set_title("share of completions")
    ax.set_xlabel("score (dotted: median)")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    _percent_axis(ax, "y")
    _legend(figure, handles)
    return figure


@_styled
def accuracy_by(evaluations: Result | Sequence[Result], column: str | None = None) -> Figure:
    """Accuracy with intervals, over all pairs and for each value of a column; the lowest first.

    Args:
        evaluations: one or several `PairEvaluation.to_dict()`; read are `name`, `accuracy` and `by`.
        column: which of the columns in `by`; default: the first. Without any, over all pairs alone.

    Raises:
        ValueError: where no evaluation has that column.
    """
    evaluations = _several(evaluations)
    columns = list(dict.fromkeys(name for e in evaluations for name in e.get("by") or {}))
    if column is None and columns:
        column = columns[0]
    if column is not None and column not in columns:
        raise ValueError(f"accuracy was not taken by {column!r}, but by {columns or 'no column'}")
    tables = [(e.get("by") or {}).get(column) or {} for e in evaluations]
    groups = groups_by_accuracy(tables)
    rows = [("all pairs", [e["accuracy"] for e in evaluations])]
    rows += [(str(group), [table.get(group) for table in tables]) for group in groups]
    figure = _row_figure(rows, [_name(e) for e in evaluations], share=True, reference=0.5)
    figure.axes[0].set_title("accuracy" if column is None else f"accuracy by {_short(column)}")
    return figure


@_styled
def length_plot(evaluations: Result | Sequence[Result]) -> Figure:
    """Accuracy where the better completion is the shorter one and where it is the longer one.

    A reward that follows length is right in the one and wrong in the other.

    Args:
        evaluations: one or several `PairEvaluation.to_dict()`; read are `name`, `accuracy` and `length`.
    """
    evaluations = _several(evaluations)
    rows: list[tuple[str, list[Any]]] = [("all pairs", [e["accuracy"] for e in evaluations])]
    for label, key in (
        ("the better one is shorter", "accuracy_chosen_shorter"),
        ("the better one is longer", "accuracy_chosen_longer"),
    ):
        rows.append((label, [e["length"].get(key) for e in evaluations]))
    figure = _row_figure(rows, [_name(e) for e in evaluations], share=True, reference=0.5)
    figure.axes[0].set_title("accuracy")
    return figure


# --- audit -----------------------------------------------------------------------------------------------------------


@_styled
def audit_plot(audit: Result) -> Figure:
    """Effect sizes with intervals, one row per probe, the gravest first; one axis per unit.

    Args:
        audit: `AuditReport.to_dict()`; read is `findings`, of which `drawable_findings` are drawn.

    Raises:
        ValueError: where no finding can be drawn.
    """
    shown = drawable_findings(audit)
    if not shown:
        raise ValueError("no finding has an effect size to draw")
    units = list(dict.fromkeys(f.get("unit") or "effect" for f in sorted(shown, key=_gravity)))
    groups = [[f for f in sorted(shown, key=_gravity) if (f.get("unit") or "effect") == unit] for unit in units]
    heights = [len(group) * 0.43 + 0.62 for group in groups]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.35), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, unit, group in zip(panels, units, groups):
        rows = [(f["probe"], [{"value": f["effect"], "low": f.get("low"), "high": f.get("high")}]) for f in group]
        looks = [(SEVERITY[f["severity"]], SEVERITY_MARKERS[f["severity"]]) for f in group]

        def look(row: int, _: int, looks: list[tuple[str, str]] = looks) -> tuple[str, str]:
            return looks[row]

        share = unit.startswith("share")
        _draw_rows(ax, rows, look, share=share, reference=0.5 if unit == "share won" else 0.0)
        ax.set_title(_short(unit, 60))
    present = [kind for kind in reversed(KINDS) if any(f["severity"] == kind for f in shown)]
    _legend(
        figure,
        [
            (Line2D([], [], color=SEVERITY[k], marker=SEVERITY_MARKERS[k], linestyle="", markeredgecolor=PANEL), k)
            for k in present
        ],
        columns=4,
    )
    return figure


def drawable_findings(audit: Result) -> list[Result]:
    """Findings with an effect, without those on how the reward works (speed, repeatability): they are all but zero."""
    return [f for f in audit["findings"] if not is_missing(f.get("effect")) and f.get("group") != "working"]


# --- best of n -------------------------------------------------------------------------------------------------------


@_styled
def best_of_n_curve(results: Result | Mapping[str, Result]) -> Figure:
    """Gold and proxy of the best of n candidates against n and KL, with intervals, and where gold peaks.

    Several results share the axes. Their proxies have scales of their own: they are then shown as the share of their
    own rise from n = 1 to the largest n. A proxy that rises while gold falls is over-optimization.

    Args:
        results: one `BestOfN.to_dict()`, or name -> such dict; read are `curve`, `peak` and `over_optimized`.
    """
    named = cast(Mapping[str, Any], {"": results} if "curve" in results else results)
    curves = {name: result["curve"] for name, result in named.items()}
    if not curves or not all(curves.values()):
        raise ValueError("there is no curve to draw: no result, or one without rows")
    golden = [name for name, curve in curves.items() if not is_missing(curve[0].get("gold"))]
    figure = Figure(figsize=(WIDTH, 4.7 if golden else 2.9), layout="constrained")
    panels = figure.subplots(
        2 if golden else 1, 1, sharex=True, squeeze=False, height_ratios=(1.5, 1) if golden else None
    )[:, 0]
    handles = []
    for index, (name, curve) in enumerate(curves.items()):
        color = _look(index)[0]
        n = np.array([row["n"] for row in curve], dtype=float)
        proxy, proxy_low, proxy_high = (_column(curve, key) for key in ("proxy", "proxy_low", "proxy_high"))
        if len(curves) > 1:
            rise = proxy[-1] - proxy[0]
            start, scale = proxy[0], rise if rise > 0 else 1.0
            proxy, proxy_low, proxy_high = ((values - start) / scale for values in (proxy, proxy_low, proxy_high))
        _curve(panels[-1], n, proxy, proxy_low, proxy_high, index)
        label = f"{_short(name, 28)}: " if name else "gold: "
        if name in golden:
            gold, gold_low, gold_high = (_column(curve, key) for key in ("gold", "gold_low", "gold_high"))
            _curve(panels[0], n, gold, gold_low, gold_high, index)
            peak = named[name].get("peak")
            at = np.flatnonzero(n == peak)  # none where the peak is None
            if len(at):
                panels[0].plot(
                    [peak],
                    gold[at],
                    color=color,
                    marker="o",
                    markersize=13,
                    markerfacecolor="none",
                    markeredgecolor=color,
                    markeredgewidth=1.6,
                )
                falls = ", then falls" if named[name].get("over_optimized") else ""
                last = ", the largest n" if peak == n[-1] else falls
                label += f"highest at {number(int(peak))}{last}"
                if len(curves) == 1:
                    for ax in panels:
                        ax.axvline(peak, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0)
        if name or golden:
            handles.append(_handle(index, label.removesuffix(": ")))
    if golden:
        panels[0].set_title("gold reward")
    panels[-1].set_title("proxy reward" if len(curves) == 1 else "proxy reward, share of its own rise")
    if len(curves) > 1:
        _percent_axis(panels[-1], "y")
    _n_axis(panels[-1], [row for curve in curves.values() for row in curve])
    for ax in panels:
        ax.margins(x=0.03, y=0.1)
    _legend(figure, handles)
    return figure


# --- training --------------------------------------------------------------------------------------------------------


@_styled
def training_curve(history: Result | Sequence[Result]) -> Figure:
    """Loss and accuracy against the training step, on training pairs and, where there are any, on held-out pairs.

    Args:
        history: `TrainResult.to_dict()` or its `history`: rows with `step` and any of `loss`, `accuracy`,
            `eval_loss`, `eval_accuracy`.

    Raises:
        ValueError: where there is no loss in it.
    """
    rows = history["history"] if isinstance(history, Mapping) else history
    quantities = [q for q in ("loss", "accuracy") if any(q in row or f"eval_{q}" in row for row in rows)]
    if not quantities:
        raise ValueError("the history has no loss or accuracy to draw")
    figure = Figure(figsize=(WIDTH, 1.1 + 1.7 * len(quantities)), layout="constrained")
    panels = figure.subplots(len(quantities), 1, sharex=True, squeeze=False)[:, 0]
    seen: dict[int, str] = {}
    for ax, quantity in zip(panels, quantities):
        for index, (key, label) in enumerate(((quantity, "training pairs"), (f"eval_{quantity}", "held-out pairs"))):
            points = [(row["step"], row[key]) for row in rows if not is_missing(row.get(key))]
            if not points:
                continue
            color, marker, dash = _look(index)
            ax.plot(*zip(*points), color=color, linestyle=dash, marker=marker if len(points) < 30 else "", markersize=4)
            seen[index] = label
        ax.set_title("loss (nats)" if quantity == "loss" else quantity)
        ax.yaxis.set_major_locator(MaxNLocator(4))
        if quantity == "accuracy":
            _percent_axis(ax, "y")
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _legend(figure, [_handle(index, label) for index, label in sorted(seen.items())], columns=2)
    return figure


# --- parts -----------------------------------------------------------------------------------------------------------


def _row_figure(rows: list[tuple[str, list[Any]]], names: list[str], *, share: bool, reference: float) -> Figure:
    """One row of intervals per label, one interval per name."""
    left_out = max(0, len(rows) - MOST_ROWS)
    rows = rows[:MOST_ROWS]
    each = 0.28 + 0.155 * len(names)
    legend = len(names) > 1
    figure = Figure(
        figsize=(WIDTH, len(rows) * each + 0.75 + (0.23 * len(names) if legend else 0)), layout="constrained"
    )
    ax = figure.subplots()
    _draw_rows(ax, rows, lambda _, index: _look(index)[:2], share=share, reference=reference)
    if left_out:
        ax.set_xlabel(f"{left_out} more in the table")
    if legend:
        _legend(figure, [_handle(index, name, line=False) for index, name in enumerate(names)])
    return figure


def _draw_rows(
    ax: Axes,
    rows: Sequence[tuple[str, Sequence[Any]]],
    look: Callable[[int, int], tuple[str, str]],
    *,
    share: bool,
    reference: float,
) -> None:
    """Rows from top to bottom: the label above on the left, its single value on the right, intervals below.

    Args:
        rows: (label, estimates); an estimate is `{"value", "low", "high"}` or None.
        look: (row, index of the estimate) -> color and marker.
        reference: where "no effect" lies: a vertical line.
    """
    count = max(len(estimates) for _, estimates in rows)
    # In units of 0.15 inch: the label takes 1.5, each interval 1.
    height = 1.8 + count
    everything = [reference]
    values = [
        e["value"] for _, estimates in rows for e in estimates if e is not None and not is_missing(e.get("value"))
    ]
    places = decimals(values)
    for row, (label, estimates) in enumerate(rows):
        base = row * height
        at: dict[str, Any] = {"y": base + 0.95, "transform": ax.get_yaxis_transform(), "va": "center"}
        at["bbox"] = {"facecolor": PANEL, "edgecolor": "none", "pad": 1.2}  # lines stop at the label
        ax.text(0, s=_short(label, 40), **at)
        known = [e for e in estimates if e is not None and not is_missing(e.get("value"))]
        if not known:
            ax.text(1, s="no value", ha="right", **at)
        elif count == 1:
            value = float(known[0]["value"])
            ax.text(1, s=percent(value) if share else fixed(value, places), ha="right", **at)
        for index, estimate in enumerate(estimates):
            if estimate is None or is_missing(estimate.get("value")):
                continue
            color, marker = look(row, index)
            y = base + 2.05 + index
            value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
            if not is_missing(low) and not is_missing(high):
                ax.plot([low, high], [y, y], color=color, linewidth=4.5, alpha=0.32, solid_capstyle="butt")
                everything += [low, high]
            ax.plot(
                [value], [y], color=color, marker=marker, markersize=6.5, markeredgecolor=PANEL, markeredgewidth=0.9
            )
            everything.append(value)
    low, high = min(everything), max(everything)
    margin = 0.05 * (high - low) or 1.0
    ax.set(ylim=(len(rows) * height + 0.15, 0), xlim=(low - margin, high + margin))
    ax.axvline(reference, color=MUTED, linewidth=1)
    ax.yaxis.set_major_locator(NullLocator())
    ax.grid(True, axis="x")
    if share:  # a half always has its tick
        width = high - low
        ax.xaxis.set_major_locator(MultipleLocator(0.05 if width < 0.2 else 0.1 if width < 0.6 else 0.25))
        _percent_axis(ax, "x")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{round(x, 10):g}".replace("-", MINUS)))
    ax.tick_params(axis="x", length=0)
    ax.spines["bottom"].set_visible(False)


def _curve(ax: Axes, n: np.ndarray, mid: np.ndarray, low: np.ndarray, high: np.ndarray, index: int) -> None:
    color, marker, dash = _look(index)
    known = ~(np.isnan(low) | np.isnan(high))
    ax.fill_between(n, low, high, where=known, color=color, alpha=0.16, linewidth=0)
    ax.plot(
        n, mid, color=color, linestyle=dash, marker=marker, markersize=4.5, markeredgecolor=PANEL, markeredgewidth=0.6
    )


def _n_axis(ax: Axes, rows: Sequence[Result]) -> None:
    """n on a log scale, its KL below; as many ticks as there is room for."""
    kl = {int(row["n"]): row.get("kl") for row in rows}
    ns = sorted(kl)
    ax.set_xscale("log", base=2)
    room = max(math.log2(ns[-1] / ns[0]) / 8, 1e-9)
    ticks: list[int] = []
    for n in reversed(ns):  # the largest n always has its tick
        if not ticks or math.log2(ticks[-1] / n) >= room:
            ticks.append(n)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())

    def label(n: float, _: int) -> str:
        below = kl.get(round(n))
        return f"{round(n):,}" + ("" if is_missing(below) else f"\n{below:.2f}")

    ax.xaxis.set_major_formatter(FuncFormatter(label))
    ax.set_xlabel("n candidates; below it the KL that they cost (nats)")


def _legend(figure: Figure, handles: Sequence[tuple[Line2D, str]], columns: int = 1) -> None:
    """Above the axes, on the left."""
    if not handles:
        return
    lines, labels = zip(*handles)
    # matplotlib leaves out labels that begin with an underscore; a name may.
    labels = tuple("\u200b" + label if label.startswith("_") else label for label in labels)
    short = all(line.get_linestyle() == "None" for line in lines)
    figure.legend(
        lines, labels, loc="outside upper left", ncols=columns, handlelength=0.9 if short else 1.9, columnspacing=1.4
    )


def _handle(index: int, label: str, *, line: bool = True, marker: bool = True) -> tuple[Line2D, str]:
    color, shape, dash = _look(index)
    handle = Line2D(
        [],
        [],
        color=color,
        linestyle=dash if line else "",
        marker=shape if marker else "",
        markeredgecolor=PANEL,
        markeredgewidth=0.6,
    )
    return handle, label


def _look(index: int) -> tuple[str, str, Any]:
    return SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)], DASHES[index % len(DASHES)]


def _percent_axis(ax: Axes, which: str) -> None:
    axis = ax.yaxis if which == "y" else ax.xaxis

    def label(value: float, _: int) -> str:
        ticks = 100 * np.asarray(axis.get_majorticklocs())
        return percent(value, 0 if np.allclose(ticks, ticks.round(), atol=1e-6) else 1)

    axis.set_major_formatter(FuncFormatter(label))


def _column(curve: Sequence[Result], key: str) -> np.ndarray:
    return np.array([math.nan if is_missing(row.get(key)) else row[key] for row in curve], dtype=float)


def _several(evaluations: Result | Sequence[Result]) -> list[Result]:
    several = [evaluations] if isinstance(evaluations, Mapping) else list(evaluations)
    if not several:
        raise ValueError("there is no evaluation to draw")
    return several


def _name(evaluation: Result) -> str:
    return _short(evaluation.get("name") or "model", 36)


def _gravity(finding: Result) -> tuple[int, float]:
    return -KINDS.index(finding["severity"]), -abs(finding.get("effect") or 0.0)


def groups_by_accuracy(tables: Sequence[Result]) -> list[str]:
    """The groups of all tables (group -> estimate), the lowest accuracy of any table first."""
    groups = dict.fromkeys(group for table in tables for group in table)
    return sorted(groups, key=lambda group: _least(table.get(group) for table in tables))


def _least(estimates: Iterable[Any]) -> float:
    values = [e["value"] for e in estimates if e is not None and not is_missing(e.get("value"))]
    return min(values, default=math.inf)


def _short(text: Any, limit: int = 40) -> str:
    """One line of at most `limit` columns (a wide character takes two), without control characters."""
    line = " ".join(xml_text(str(text)).split())
    width = 0
    for index, character in enumerate(line):
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if width > limit:
            return line[: max(1, index - 1)].rstrip() + "…"
    return line
