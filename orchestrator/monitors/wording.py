"""What monitors say of a part of a run, in a few letters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from orchestrator.monitors.progress import Part, Progress, State
from workers.channels.events import Event, Message, ReplicaReady, UnitCommitted, UnitDamaged

BLOCKS = "▁▂▃▄▅▆▇█"


def said(event: Event, progress: Progress) -> str:
    """The line that an event brings, if any; `progress` has taken it in."""
    match event:
        case Message(text=text, student=student):
            return f"{student}: {text}" if student else text
        case ReplicaReady(teacher=teacher, weights_held=held) if len(progress.pool.heard) == 1:  # others are counted
            return f"teacher {teacher} is ready: weights held by its ranks {' + '.join(f'{n:,}' for n in held)}"
        case UnitCommitted(unit=unit, split=split, revision=revision, content_changed=changed) if revision:
            contents = "other contents than before" if changed else "the same contents"
            return f"unit {unit} of the {split} store is recomputed, with {contents}"
        case UnitDamaged(student=student, unit=unit, reason=reason):
            return f"{student}: unit {unit} is damaged: {reason}"
    return ""


def changed(part: Part, before: State) -> str:
    """That a student trains, or that a part is done; empty of any other change of its state."""
    if part.state == "done" and before != "done":
        return f"{part.name} is done: {amount(part)}"
    if part.state == "working" and before in ("queued", "loading") and part.counts == "tokens":
        return f"{part.name} trains: {amount(part)} tokens"
    return ""


def percent(part: Part) -> str:
    """What is done; 100 % only of what is all done."""
    return f"{min(int(100 * part.share), 99 if part.state != 'done' else 100)}%"


def amount(part: Part) -> str:
    """What is done of how much."""
    if part.counts == "tokens":
        return f"{short(part.done)}/{short(part.total)}" if part.total else ""
    return f"{part.done:,}/{part.total:,} {part.counts}" if part.total else ""


def speed(part: Part) -> str:
    """Target tokens a second."""
    rate = part.tokens.per_second
    return f"{short(rate)} tok/s" if rate is not None and part.counts != "scores" else ""


def left(part: Part) -> str:
    """The time that it takes still."""
    return "" if part.left_s is None else clock(part.left_s)


def short(number: float) -> str:
    """A number in about three digits: 950, 1.2k, 34k, 5.6M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}" if number < 999.5 * size else f"{number / size:.0f}{letter}"
    return f"{number:.3g}" if number < 10 else f"{number:.0f}"


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34, 1:02:03 or 2d 03:04."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def sparkline(values: Sequence[float]) -> str:
    """Values as blocks from the least to the most of them, by their logarithms where they have any: most of a loss
    falls in the first steps, and what comes later counts too."""
    if not values:
        return ""
    if min(values) > 0:
        values = [math.log(value) for value in values]
    least, most = min(values), max(values)
    step = (most - least) / (len(BLOCKS) - 1) or 1.0
    return "".join(BLOCKS[round((value - least) / step)] for value in values)


def detail(part: Part, progress: Progress) -> str:
    """What else there is to say: the teachers' replicas and slots, what is waited for, what is scored."""
    if part.state == "failed":
        return " ".join(part.note.split())
    if part.counts == "units":
        return ", ".join(_pool(part, progress))
    if part.state == "waiting":
        return f"for {part.note}"
    return part.note if part.counts == "scores" and part.state != "done" else ""


def _pool(part: Part, progress: Progress) -> list[str]:
    pool, said = progress.pool, []
    texts, slots = pool.in_slots
    if slots:
        said.append(f"{texts:,}/{slots:,} slots")
    if part.state != "done" and (replicas := len(pool.heard)):
        said.append(f"{replicas:,} replica{'s' * (replicas > 1)}")
    if pool.train_targets:
        said.append(f"{pool.bytes / pool.train_targets:.1f} B/token")
    if pool.rejected:
        said.append(f"{pool.rejected:,} rejected")
    return said
