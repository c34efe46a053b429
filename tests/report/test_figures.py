"""Figures: what is drawn, that labels do not overlap, and that their SVG is sound."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_results import HOSTILE, audit, best_of_n, evaluation, history

from rewardsmith.report import figures
from rewardsmith.report.svg import SERIES, SEVERITY, VARIABLES, inline_svg, save_figure

LONG = "a reward model with a name that is a good deal too long for any legend"
NAMES = ("reward model", LONG, HOSTILE)
DRAWN: dict[str, Callable[[], Figure]] = {
    "reliability": lambda: figures.reliability_plot([evaluation(name, seed=i) for i, name in enumerate(NAMES)]),
    "reliability of one": lambda: figures.reliability_plot(evaluation()),
    "scores": lambda: figures.score_distributions(evaluation()["scores"]),
    "accuracy by": lambda: figures.accuracy_by([evaluation(name, seed=i) for i, name in enumerate(NAMES)]),
    "accuracy by, one": lambda: figures.accuracy_by(evaluation()),
    "length": lambda: figures.length_plot([evaluation(name) for name in NAMES]),
    "audit": lambda: figures.audit_plot(audit()),
    "best of n": lambda: figures.best_of_n_curve(best_of_n()),
    "best of n, several": lambda: figures.best_of_n_curve(
        {name: best_of_n(cost=0.1 * i) for i, name in enumerate(NAMES)}
    ),
    "best of n, no gold": lambda: figures.best_of_n_curve(best_of_n(gold=False)),
    "training": lambda: figures.training_curve({"history": history()}),
}


@pytest.fixture(params=DRAWN, scope="module")
def drawn(request: pytest.FixtureRequest) -> Figure:
    return DRAWN[request.param]()


def texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def test_labels_do_not_overlap_and_stay_inside(drawn: Figure) -> None:
    drawn.draw_without_rendering()
    beyond = set()  # ticks beyond the limits exist, but are not drawn
    for ax in drawn.axes:
        for axis, limits in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            for label, at in zip(axis.get_majorticklabels(), axis.get_majorticklocs()):
                if not limits[0] <= at <= limits[1]:
                    beyond.add(id(label))
    boxes = [(t.get_text(), Text.get_window_extent(t)) for t in texts(drawn) if id(t) not in beyond]
    width, height = drawn.bbox.width, drawn.bbox.height
    for name, box in boxes:
        assert box.x0 > -2 and box.x1 < width + 2 and box.y0 > -2 and box.y1 < height + 2, name
    for (a, one), (b, other) in itertools.combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        along = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across <= 1 or along <= 1.5, (a, b)


def test_svg_is_sound_and_follows_the_page(drawn: Figure) -> None:
    svg = inline_svg(drawn, f"alt {HOSTILE}", "f1-")
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img" and root.get("aria-label", "").startswith("alt </details>")
    assert "viewBox" in root.attrib and "width" not in root.attrib
    allowed = {*VARIABLES.values(), "none"}
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    for element in root.iter():
        assert "style" not in element.attrib and not element.tag.endswith(("style", "script", "metadata"))
        for name in ("fill", "stroke"):
            assert element.get(name, "none") in allowed
        if element.get("href"):
            assert element.get("href", "").removeprefix("#") in ids
        if element.get("clip-path"):
            assert element.get("clip-path", "")[5:-1] in ids
    assert ids and all(identifier.startswith("f1-") for identifier in ids)
    assert any(element.tag.endswith("text") for element in root.iter())


def test_files_are_on_white(drawn: Figure, tmp_path: Path) -> None:
    save_figure(drawn, tmp_path / "a.png", dpi=40)
    pixels = matplotlib.image.imread(tmp_path / "a.png")
    assert np.allclose(pixels[0, 0, :3], 1)
    save_figure(drawn, tmp_path / "a.svg")
    ElementTree.parse(tmp_path / "a.svg")


def test_drawing_leaves_the_callers_style_alone() -> None:
    before = dict(matplotlib.rcParams)
    inline_svg(figures.best_of_n_curve(best_of_n()), "alt", "f-")
    assert dict(matplotlib.rcParams) == before


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure)]


def test_best_of_n_marks_the_peak() -> None:
    figure = figures.best_of_n_curve(best_of_n())
    assert "gold: highest at 8, then falls" in labels(figure)
    rings = [line for line in figure.axes[0].lines if line.get_markersize() == 13]
    assert [(float(r.get_xdata()[0]), float(r.get_ydata()[0])) for r in rings] == [
        (8.0, max(row["gold"] for row in best_of_n()["curve"]))
    ]
    assert "gold: highest at 256, the largest n" in labels(figures.best_of_n_curve(best_of_n(cost=0.0)))


def test_best_of_n_of_several_shows_each_proxy_as_a_share_of_its_rise() -> None:
    first, second = best_of_n(), best_of_n()
    for row in second["curve"]:
        for key in ("proxy", "proxy_low", "proxy_high"):
            row[key] = 100 * row[key] - 7
    proxies = [line.get_ydata() for line in figures.best_of_n_curve({"a": first, "b": second}).axes[1].lines]
    assert np.allclose(proxies[0], proxies[1])
    assert proxies[0][0] == 0 and proxies[0][-1] == 1


def test_best_of_n_takes_one_n_and_refuses_none() -> None:
    result = best_of_n()
    result["curve"], result["peak"] = result["curve"][:1], 1
    inline_svg(figures.best_of_n_curve(result), "alt", "f-")
    with pytest.raises(ValueError, match="no curve"):
        figures.best_of_n_curve({"a": {"curve": []}})


def test_audit_colors_by_severity_and_splits_by_unit() -> None:
    result = audit()
    figure = figures.audit_plot(result)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["standard deviations", "share won"]
    dots = {
        float(line.get_xdata()[0]): line.get_color()
        for ax in figure.axes
        for line in ax.lines
        if line.get_marker() != "None"
    }
    assert dots[1.42] == SEVERITY["serious"] and dots[0.31] == SEVERITY["warning"] and dots[0.02] == SEVERITY["ok"]
    rows = [text.get_text() for text in figure.axes[0].texts if text.get_position()[0] == 0]
    assert rows == ["length", "openers", "bullets"]
    with pytest.raises(ValueError, match="no finding"):
        figures.audit_plot({"findings": [f for f in result["findings"] if f["effect"] is None]})


def test_accuracy_by_puts_the_lowest_first_and_knows_its_columns() -> None:
    result = evaluation()
    by = result["by"]["category"]
    figure = figures.accuracy_by(result, "category")
    rows = [text.get_text() for text in figure.axes[0].texts if text.get_position()[0] == 0]
    assert rows[0] == "all pairs"
    assert rows[1] == min(("code", "advice"), key=lambda g: by[g]["value"]) or rows[1].startswith("</details>")
    with pytest.raises(ValueError, match="'nothing'"):
        figures.accuracy_by(result, "nothing")


def test_a_group_without_answers_says_so() -> None:
    result = evaluation()
    result["by"]["category"]["unanswered"] = {"value": None, "low": None, "high": None, "n": 0}
    assert "no value" in labels(figures.accuracy_by(result))


def test_reliability_of_nothing_is_an_empty_plot() -> None:
    result = evaluation()
    result["calibration"] = {"ece": None, "brier": None, "bins": []}
    assert "hashed, ECE –" in labels(figures.reliability_plot(result))


def test_training_curve_needs_a_loss() -> None:
    with pytest.raises(ValueError, match="no loss"):
        figures.training_curve([{"step": 1, "learning_rate": 0.1}])
    only_loss = figures.training_curve([{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}])
    assert len(only_loss.axes) == 1


def test_series_are_told_apart_without_color() -> None:
    looks = [figures._look(i) for i in range(len(SERIES))]
    for part in range(3):
        assert len({str(look[part]) for look in looks}) == len(SERIES)
