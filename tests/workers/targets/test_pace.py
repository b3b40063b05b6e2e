"""How far a reader looks ahead follows from how long a unit takes to read and to use."""

from __future__ import annotations

import pytest

from workers.targets import pace
from workers.targets.pace import Pace


@pytest.mark.parametrize(
    ("read_s", "use_s", "ahead"),
    [(0.1, 10.0, 4), (2.0, 1.0, 4), (2.0, 0.25, 16), (1.0, 0.0, 64), (0.001, 0.0, 64)],
)
def test_units_used_up_while_one_is_read_are_ahead(
    read_s: float, use_s: float, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many, for reads differ; what the reader waits for the teacher is no use."""
    now = 0.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    found = Pace()
    assert found.ahead == 4
    for _ in range(50):
        found.ask()
        found.note_read(read_s)
        now += 1000.0  # until it is there
        found.serve()
        now += use_s
    assert found.ahead == ahead


def test_the_pace_of_now_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    found = Pace()
    for use_s in [0.1] * 100 + [10.0] * 100:
        found.ask()
        found.note_read(1.0)
        found.serve()
        now += use_s
    assert found.ahead == 4
