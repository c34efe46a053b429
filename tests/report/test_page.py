"""The page: escaping, structure, and that it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from report_results import HOSTILE

import rewardsmith.report as package
from rewardsmith.report import Cell, Report

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Tree(HTMLParser):
    """Every element with its attributes and text; complains where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def small_figure() -> Figure:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1], [1, 0], color="#0067a5")
    return figure


def hostile_report() -> Report:
    report = Report(HOSTILE, HOSTILE, kind="serious").stats([(HOSTILE, HOSTILE, HOSTILE, "warning"), ("a", 0.5)])
    report.section(HOSTILE, HOSTILE).text(HOSTILE).section(HOSTILE, level=3)
    report.table([{HOSTILE: HOSTILE, "x": Cell(HOSTILE, 1.0, HOSTILE, "ok")}], caption=HOSTILE)
    report.figure(small_figure(), HOSTILE, HOSTILE, name=HOSTILE)
    report.callout("note", HOSTILE, title=HOSTILE, detail=HOSTILE)
    report.examples(
        [
            {"prompt": HOSTILE, "chosen": HOSTILE, "chosen_score": 1.5, "rejected": "", "note": HOSTILE},
            {"prompt": [{"role": HOSTILE, "content": HOSTILE}], "completion": HOSTILE, "score": HOSTILE},
            {"prompt": "p", "blocks": [{"label": HOSTILE, "text": [{"role": "user", "content": [{"text": HOSTILE}]}]}]},
        ],
        title=HOSTILE,
    )
    return report.section("second").card({HOSTILE: HOSTILE, "nested": {"a": [HOSTILE]}})


def test_nothing_that_is_put_in_becomes_markup() -> None:
    html = hostile_report().html()
    tree = Tree(html)
    assert len(tree.all("script")) == 1
    assert tree.all("img") == []
    assert not any(name.startswith("on") for _, attributes in tree.elements for name in attributes)
    assert "alert('x')</script><img" not in html
    shown = "".join(text for texts in tree.texts.values() for text in texts)
    assert shown.count("<script>alert('x')</script>") >= 15


def test_characters_that_cannot_be_written_are_replaced() -> None:
    html = hostile_report().html()
    html.encode("utf-8")
    assert "\x00" not in html and "\ufffd" in html


def test_page_names_no_address_and_its_policy_names_its_own_style_and_script() -> None:
    html = hostile_report().html()
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in re.sub(r"url\(#[^)]*\)", "", html)
    assert "@import" not in html and "@font-face" not in html
    (policy,) = (m["content"] for m in Tree(html).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not any("style" in attributes for _, attributes in Tree(html).elements)


def test_structure() -> None:
    html = hostile_report().html()
    tree = Tree(html)
    levels = [int(tag[1]) for tag, _ in tree.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in tree.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in tree.all("a", "use"):
        assert attributes["href"].removeprefix("#") in ids
    assert all(attributes["aria-labelledby"] in ids for attributes in tree.all("section"))
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in tree.all("svg"))
    assert len(tree.all("caption")) == len(tree.all("table")) == 1
    assert {attributes["scope"] for attributes in tree.all("th")} == {"col", "row"}
    assert tree.all("html") == [{"lang": "en"}]


def test_contents_list_the_sections_where_there_are_several() -> None:
    one = Report("t").section("first")
    assert "<nav" not in one.html()
    two = one.section("first").section("part", level=3)
    assert re.findall(r'<li><a href="#([^"]+)">first</a></li>', two.html()) == ["s-first", "s-first-2"]
    assert ">part</a>" not in two.html()


def test_table_formats_and_sorts_by_value() -> None:
    rows = [
        {"model": "a", "accuracy": {"value": 0.5, "low": 0.25, "high": 0.75}, "ece": 0.125, "ties": 3},
        {"model": "b", "accuracy": None, "ece": float("nan"), "ties": 12000},
    ]
    html = Report("t").section("s").table(rows, {"model": "", "accuracy": "acc", "ece": "ECE", "ties": "ties"}).html()
    assert '<td class="num" data-value="0.5">0.500 <span class="interval">0.250 to 0.750</span></td>' in html
    assert '<td class="num" data-value="0.125">0.125</td>' in html
    assert html.count('<td class="num">–</td>') == 2
    assert '<td class="num" data-value="12000.0">12,000</td>' in html
    assert '<th scope="row">a</th>' in html


def test_decimals_of_a_column_agree_unless_a_number_would_vanish() -> None:
    html = Report("t").section("s").table([("a", 0.25, 1e-5), ("b", 0.5, 0.5)], ["", "x", "y"]).html()
    assert ">0.250<" in html and ">0.500<" in html
    assert ">1.00e−05<" in html


def test_rows_that_do_not_fit_are_refused() -> None:
    report = Report("t").section("s")
    with pytest.raises(ValueError, match="row 1 has 1 cells for 2 columns"):
        report.table([("a", 1), ("b",)], ["", "x"])
    with pytest.raises(ValueError, match="name the columns"):
        report.table([])


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="start a section"):
        Report("t").text("x")
    with pytest.raises(ValueError, match="no section before"):
        Report("t").section("s", level=3)
    with pytest.raises(ValueError, match="kind must be one of"):
        Report("t", kind="bad")
    with pytest.raises(ValueError, match="callout needs a kind"):
        Report("t").section("s").callout("", "x")
    with pytest.raises(ValueError, match="alt text"):
        Report("t").section("s").figure(small_figure(), " ")
    with pytest.raises(ValueError, match="a tile is"):
        Report("t").stats([("label",)])


def test_figures_that_follow_one_another_stand_together() -> None:
    report = Report("t").section("s")
    report.figure(small_figure(), "a").figure(small_figure(), "b").text("between").figure(small_figure(), "c")
    html = report.html()
    assert html.count('<div class="figures">') == 1
    assert html.count('<div class="figures one">') == 1


def test_card_shows_nested_facts_and_exact_integers() -> None:
    html = Report("t").card({"seed": 20261, "data": {"rows": 12345, "columns": ["prompt", "chosen"]}}).html()
    assert "<dt>seed</dt><dd>20261</dd>" in html
    assert "<dt>data · rows</dt><dd>12345</dd>" in html
    assert "<dd>prompt, chosen</dd>" in html


def test_save_replaces_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "report.html"
    assert Report("first").save(path) == path
    assert "first" in path.read_text(encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        Report("second").save(path)
    assert "first" in path.read_text(encoding="utf-8")
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]


def test_same_report_gives_the_same_bytes() -> None:
    assert hostile_report().html() == hostile_report().html()


def test_save_figures(tmp_path: Path) -> None:
    report = Report("t").section("s").figure(small_figure(), "a", name="Best of n").figure(small_figure(), "b")
    paths = report.save_figures(tmp_path / "figures")
    assert [path.name for path in paths] == ["best-of-n.png", "figure-2.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a: str, b: str) -> float:
    bright, dim = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_that_it_needs(mode: int) -> None:
    css = (Path(package.__file__).parent / "page.css").read_text(encoding="utf-8")
    colors = {n: (a, b)[mode] for n, a, b in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)}
    names = ["ink", "muted", "ok", "note", "warning", "serious", *(f"series-{i}" for i in range(1, 6))]
    low = {
        (name, ground): round(contrast(colors[name], colors[ground]), 2)
        for name in names
        for ground in ("paper", "panel", "sunk")
        if contrast(colors[name], colors[ground]) < 4.5
    }
    assert low == {}
