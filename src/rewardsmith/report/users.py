"""The page of a personal model: how fast it comes to know a user, and a map of the users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rewardsmith.report.cells import is_missing, percent
from rewardsmith.report.figures import _curve, _handle, _legend, _percent_axis, _styled
from rewardsmith.report.page import Report
from rewardsmith.report.svg import GRID, INK, MUTED, PANEL, SERIES

NAMED = 30  # users whose names the map shows


@_styled
def shots_curve(result: Mapping[str, Any]) -> Figure:
    """Accuracy against the number of a user's choices that the model has seen, and the same from a stranger's choices.

    Args:
        result: `PersonalResult.to_dict()`.
    """
    figure = Figure(figsize=(6.6, 3.6), layout="constrained")
    ax = figure.subplots()
    shots = np.array([row["shots"] for row in result["curve"]], dtype=float)
    handles = []
    for index, (key, label) in enumerate((("accuracy", "from the user's own choices"), ("stranger", "a stranger's"))):
        mid, low, high = (
            np.array([np.nan if is_missing(row[key][name]) else row[key][name] for row in result["curve"]], dtype=float)
            for name in ("value", "low", "high")
        )
        _curve(ax, shots, mid, low, high, index)
        handles.append(_handle(index, label))
    if result.get("baseline"):
        ax.axhline(result["baseline"]["value"], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        ax.text(shots[-1], result["baseline"]["value"], "one reward for all", color=MUTED, ha="right", va="bottom")
    ax.set_title("share of choices predicted")
    ax.set_xlabel("choices seen of the user")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _percent_axis(ax, "y")
    _legend(figure, handles, columns=2)
    return figure


@_styled
def users_map(result: Mapping[str, Any]) -> Figure:
    """Each user where her mean state lies, along the two directions in which users differ most; darker is better known.

    Args:
        result: `PersonalResult.to_dict()`.
    """
    figure = Figure(figsize=(6.6, 5.0), layout="constrained")
    ax = figure.subplots()
    x, y, right = (np.array([row[key] for row in result["map"]], dtype=float) for key in ("x", "y", "accuracy"))
    ax.axhline(0, color=GRID, linewidth=1, zorder=0)
    ax.axvline(0, color=GRID, linewidth=1, zorder=0)
    strength: Any = np.clip(0.25 + 0.75 * right, 0.25, 1)
    ax.scatter(x, y, s=34, color=SERIES[0], alpha=strength, edgecolors=PANEL)
    span = max(np.ptp(x), np.ptp(y)) or 1.0
    named: list[tuple[float, float]] = []
    for row in result["map"]:  # a name for each place, where there is room
        free = all(abs(row["x"] - a) > 0.2 * span or abs(row["y"] - b) > 0.04 * span for a, b in named)
        if free and len(named) < NAMED:
            ax.annotate(str(row["user"])[:18], (row["x"], row["y"]), (5, 4), textcoords="offset points", color=INK)
            named.append((row["x"], row["y"]))
    first, second = result["explained"]
    ax.set_title(f"users, by state; {percent(first, 0)} and {percent(second, 0)} of the variance")
    ax.margins(0.12)
    ax.set_aspect("equal", adjustable="datalim")
    return figure


def personal_report(result: Any, *, name: str = "the model") -> Report:
    """How well a personal model comes to know its users.

    Args:
        result: a `PersonalResult` or its `to_dict()`.
        name: of the model.
    """
    plain = dict(result) if isinstance(result, Mapping) else result.to_dict()
    first, last = plain["curve"][0], plain["curve"][-1]
    gain = last["accuracy"]["value"] - last["stranger"]["value"]
    told = last["accuracy"]["low"] is not None and last["accuracy"]["low"] > last["stranger"]["value"]
    kind = "ok" if told else "warning"
    verdict = (
        f"{last['shots']} choices of a user are worth {100 * gain:.0f} points more than a stranger's."
        if told
        else "A user's own choices tell no more than a stranger's: there may be nothing personal to learn here."
    )
    report = Report(f"Users of {name}", verdict, kind=kind)
    tiles: list[tuple[Any, ...]] = [
        ("Users", plain["users"], f"{plain['left_out']} left out: too few choices" if plain["left_out"] else ""),
        (f"From {first['shots']} choices", percent(first["accuracy"]["value"])),
        (f"From {last['shots']} choices", percent(last["accuracy"]["value"])),
        ("From a stranger's", percent(last["stranger"]["value"])),
    ]
    if plain.get("baseline"):
        tiles.append(("One reward for all", percent(plain["baseline"]["value"])))
    report.stats(tiles)
    report.section(
        "How fast a user is known",
        "The same choices of each user are predicted throughout: from her own first choices and, as a control, from as "
        "many of another user's. Intervals are over users.",
    )
    report.figure(shots_curve(plain), f"Accuracy up to {last['shots']} choices.", "With 95% intervals.", name="shots")
    report.table(plain["curve"], {"shots": "choices", "accuracy": "her own", "stranger": "a stranger's"})
    report.section(
        "Who is like whom", "Each user's state from all of her choices, in the plane where they differ most."
    )
    report.figure(users_map(plain), f"A map of {plain['users']} users.", "Fainter: less well predicted.", name="users")
    report.table(plain["map"], {"user": "user", "accuracy": "predicted", "x": "first", "y": "second"})
    return report
