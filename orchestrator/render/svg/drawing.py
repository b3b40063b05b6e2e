"""Elements of SVG: the frame of a picture, lines, texts. Attributes and texts are escaped by the library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

SERIES = 6
"""Styles that series are told apart by (`s0` ... in page.css: colours, dashes)."""

Point = tuple[float, float]


def picture(width: float, height: float, title: str, description: str) -> ET.Element:
    """An empty picture that a screen reader names."""
    root = ET.Element(
        "svg",
        {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "class": "picture", "width": f"{width:g}"},
    )
    ET.SubElement(root, "title").text = _printable(title)
    ET.SubElement(root, "desc").text = _printable(description)
    return root


def line(parent: ET.Element, start: Point, end: Point, style: str) -> None:
    """A straight line."""
    ends = dict(zip(("x1", "y1", "x2", "y2"), map(_number, (*start, *end)), strict=True))
    ET.SubElement(parent, "line", {**ends, "class": style})


def path(parent: ET.Element, points: Sequence[Point], style: str, *, closed: bool = False) -> None:
    """A line through points, or the area within it."""
    if points:
        through = "L".join(f"{_number(x)},{_number(y)}" for x, y in points)
        ET.SubElement(parent, "path", {"d": f"M{through}{'Z' if closed else ''}", "class": style})


def dot(parent: ET.Element, at: Point, style: str, said: str = "") -> None:
    """A point, with what is said of it where the pointer rests."""
    mark = ET.SubElement(parent, "circle", {"cx": _number(at[0]), "cy": _number(at[1]), "r": "3", "class": style})
    if said:
        ET.SubElement(mark, "title").text = _printable(said)


def box(parent: ET.Element, corner: Point, size: Point, style: str, said: str = "") -> None:
    """A rectangle from its upper left corner, with what is said of it where the pointer rests."""
    names = ("x", "y", "width", "height")
    place = dict(zip(names, map(_number, (*corner, *size)), strict=True))
    mark = ET.SubElement(parent, "rect", {**place, "class": style})
    if said:
        ET.SubElement(mark, "title").text = _printable(said)


def text(parent: ET.Element, at: Point, what: str, style: str = "", anchor: str = "start") -> None:
    """Words at a place."""
    place = {"x": _number(at[0]), "y": _number(at[1]), "text-anchor": anchor}
    ET.SubElement(parent, "text", place | ({"class": style} if style else {})).text = _printable(what)


def shortened(name: str, most: int = 28) -> str:
    """A name that fits beside a picture: of a long one the middle is left out."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2 - 1) :]}"


def room(names: Sequence[str], least: float) -> float:
    """How wide names are at most, as they are drawn on a phone: 10 units a letter and a margin."""
    return max([least, *(10 * len(name) + 20 for name in names)])


def apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Places moved as little as it takes to be so far from one another, between two ends where that is possible."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [max(places[i], low) for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + distance)
    over = moved[-1] - high if moved else 0.0
    if over > 0:
        moved[-1] -= over
        for i in range(len(moved) - 2, -1, -1):
            moved[i] = min(moved[i], moved[i + 1] - distance)
    found = [0.0] * len(places)
    for i, place in zip(order, moved, strict=True):
        found[i] = place
    return found


def markup(root: ET.Element) -> str:
    """A picture as it stands in a page."""
    return ET.tostring(root, encoding="unicode")


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _printable(what: str) -> str:
    """Without the control characters that XML does not know."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "�", what)
