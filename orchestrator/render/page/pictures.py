"""The pictures of a report, each with the numbers that it shows as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.config.students import CONTROLS, GENERALIST, HARD_LABELS
from orchestrator.render.spent import node_lines
from orchestrator.render.svg.chart import Series, chart
from orchestrator.render.svg.rows import Bar, Working, bars, timeline
from orchestrator.render.svg.scales import Axis
from orchestrator.render.svg.steps import Counted, steps
from orchestrator.reporting.measures.capacity import CapacityReport
from orchestrator.reporting.records import StudentReport
from orchestrator.reporting.report import Report
from orchestrator.reporting.scores import CurvePoint, ReliabilityBin

OWN, CONTROL, MIXED, BEGIN, TEACHER = range(5)
"""The styles of a specialist and of what stands beside it, the same in all pictures."""

_MOST_BARS = 16
"""Of a picture in which edits have bars of their own."""

_LEAST_TOKENS = 40
"""Of a point that is shown; of fewer a mean says little."""


@dataclass(frozen=True)
class Picture:
    """A picture, what it shows in a sentence, and its numbers."""

    title: str
    caption: str
    svg: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def picture_groups(report: Report) -> dict[str, list[Picture]]:
    """Those of which there are numbers: of all specialists together then of each by its name."""
    groups = {"All together": [*_parrot(report), *_losses(report), *_timeline(report), *_nodes(report)]}
    for name, student in report.students.items():
        groups[name] = [
            *_reliability(report, name, student),
            *_by_entropy(report, name, student),
            *_floor(name, student),
        ]
    return {name: group for name, group in groups.items() if group}


def _losses(report: Report) -> Iterator[Picture]:
    drawn = {n: [(float(p.tokens), p.loss) for p in s.curve] for n, s in report.students.items() if len(s.curve) > 1}
    if not drawn:
        return
    x = Axis.over("target tokens trained on", [t for points in drawn.values() for t, _ in points], zero=True)
    losses = [loss for points in drawn.values() for _, loss in points]
    positive = [loss for loss in losses if loss > 0]
    # The first steps dwarf all others. A sampled KL may be below 0, which such an axis leaves out.
    y = Axis.over("training loss, nats a token", positive, log=len(positive) > 0.8 * len(losses), zero=True)
    title, about = "Training loss", "Mean loss of each batch over the target tokens that a specialist has trained on."
    series = [Series(name, points, i) for i, (name, points) in enumerate(drawn.items())]
    rows = [[n, f"{t:,.0f}", f"{loss:.4f}"] for n, points in drawn.items() for t, loss in _some(points)]
    yield Picture(title, about, chart(title, about, x, y, series), ["specialist", "tokens", "loss"], rows)


def _reliability(report: Report, name: str, student: StudentReport) -> Iterator[Picture]:
    domain = student.domain
    found = {
        label: report.calibration[model][domain].reliability
        for label, model in (("specialist", name), ("hard labels", f"{name}.{HARD_LABELS}"))
        if domain in report.calibration.get(model, {})
    }
    if "specialist" not in found:
        return

    def line(label: str, bins: Sequence[ReliabilityBin], style: int) -> Series:
        return Series(label, [(b.confidence, b.hit) for b in bins], style, dots=True)

    series = [line(label, bins, (OWN, CONTROL)[i]) for i, (label, bins) in enumerate(found.items())]
    held = [(b.confidence, b.teacher_at_top) for b in found["specialist"]]
    series.append(Series("its teacher", held, TEACHER))
    part = Axis("top probability", 0.0, 1.0, percent=True), Axis("how often it is right", 0.0, 1.0, percent=True)
    title = f"Is {name} as right as it is sure?"
    about = (
        "Tokens of held-out text in 15 bins by the model's top probability: how often the text has that token, and how "
        "probable its teacher holds it. Below the diagonal a model is surer than it may be."
    )
    rows = [
        [label, f"{b.tokens:,}", *(f"{v:.1%}" for v in (b.confidence, b.hit, b.teacher_at_top))]
        for label, bins in found.items()
        for b in bins
    ]
    head = ["model", "tokens", "top probability", "right", "by the teacher"]
    yield Picture(title, about, chart(title, about, *part, series, diagonal=True, size=(560, 380)), head, rows)


def _by_entropy(report: Report, name: str, student: StudentReport) -> Iterator[Picture]:
    beside = ((OWN, name, "specialist"), (CONTROL, f"{name}.{HARD_LABELS}", "hard labels"), (MIXED, GENERALIST, ""))
    found: dict[str, tuple[int, list[_Joined]]] = {}
    for style, model, label in beside:
        curves = report.curves.get(model, {}).get(student.domain)
        if curves is not None:
            found[label or model] = style, _joined(curves.entropy)
    if len(found.get("specialist", (0, []))[1]) < 2:
        return
    every = [p for _, points in found.values() for p in points]
    x = Axis.over("entropy of the teacher, nats", [p.at for p in every], zero=True)
    y = Axis.over("KL to the teacher, nats a token", [p.kl for p in every], zero=True)
    title = f"Where {name} differs: by how sure its teacher is"
    about = "Mean KL of held-out tokens over the entropy of the teacher's distribution; bins of few tokens are joined."
    series = [Series(label, [(p.at, p.kl) for p in points], s, dots=True) for label, (s, points) in found.items()]
    rows = [[n, f"{p.at:.2f}", f"{p.tokens:,}", f"{p.kl:.4f}"] for n, (_, points) in found.items() for p in points]
    yield Picture(title, about, chart(title, about, x, y, series), ["model", "entropy from", "tokens", "KL"], rows)


@dataclass(frozen=True)
class _Joined:
    """Neighbouring bins as one."""

    at: float
    tokens: int
    kl: float


def _joined(points: Sequence[CurvePoint]) -> list[_Joined]:
    """Bins of entropy, as many joined as it takes to have enough tokens; what is left at the end joins the last."""
    found, some = list[_Joined](), list[CurvePoint]()
    for i, point in enumerate(points):
        some.append(point)
        tokens, left = sum(p.tokens for p in some), sum(p.tokens for p in points[i + 1 :])
        if (tokens >= _LEAST_TOKENS and (left >= _LEAST_TOKENS or left == 0)) or i == len(points) - 1:
            found.append(_Joined(some[0].at, tokens, sum(p.kl * p.tokens for p in some) / max(tokens, 1)))
            some = []
    return found


def _floor(name: str, student: StudentReport) -> Iterator[Picture]:
    c = student.capacity
    if c is None or len(c.points) < 2:
        return
    lines = {name: (OWN, [(float(p.tokens), p.kl) for p in c.points])}
    if c.generalist is not None:
        lines[GENERALIST] = (MIXED, [(float(p.tokens), p.kl) for p in c.generalist.points])
    every = [p for _, points in lines.values() for p in points]
    tokens = [t for t, _ in every]
    x = Axis.over("target tokens of the domain", [*tokens, 4 * max(tokens)], log=True)
    ends = [v for v in (c.floor_low, c.floor_high) if v is not None]
    y = Axis.over("KL to the teacher, nats a token", [*(kl for _, kl in every), *ends], zero=True)
    series = [Series(n, points, style, dots=True, joined=False) for n, (style, points) in lines.items()]
    series += _fitted(c, x)
    title = f"Where {name} tends to"
    about = (
        "Held-out KL of models that were kept on the way, over the tokens of the domain that they had seen, with the "
        "curve K_inf + b D^-g drawn on to four times as many, and the 95 % interval of K_inf."
    )
    rows = [[n, f"{t:,.0f}", f"{kl:.4f}"] for n, (_, points) in lines.items() for t, kl in points]
    yield Picture(title, about, chart(title, about, x, y, series), ["model", "tokens", "KL"], rows)


def _fitted(c: CapacityReport, x: Axis) -> Iterator[Series]:
    """The curve of a specialist, and its floor with the interval."""
    if c.floor is None or c.exponent is None or c.remaining is None:
        return
    last, ratio = c.points[-1].tokens, x.high / x.low
    at = [x.low * ratio ** (i / 60) for i in range(61)]
    yield Series("", [(t, c.floor + c.remaining * (t / last) ** -c.exponent) for t in at], OWN)
    if c.floor_low is not None and c.floor_high is not None:
        band = [(t, c.floor_low, c.floor_high) for t in (x.low, x.high)]
        yield Series("floor", [(x.low, c.floor), (x.high, c.floor)], TEACHER, band=band)


def _parrot(report: Report) -> Iterator[Picture]:
    rows: list[Bar] = []
    for name, student in report.questioned.items():
        if (p := student.parrot) is None:
            continue
        found = [(name, p.index, p.low, p.high, OWN)]
        if p.control is not None:
            found.append((f"{name}, hard labels", p.control.value, p.control.low, p.control.high, CONTROL))
        found += [(f"{name}: {e}", d.index.value, d.index.low, d.index.high, BEGIN) for e, d in p.by_edit.items()]
        rows += [Bar(n, v, lo, hi, s, f"{v:+.1%} ({lo:+.1%} … {hi:+.1%})") for n, v, lo, hi, s in found]
    if not rows:
        return
    # Of many, edits have their numbers below: each is of few items, and their wide intervals would squeeze the rest.
    drawn = [r for r in rows if r.style != BEGIN] if len(rows) > _MOST_BARS else rows
    ends = [v for r in drawn for v in (r.value, r.low, r.high)]
    axis = Axis.over("points of accuracy", ends, percent=True, zero=True)
    title = "Rule or words?"
    about = (
        "What edits of questions cost a specialist beyond what they cost its teacher, with 95 % intervals: above 0 it "
        "leans on words more than its teacher does."
    )
    yield Picture(title, about, bars(title, about, axis, drawn), ["who", "index"], [[r.name, r.said] for r in rows])


def _timeline(report: Report) -> Iterator[Picture]:
    names = ["teacher", *report.students]
    names += [n for n in report.timing.spans if n not in names]
    rows = [
        Working(n, report.timing.spans[n], TEACHER if n == "teacher" else CONTROL if n.endswith(CONTROLS) else OWN)
        for n in names
        if n in report.timing.spans
    ]
    if not rows:
        return
    title, about = "Who worked when", "Seconds in which the teacher made targets and students took steps."
    seconds = [[r.name, f"{len(r.spans):,}", f"{sum(b - a for a, b in r.spans):,.0f} s"] for r in rows]
    yield Picture(title, about, timeline(title, about, rows), ["who", "spans", "at work"], seconds)


def _nodes(report: Report) -> Iterator[Picture]:
    if (nodes := report.nodes) is None:
        return
    styles = {"teacher": TEACHER, "student": OWN}
    counted = [Counted(name, r.counts, styles.get(name, MIXED)) for name, r in nodes.roles.items()]
    wanted = [Working(f"{part} wait", w.spans, CONTROL) for part, w in nodes.wanted.items()]
    title = "Nodes that came and left"
    (said,) = node_lines(nodes)
    about = (
        "How many nodes of each role the cluster had, each row as high as its most, and when teachers and students "
        f"looked for places: the demand that an autoscaler sees. {said[0].upper()}{said[1:]}."
    )
    rows = [[n, f"{r.nodes:,}", f"{r.most:,}", f"{r.node_s:,.0f} s", ""] for n, r in nodes.roles.items()]
    rows += [[f"places of {n}", f"{w.places:,}", "", "", f"{w.longest_s:,.1f} s"] for n, w in nodes.wanted.items()]
    head = ["what", "how many", "at once", "node-seconds", "longest wait"]
    yield Picture(title, about, steps(title, about, counted, wanted), head, rows)


def _some(points: Sequence[tuple[float, float]], most: int = 12) -> list[tuple[float, float]]:
    """Some of many points, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
