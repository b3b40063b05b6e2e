"""Reading a log that grows: every event once, and of what was read nothing again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from support.toys.watched_run import tell

from cluster.storage import LocalStorage
from orchestrator.status.following import EventLog
from workers.channels.events import Message


class Counting(LocalStorage):
    """Counts the keys that are found, and the listings."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.found: list[str] = []
        self.asked = self.listings = 0

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        data = super().read_many(keys)
        self.found += [key for key, one in zip(keys, data, strict=True) if one is not None]
        self.asked += len(keys)
        return data

    def listing(self, prefix: str) -> list:  # type: ignore[type-arg]
        self.listings += 1
        return super().listing(prefix)


def texts(log: EventLog, attempt: int) -> list[str]:
    return [event.text for event in log.new(attempt) if isinstance(event, Message)]


def test_each_segment_is_read_once_however_often_one_looks(tmp_path: Path) -> None:
    storage = Counting(tmp_path)
    monitor = tell(storage, 1, *([Message(text=str(i))] for i in range(40)))
    log = EventLog(storage)
    assert texts(log, 1) == [str(i) for i in range(40)]
    assert texts(log, 1) == []
    for i in range(40, 50):
        monitor.take(Message(text=str(i)))
        monitor.flush(force=True)
    asked = storage.asked
    assert texts(log, 1) == [str(i) for i in range(40, 50)]
    assert len(storage.found) == len(set(storage.found)) == 50 and storage.listings == 1
    assert storage.asked - asked <= 10 + 2 * 4, "a few keys are looked for, and no more"


def test_later_attempts_follow_also_where_one_told_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    log = EventLog(storage)
    assert texts(log, 0) == []
    tell(storage, 1, [Message(text="one")])
    assert texts(log, 1) == ["one"]
    tell(storage, 3, [Message(text="three")])
    assert texts(log, 3) == ["three"]


def test_a_segment_that_was_lost_or_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    storage, skipped = LocalStorage(tmp_path), list[str]()
    log = EventLog(storage, skipped.append)
    monitor = tell(storage, 1, [Message(text="0")])
    assert texts(log, 1) == ["0"]
    for i in range(1, 5):
        monitor.take(Message(text=str(i)))
        monitor.flush(force=True)
    storage.delete("events/0001/000001.jsonl")
    storage.write("events/0001/000003.jsonl", b"{}\n")
    assert texts(log, 1) == ["2", "4"]
    assert len(skipped) == 1 and "000003" in skipped[0]
