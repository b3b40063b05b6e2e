"""What a run said, in words, each line with its time: all of it, or what is about one part."""

from __future__ import annotations

from cluster.holder import local_time
from orchestrator.monitors.progress import Part, Progress, State
from orchestrator.monitors.wording import changed, said
from workers.channels.events import (
    CaptureStarted,
    Event,
    Message,
    ReplicaReady,
    RunEnded,
    RunStarted,
    StageStarted,
    StudentState,
    UnitCommitted,
)

DRIVER = "driver"


class Words:
    """Turns a run's events, in order, into lines. `name`: of which part; "" is all, `driver` what is of no other."""

    def __init__(self, name: str = "") -> None:
        self._name, self._progress = name, Progress()
        self._states: dict[int, State] = {}
        self.names: set[str] = {DRIVER}
        """Parts that anything was told of."""

    def lines(self, event: Event) -> list[str]:
        """The lines of an event, none of most."""
        part = self._progress.take(event)
        about = self._about(event)
        self.names.add(about)
        texts = [_told(event) or said(event, self._progress), self._change(part)]
        if self._name:
            texts.append(_told_of_one(event))
        if self._name and self._name != about.partition(".")[0] and self._name != about:
            return []
        return [f"{local_time(event.time)}  {text}" for text in texts if text]

    def _change(self, part: Part | None) -> str:
        if part is None:
            return ""
        before, self._states[id(part)] = self._states.get(id(part), "queued"), part.state
        return changed(part, before)

    def _about(self, event: Event) -> str:
        """The student or teacher that an event is about, or the driver."""
        match event:
            case Message(text=text, student="", teacher=""):  # earlier versions name a teacher in the text only
                word = text.partition(":")[0].removeprefix("teacher ").split(",")[0]
                return word if text.startswith("teacher ") and word in self._progress.pool.teachers else DRIVER
            case Message() | UnitCommitted():
                return getattr(event, "student", "") or event.teacher or DRIVER
            case RunStarted() | RunEnded() | StageStarted():
                return DRIVER
        return getattr(event, "student", "") or getattr(event, "teacher", "") or DRIVER


def _told_of_one(event: Event) -> str:
    """What the driver's messages say too, which are not among those of a part."""
    match event:
        case CaptureStarted(teacher=teacher, units=units):
            return f"teacher {teacher} begins a pass over {units:,} units"
        case StudentState(state="failed", student=student, note=note):
            return f"{student} FAILED: {note}"
    return ""


def _told(event: Event) -> str:
    """What is shown by bars, or said elsewhere, while a run is looked at, and has no line there."""
    match event:
        case StageStarted(stage=stage):
            return f"stage: {stage}"
        case ReplicaReady(teacher=teacher, replica=replica):
            return f"teacher {teacher}: replica {replica[:8]} is ready".replace("replica  is", "a replica is")
        case StudentState(student=student, state="loading"):
            return f"{student} has its place and loads"
        case RunEnded(outcome=outcome, cause=cause):
            return f"attempt ended, {outcome}: {cause}" if cause else f"attempt ended: {outcome}"
    return ""
