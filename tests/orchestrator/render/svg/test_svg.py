"""Pictures: marks that are round and inside, labels that do not collide, markup that parses."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from orchestrator.render.svg.chart import Series, chart
from orchestrator.render.svg.drawing import apart
from orchestrator.render.svg.rows import Bar, Working, bars, timeline
from orchestrator.render.svg.scales import Axis, short
from orchestrator.render.svg.steps import Counted, steps


@pytest.mark.parametrize(
    "values", [[0.0, 1.0], [3.2, 3.2], [-0.07, 0.31], [0.0], [], [1e-9, 3e-9], [5e11, 2.0], [math.nan, 2, math.inf]]
)
def test_an_axis_holds_its_values_and_is_marked_at_round_ones(values: list[float]) -> None:
    axis = Axis.over("x", values)
    known = [v for v in values if math.isfinite(v)]
    slack = 1e-9 * (axis.high - axis.low)
    assert all(axis.low - slack <= v <= axis.high + slack for v in known)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12 and all(axis.low - slack <= t <= axis.high + slack for t in ticks)
    steps = [b - a for a, b in pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-6)
    assert len({axis.text(t) for t in ticks}) == len(ticks)


@pytest.mark.parametrize("values", [[15_000, 900_000], [1.0], [3.0, 4.0], [1e-3, 1e9], [-1.0, 5.0]])
def test_a_logarithmic_axis(values: list[float]) -> None:
    axis = Axis.over("x", values, log=True)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 8 and all(axis.low * 0.999 <= t <= axis.high * 1.001 for t in ticks)
    middle = math.sqrt(axis.low * axis.high)
    assert (axis.share(axis.low), axis.share(middle), axis.share(axis.high)) == pytest.approx((0, 0.5, 1))


def test_large_numbers_are_short() -> None:
    assert [short(v) for v in (999, 1500, 2.5e6, 3e9)] == ["999", "1.5k", "2.5M", "3G"]


@pytest.mark.parametrize("places", [[], [5.0], [5.0, 5.0, 5.0], [95.0, 99.0, 98.0], [0.0, 1.0, 50.0]])
def test_labels_are_moved_apart(places: list[float]) -> None:
    moved = apart(places, 10, 8, 100)
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(sorted(moved)))
    assert all(8 <= m <= 100 for m in moved)
    assert sorted(range(len(places)), key=lambda i: (places[i], i)) == sorted(
        range(len(places)), key=lambda i: moved[i]
    )


def test_a_chart_is_markup_with_a_title_and_leaves_out_what_is_no_number() -> None:
    x, y = Axis("<tokens>", 0, 10), Axis("KL & more", 0, 1)
    points = [(0.0, 0.5), (5.0, math.nan), (10.0, 0.25), (20.0, 0.1)]
    root = ET.fromstring(chart("a <title>", "said \x00", x, y, [Series("a & b", points, 0, dots=True)], diagonal=True))
    assert (root.find("title").text, root.get("role")) == ("a <title>", "img")  # type: ignore[union-attr]
    assert len(root.findall("circle")) == 2
    texts = [t.text for t in root.findall("text")]
    assert "a & b" in texts and "<tokens>" in texts and "KL & more" in texts
    assert "nan" not in ET.tostring(root, encoding="unicode")


def test_bars_and_spans() -> None:
    axis = Axis.over("points", [-0.1, 0.3], percent=True, zero=True)
    rows = [
        Bar("a", 0.2, 0.1, 0.3, 0, "said"),
        Bar("b", -0.1, math.nan, math.nan, 1, ""),
        Bar("c", math.nan, 0, 0, 1, ""),
    ]
    root = ET.fromstring(bars("t", "d", axis, rows))
    assert (
        len(root.findall("rect")) == 2 and len([e for e in root.findall("line") if e.get("class") == "interval"]) == 3
    )
    root = ET.fromstring(timeline("t", "d", [Working("teacher", [(0, 5), (7, 9)], 0), Working("none", [], 1)]))
    assert [r.find("title").text for r in root.findall("rect")] == ["teacher: 0 to 5 s", "teacher: 7 to 9 s"]  # type: ignore[union-attr]
    assert ET.fromstring(timeline("t", "d", [])) is not None


def test_counts_over_time_are_as_high_as_they_are_many() -> None:
    rows = [Counted("teacher", [(10, 1), (20, 2), (30, 0)], 4), Counted("head", [(0, 1), (60, 0)], 2)]
    root = ET.fromstring(steps("t", "d", rows, [Working("teachers wait", [(5, 12)], 1)]))
    boxes = root.findall("rect")
    said = [r.find("title").text for r in boxes]  # type: ignore[union-attr]
    assert said == [
        "1 teacher: 10 to 20 s", "2 teacher: 20 to 30 s", "1 head: 0 to 60 s", "teachers wait: 5 to 12 s",
    ]  # fmt: skip
    high = [float(r.get("height", 0)) for r in boxes]
    assert high[1] == 2 * high[0] == high[2]
    ends = [float(r.get("y", 0)) + float(r.get("height", 0)) for r in boxes]
    assert ends[0] == ends[1] < ends[2] < ends[3] < float(root.get("viewBox", "").split()[3])
    assert "teacher: up to 2" in [t.text for t in root.findall("text")]
    assert ET.fromstring(steps("t", "d", [], [])) is not None
