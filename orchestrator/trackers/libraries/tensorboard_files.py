"""Event files for TensorBoard, written without torch or TensorFlow: a folder for each student.

A step that is written twice, as when a process was killed before it had noted what it wrote, is shown once: a writer
begins with the mark of a new session, at which TensorBoard forgets what it has of that step and later ones.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

from orchestrator.config.trackers import TensorboardConfig
from orchestrator.trackers.group import Group
from orchestrator.trackers.points import Point
from workers.layout import TENSORBOARD


def folder_of(config: TensorboardConfig, group: Group) -> str:
    """Where a run's event files lie: the teachers' right in it, a student's in a folder below."""
    if config.folder is not None:
        return os.path.join(os.path.abspath(os.path.expanduser(config.folder)), group.run)
    if group.folder is None:
        raise ValueError(f"trackers.tensorboard.folder: {group.uri} is no local folder; name one")
    return os.path.join(group.folder, TENSORBOARD)


class TensorboardFiles:
    """One writer for each folder."""

    def __init__(self, config: TensorboardConfig, group: Group) -> None:
        self._folder = folder_of(config, group)
        self._writers: dict[str, EventFileWriter] = {}

    def send(self, points: Sequence[Point]) -> None:
        """Write points, and flush."""
        for point in points:
            values = [Summary.Value(tag=key, simple_value=value) for key, value in point.named().items()]
            if point.verdict:
                kind = create_summary_metadata("verdict", "")
                values.append(
                    Summary.Value(tag="verdict", metadata=kind, tensor=make_tensor_proto([point.verdict.encode()]))
                )
            event = Event(wall_time=point.time, step=point.step, summary=Summary(value=values))
            self._writer(point).add_event(event)
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, first: Point) -> EventFileWriter:
        """The writer of a point's folder; one that is new begins its session at the point, or behind a final one, which
        stands beside what is there."""
        student = first.student
        if student not in self._writers:
            self._writers[student] = EventFileWriter(os.path.join(self._folder, student) if student else self._folder)
            session = SessionLog(status=SessionLog.START)
            began = Event(wall_time=first.time, step=first.step + first.final, session_log=session)
            self._writers[student].add_event(began)
        return self._writers[student]
