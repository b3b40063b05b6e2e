"""What a million events cost: bytes, memory, and the seconds of a save at the beginning and at the end.

    python tests/benchmarks/driving/events.py [--events 1000000] [--save 2000]

`rewritten` is how events were kept before: all in memory, the whole file written again at each save.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(CHECKOUT))

from cluster.storage import LocalStorage  # noqa: E402
from orchestrator.monitors.jsonl import JsonlMonitor  # noqa: E402
from orchestrator.reporting.timing import timing_of  # noqa: E402
from workers.channels.events import Event, StudentStep, UnitCommitted, to_lines  # noqa: E402


def event(i: int) -> Event:
    """Three students' steps, and a unit now and then."""
    if i % 50 == 0:
        numbers = dict.fromkeys(("rows", "tokens", "targets", "bytes"), 1000)
        return UnitCommitted(
            split="train", unit=i, won=True, started=i / 6, finished=i / 6 + 8, rejected=0, time=i / 6, **numbers
        )
    student = ("medical", "legal", "code")[i % 3]
    numbers = {"step": i, "tokens": i * 512, "budget": 1 << 40}
    floats = {"loss": 1.234567, "grad_norm": 0.98765, "lr": 2e-5, "waited": 0.01}
    return StudentStep(student=student, seconds=[i // 6, i // 6 + 1], time=i / 6, **numbers, **floats)


def segments(count: int, every: int) -> dict[str, Any]:
    """Appended segments."""
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(Path(folder))
        monitor = JsonlMonitor(storage, 1)
        before, saves = _peak_mb(), []
        for i in range(count):
            monitor.take(event(i))
            if (i + 1) % every == 0:
                began = time.process_time()
                monitor.flush(force=True)
                saves.append(time.process_time() - began)
        monitor.stop()
        grown = _peak_mb() - before
        began, peak = time.process_time(), _peak_mb()
        found = timing_of(storage).timing
        files = list(storage.listing("events"))
        return {
            "written_mb": sum(f.bytes for f in files) / 1e6,
            "objects": len(files),
            "first_saves_ms": _median(saves[:20]) * 1e3,
            "last_saves_ms": _median(saves[-20:]) * 1e3,
            "memory_grown_mb": grown,
            "read_s": time.process_time() - began,
            "read_memory_grown_mb": _peak_mb() - peak,
            "teacher_s": found.teacher_s,
        }


def rewritten(count: int, every: int) -> dict[str, Any]:
    """One file, written again at each save; fewer events, as the cost is quadratic."""
    with tempfile.TemporaryDirectory() as folder:
        storage, events, written, saves = LocalStorage(Path(folder)), [], 0, []
        before = _peak_mb()
        for i in range(count):
            events.append(event(i))
            if (i + 1) % every == 0:
                began = time.process_time()
                data = to_lines(events)
                storage.write("events.jsonl", data)
                written += len(data)
                saves.append(time.process_time() - began)
        return {
            "written_mb": written / 1e6,
            "first_saves_ms": _median(saves[:20]) * 1e3,
            "last_saves_ms": _median(saves[-20:]) * 1e3,
            "memory_grown_mb": _peak_mb() - before,
        }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def main() -> None:
    """Print a table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--save", type=int, default=2_000, help="events between two saves")
    options = parser.parse_args()
    few = options.events // 10
    found = {
        "segments": {"events": options.events, **segments(options.events, options.save)},
        "rewritten": {"events": few, **rewritten(few, options.save)},
    }
    for name, figures in found.items():
        for key, value in figures.items():
            print(f"{name:10s}  {key:22s} {value:14,.2f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
