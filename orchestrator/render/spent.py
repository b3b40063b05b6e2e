"""What a run took, in words and as tables."""

from __future__ import annotations

from orchestrator.render.hours import dollars_words
from orchestrator.render.tables import Row, Table
from orchestrator.reporting.money.nodes import NodesReport
from orchestrator.reporting.money.spent import Amount, Spent

_ABOUT = (
    "Hours of GPUs and CPUs that places were held for, in all attempts, and dollars where cluster.prices has prices. A "
    "specialist's share of the teacher: every token is paid for by those that trained on it, in equal parts; held-out "
    "units by those that are measured on them. Alone: in a run of its own, where it pays for all that it uses of the "
    "teacher."
)


def amount_words(amount: Amount) -> str:
    """GPU-hours, CPU-hours and dollars."""
    words = [f"{_hours(amount.gpu_s)} GPU-hours"] if amount.gpu_s else []
    words.append(f"{_hours(amount.cpu_s)} CPU-hours")
    return ", ".join([*words, *([dollars_words(amount.dollars)] if amount.dollars is not None else [])])


def spent_lines(spent: Spent | None) -> list[str]:
    """What each specialist took, and what fan-out saved; nothing where that is not known."""
    if spent is None or not any(s.together.cpu_s or s.together.gpu_s for s in spent.specialists.values()):
        return []
    each = [
        f"{name} {_short(one.together, spent)} ({one.teacher_share:.0%} of the teacher)"
        for name, one in spent.specialists.items()
    ]
    lines = [f"each specialist with its controls and its share of the teacher: {', '.join(each)}"]
    if spent.saved is not None and len(spent.specialists) > 1:
        together = sum((s.together for s in spent.specialists.values()), Amount(dollars=0.0))
        lines.append(
            f"{len(spent.specialists)} separate runs would take {_short(spent.separate, spent)} where together they "
            f"took {_short(together, spent)}: fan-out saved {spent.saved:.0%}"
        )
    return lines


def spent_tables(spent: Spent | None) -> dict[str, Table]:
    """By part, and by specialist; none where nothing is known."""
    if spent is None or not (spent.total.cpu_s or spent.total.gpu_s):
        return {}
    parts = {
        "preparing": spent.prepare,
        **{f"capture by {name}": amount for name, amount in spent.capture.items()},
        **{f"training of {name}": amount for name, amount in spent.training.items()},
        "evaluation": spent.evaluate,
        "export": spent.export,
    }
    rows = [Row(label, False, _cells(amount)) for label, amount in parts.items()]
    rows.append(Row("all", True, _cells(spent.total)))
    tables = {"spent": Table("What the run took", _ABOUT, ["part", *_HEAD], rows, [])}
    if lines := spent_lines(spent):
        each = [
            Row(
                name,
                True,
                [*_cells(one.together), f"{one.teacher_share:.1%}", *(_cells(one.alone))],
            )
            for name, one in spent.specialists.items()
        ]
        head = ["specialist", *_HEAD, "share of the teacher", *(f"{what} alone" for what in _HEAD)]
        tables["spent_each"] = Table("What each specialist took", "With its controls.", head, each, lines[1:])
    return tables


def node_lines(nodes: NodesReport | None) -> list[str]:
    """Which nodes there were, and what coming and leaving has saved; nothing where there were never several."""
    if nodes is None:
        return []
    most = ", ".join(f"{role.most} {name}" for name, role in nodes.roles.items())
    line = (
        f"nodes: at most {most} at once; {_node_time(nodes.node_s)}, where as many all the time are "
        f"{_node_time(nodes.fixed_node_s)}: {nodes.saved:.0%} less"
    )
    found = [f"{part} {one.longest_s:,.0f} s" for part, one in nodes.wanted.items() if one.places]
    return [line + (f"; places were waited for at the longest by {', '.join(found)}" if found else "")]


def _node_time(seconds: float) -> str:
    return f"{seconds:,.0f} node-seconds" if seconds < 36_000 else f"{seconds / 3600:,.1f} node-hours"


_HEAD = ("GPU-hours", "CPU-hours", "dollars")


def _cells(amount: Amount) -> list[str]:
    dollars = "–" if amount.dollars is None else dollars_words(amount.dollars)[1:]
    return [_hours(amount.gpu_s) if amount.gpu_s else "–", _hours(amount.cpu_s), dollars]


def _short(amount: Amount, spent: Spent) -> str:
    """An amount by what savings are told by."""
    if spent.saved_by == "dollars" and amount.dollars is not None:
        return dollars_words(amount.dollars)
    return f"{_hours(amount.gpu_s)} GPU-hours" if spent.saved_by == "gpu_s" else f"{_hours(amount.cpu_s)} CPU-hours"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
