"""Matplotlib figures as SVG inside a page, in the colors of the page, and as files.

A figure is drawn once, in the light palette. In the page each of these colors becomes the CSS custom property of the
same name, so that it follows light and dark; text stays text. Styles become plain attributes: the page's policy allows
no inline style.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PANEL = "#1d2128", "#5b6470", "#ddd8cc", "#ffffff"
SERIES = ("#0067a5", "#b84700", "#00745a", "#9a3f7b", "#7d5a00")
SEVERITY = {"ok": "#2f6f44", "note": "#4a5fa8", "warning": "#8a5a01", "serious": "#b3261e"}

VARIABLES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PANEL: "var(--panel)",
    **{color: f"var(--series-{i})" for i, color in enumerate(SERIES, start=1)},
    **{color: f"var(--{kind})" for kind, color in SEVERITY.items()},
}

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_SHAPES = {"d", "points", "transform", "x", "y", "x1", "x2", "y1", "y2", "width", "height"}


def inline_svg(figure: Figure, alt: str, prefix: str) -> str:
    """`figure` as an `<svg>` element for the page.

    Args:
        alt: what a reader who cannot see the figure is told.
        prefix: goes before every id, so that two figures of one page do not share any.
    """
    if not alt.strip():
        raise ValueError("a figure needs an alt text: what it shows, in a sentence")
    root = ElementTree.fromstring(_draw(figure))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}style", f"{_SVG}metadata") or "metadata" in child.tag:
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _plain_attributes(element, prefix)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("role", "img")
    root.set("aria-label", xml_text(alt))
    return ElementTree.tostring(root, encoding="unicode")


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 200) -> None:
    """Save `figure` on white, as the suffix of `path` says (.png, .svg, .pdf)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(path, dpi=dpi, facecolor="white")


def xml_text(text: str) -> str:
    """`text` without the characters that XML cannot hold: control characters and lone surrogates become U+FFFD."""
    return re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _draw(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt gives the same ids for the same figure: reports of equal results are equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rewardsmith"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return re.sub(r"<!DOCTYPE.*?>", "", buffer.getvalue(), count=1, flags=re.DOTALL)


def _plain_attributes(element: ElementTree.Element, prefix: str) -> None:
    """Style properties to attributes, colors to variables, ids made the figure's own, numbers rounded."""
    attributes = dict(element.attrib)
    element.attrib.clear()
    for declaration in attributes.pop("style", "").split(";"):
        name, _, value = declaration.partition(":")
        name, value = name.strip(), value.strip()
        if name == "font":  # "italic 700 10.5px 'DejaVu Sans', ..."; the family is the page's
            before, _, _ = value.partition("px")
            *words, size = before.split()
            attributes["font-size"] = size
            if "italic" in words:
                attributes["font-style"] = "italic"
            if any(word in ("bold", "600", "700") for word in words):
                attributes["font-weight"] = "600"
        elif name in ("font-size",):
            attributes[name] = value.removesuffix("px")
        elif name and name not in ("font-family", "font-stretch", "font-variant"):
            attributes[name] = value
    for name, value in attributes.items():
        if name == _HREF:
            name = "href"
        if name == "id":
            value = prefix + value
        elif value.startswith("#") and name == "href":
            value = "#" + prefix + value[1:]
        elif value.startswith("url(#"):
            value = f"url(#{prefix}{value[5:]}"
        elif name in ("fill", "stroke"):
            value = VARIABLES.get(value.lower(), value)
        elif name in _SHAPES:
            value = re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", value)
        element.set(name, value)
    if element.tag == "text" and "fill" not in element.attrib:
        element.set("fill", "currentColor")
