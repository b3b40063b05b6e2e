"""Units that one process decodes for all of its machine: the same rows, once, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.store_fixture import StoreFixture, content

from workers.targets import shared_units
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.shared_units import SharedUnits
from workers.targets.store import TargetStore

MIX = {"a": 0.6, "b": 0.3, "c": 0.1}


def in_threads(work: list[Callable[[], Any]]) -> list[Any]:
    found: list[Any] = [None] * len(work)

    def run(i: int) -> None:
        found[i] = work[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def unit(names: list[str] = ["a", "b"], size: int = 10) -> UnitTargets:
    return UnitTargets(
        prompt_uids=names,
        lengths=np.full(len(names), size),
        starts=np.ones(len(names), np.int64),
        tokens=np.arange(size * len(names), dtype=np.uint32),
        temperature=0.7,
    )


@pytest.mark.parametrize("ahead", [0, None])
def test_ranks_read_what_each_would_alone_and_each_unit_once(
    ahead: int | None, filled: StoreFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = filled.stream(MIX)
    expected = [[content(r) for r in alone.next_batch(17)] for _ in range(30)]
    reads: Counter[int] = Counter()
    read = TargetStore.read_unit

    def counted(self: TargetStore, entry: Any, draw: int | None = None) -> UnitTargets:
        reads[entry.unit] += 1
        return read(self, entry, draw)

    monkeypatch.setattr(TargetStore, "read_unit", counted)

    def rank() -> list[Any]:
        shared = SharedUnits("a student", tmp_path)
        stream = filled.stream(MIX, ahead=ahead, shared=shared)
        found = [[content(r) for r in stream.next_batch(17)] for _ in range(30)]
        everybody_is_done.wait(60)
        stream.close()
        shared.close()
        return found

    everybody_is_done = threading.Barrier(4)
    assert in_threads([rank] * 4) == [expected] * 4
    assert set(reads.values()) == {1}
    assert list(tmp_path.glob("stillhouse-units-*")) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"redraws": 2, "always": (5,)},
        {"scheme": "topk"},
        {"scheme": "full", "precision": "float16"},
        {"scheme": "hidden", "precision": "bfloat16"},
    ],
)
def test_arrays_of_every_scheme(settings: dict[str, Any], build: Callable[..., StoreFixture], tmp_path: Path) -> None:
    filled = build(**settings).commit_all()
    shared, other = SharedUnits("a student", tmp_path), SharedUnits("a student", tmp_path)
    for number, revision in ((0, 0), (3, 2)):
        entry = filled.store.log.entry(number)
        assert entry is not None
        made = filled.store.read_unit(entry, 0)
        assert shared.get(str(number), lambda made=made, revision=revision: (made, revision)) is not None
        found = other.get(str(number), lambda: None)
        assert found is not None and found[1] == revision
        assert (found[0].prompt_uids, found[0].temperature) == (made.prompt_uids, made.temperature)
        for name in set(vars(made)) - set(shared_units._LEFT_OUT):
            np.testing.assert_array_equal(getattr(found[0], name), getattr(made, name))
            assert getattr(found[0], name).dtype == getattr(made, name).dtype
    shared.close()
    other.close()


def test_what_was_not_made_is_made_by_the_next(tmp_path: Path) -> None:
    shared, other = SharedUnits("a student", tmp_path), SharedUnits("a student", tmp_path)
    assert shared.get("0", lambda: None) is None  # not committed yet

    def damaged() -> Any:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        shared.get("0", damaged)
    found = other.get("0", lambda: (unit(), 1))
    again = shared.get("0", damaged)
    assert found is not None and again is not None and again[1] == 1
    shared.close()
    assert other.folder.exists()
    other.close()
    assert not other.folder.exists()


def test_the_newest_units_stay_and_what_is_in_use_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_units, "MOST_BYTES", 100_000)
    shared = SharedUnits("a student", tmp_path)
    first = shared.get("0", lambda: (unit(size=1000), 0)) and shared.get("0", lambda: None)
    assert first is not None
    for number in range(1, 40):
        os.utime(shared.folder / f"{number - 1}.arrow", (number, number))
        shared.get(str(number), lambda: (unit(size=1000), 0))
        held = sum(f.stat().st_size for f in shared.folder.iterdir())
        assert held <= 100_000 + 8_000  # what a file has around its arrays is not foreseen
    assert held > 80_000
    assert shared.get("0", lambda: None) is None and shared.get("39", lambda: None) is not None
    np.testing.assert_array_equal(first[0].tokens, unit(size=1000).tokens)
    large = (unit(size=10_000), 0)
    assert shared.get("large", lambda: large) is large  # not shared: it would drive out the others
    assert shared.get("large", lambda: None) is None
    shared.close()


def test_without_room_each_decodes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedUnits("a student", tmp_path)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.OSFile", full)
    made = (unit(), 0)
    assert shared.get("0", lambda: made) is made
    assert not [f for f in shared.folder.iterdir() if f.suffix not in (".lock", "")]
    monkeypatch.undo()
    (shared.folder / "users").unlink()
    shared.folder.joinpath("0.lock").unlink()
    shared.folder.rmdir()  # somebody has cleaned up
    assert shared.get("0", lambda: made) is made
    shared.close()


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.shared_units import SharedUnits
shared = SharedUnits(sys.argv[1], Path(sys.argv[2]))
one = UnitTargets(prompt_uids=["old"], lengths=np.array([2]), starts=np.array([1]), tokens=np.zeros(2, np.uint32))
assert shared.get("0", lambda: (one, 0))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_is_removed_and_never_read(tmp_path: Path) -> None:
    """A unit may have been recaptured since."""
    for key in ("a student", "another"):
        done = subprocess.run([sys.executable, "-c", KILLED, key, str(tmp_path)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert (next(tmp_path.glob("stillhouse-units-*")) / "0.arrow").exists()
    shared = SharedUnits("a student", tmp_path)
    assert list(tmp_path.glob("stillhouse-units-*")) == [shared.folder]
    assert shared.get("0", lambda: None) is None
    shared.close()
