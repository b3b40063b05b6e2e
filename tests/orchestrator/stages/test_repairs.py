"""Which units are recomputed, who had read what came back otherwise, and `stillhouse gc` as it is typed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.project import Project
from support.small_configuration import clinic

from cluster.lease import Lease
from orchestrator.reporting.repairs import repairs
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.capture import lacking, missing_units
from orchestrator.stages.repairs import rows_of_marked, units_to_repair
from workers.manifest import UnitPlace, write_plan
from workers.targets.commits.log import Entry, Part
from workers.targets.reader import Cursor, DomainPosition
from workers.targets.store import TargetStore
from workers.units import Unit, UnitPlan

DOMAINS = ["medical", "legal", "medical", "legal", "medical"]


def entry(unit: int, revision: int = 0, **more: Any) -> Entry:
    key = f"targets/train/parts/g0000/{unit:08d}-{revision}.parquet"
    words: dict[str, Any] = {"teacher": "teacher", "teacher_fingerprint": "", "content_hash": "same"}
    numbers = dict.fromkeys(("rows", "tokens", "targets", "num_kept", "epoch", "started", "finished"), 0)
    fields = words | numbers | {"parts": (Part("targets", key, 100 + unit, "0"),), "revision": revision}
    return Entry(unit, **(fields | ({"supersedes_content_hash": "same"} if revision else {}) | more))


def to_repair(run: RunFolder) -> dict[int, int]:
    return units_to_repair(run, "train", TargetStore(run.storage, "train").log.each())[1]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Five planned units, of which the first four are committed."""
    run = RunFolder(str(tmp_path / "clinic"))
    units = tuple(Unit(u, (d,), "teacher", 1, 9, True) for u, d in enumerate(DOMAINS))
    write_plan(run.storage, UnitPlan("train", units), [UnitPlace(0, 0, 0, 0)] * len(units))
    for unit in range(4):
        commit(run, entry(unit))
    return run


def commit(run: RunFolder, made: Entry) -> None:
    for part in made.parts:
        run.storage.write(part.key, bytes(part.bytes))
    assert log(run).commit(made)


def log(run: RunFolder) -> Any:
    return TargetStore(run.storage, "train").log


def mark(run: RunFolder, unit: int, revision: int = 0) -> None:
    log(run).mark_damaged(unit, revision, "part", "its bytes are others", "medical")


# What is to be recomputed ---------------------------------------------------------------------------------


def test_a_whole_store_lacks_only_what_is_new(run: RunFolder) -> None:
    assert to_repair(run) == {}
    assert missing_units(run) == {"teacher": [{"split": "train", "unit": 4, "repair": 0}]}


def test_marked_missing_and_truncated_units_are_recomputed(run: RunFolder) -> None:
    """In plan order, with the units that are new."""
    run.storage.delete(entry(3).parts[0].key)
    run.storage.write(entry(0).parts[0].key, bytes(99))
    mark(run, 1)
    commit(run, entry(2, revision=1))
    mark(run, 2)  # repaired since
    assert to_repair(run) == {0: 1, 1: 1, 3: 1}
    rows = [{"split": "train", "unit": u, "repair": r} for u, r in ((0, 1), (1, 1), (3, 1), (4, 0))]
    assert missing_units(run) == {"teacher": rows}
    words = lacking(missing_units(run))
    assert "1 units of the training store are not captured yet" in words and "recomputed: 0, 1, 3" in words


def test_a_damaged_repair_is_repaired(run: RunFolder) -> None:
    commit(run, entry(1, revision=1))
    run.storage.delete(entry(1, revision=1).parts[0].key)
    assert to_repair(run) == {1: 2}


def test_a_unit_whose_entry_is_gone_is_new(run: RunFolder) -> None:
    mark(run, 1)
    run.storage.delete("targets/train/log/g0000/00000001.json")
    assert {"split": "train", "unit": 1, "repair": 0} in missing_units(run)["teacher"]


@pytest.mark.parametrize("seen", ["mark", "size"])
def test_repairs_come_to_an_end(seen: str, run: RunFolder) -> None:
    for revision in (1, 2, 3):
        commit(run, entry(1, revision=revision))
    assert to_repair(run) == {}
    if seen == "mark":
        mark(run, 1, 3)
    else:
        run.storage.delete(entry(1, revision=3).parts[0].key)
    with pytest.raises(RunFailed, match="unit 1 of the train store was recomputed 3 times") as caught:
        missing_units(run)
    assert run.uri in str(caught.value)


def test_of_what_students_report_only_what_is_damaged_still_is_captured(run: RunFolder) -> None:
    for unit in (0, 1, 2):
        mark(run, unit)
    commit(run, entry(1, revision=1))
    log(run).marks.withdraw(2, 0)
    rows = rows_of_marked(run, "train", {0, 1, 2})
    assert rows == [{"split": "train", "unit": 0, "repair": 1}]
    assert rows_of_marked(run, "train", {1}) == []


# Who had read it --------------------------------------------------------------------------------------------


def reached(run: RunFolder, student: str, **domains: tuple[int, int, int]) -> None:
    """A student's newest checkpoint: (epoch, units behind it, rows of the next) by domain."""
    cursor = Cursor({d: DomainPosition(*p) for d, p in domains.items()}).to_dict()
    run.storage.write(f"students/{student}/log/00000007.json", json.dumps({"cursor": cursor}).encode())


def test_students_that_had_read_other_contents_are_named(run: RunFolder) -> None:
    """Unit 2 is the second of the medical domain."""
    reached(run, "medical", medical=(0, 1, 0), legal=(2, 0, 0))
    reached(run, "medical.hard_labels", medical=(0, 1, 1), legal=(0, 0, 0))
    reached(run, "legal", legal=(3, 0, 0))
    commit(run, entry(2, revision=1, content_hash="other"))
    commit(run, entry(1, revision=1))
    found = {r["unit"]: r for r in repairs(run, clinic())}
    assert found[2] == {
        "split": "train",
        "unit": 2,
        "revision": 1,
        "changed": True,
        "readers": ["medical.hard_labels"],
    }
    assert found[1]["changed"] is False and found[1]["readers"] == []


def test_a_student_that_read_only_the_repair_is_not_named(run: RunFolder) -> None:
    commit(run, entry(2, revision=1, content_hash="other"))
    reached(run, "medical", medical=(1, 0, 0))
    key = "students/medical/log/00000007.json"
    pointer = json.loads(run.storage.read(key))
    assert [r["readers"] for r in repairs(run, clinic())] == [["medical"]]
    pointer["cursor"]["repaired"] = {"2": 1}
    run.storage.write(key, json.dumps(pointer).encode())
    assert [r["readers"] for r in repairs(run, clinic())] == [[]]


# stillhouse gc ----------------------------------------------------------------------------------------------


@pytest.fixture
def littered(project: Project) -> RunFolder:
    """A run with one committed unit, an old part of a killed writer, and a young one."""
    file = project.load()
    run = RunFolder.of(file.located())
    run.open(file)
    commit(run, entry(0))
    for name, days in (("old", 2), ("young", 0)):
        key = f"targets/train/parts/g0000/00000009-{name}.parquet"
        run.storage.write(key, bytes(1234))
        then = time.time() - days * 86400
        os.utime(Path(run.uri, key), (then, then))
    then = time.time() - 9 * 86400
    os.utime(Path(run.uri, entry(0).parts[0].key), (then, then))
    return run


def parts(run: RunFolder) -> list[str]:
    return [f.key.rsplit("-")[1] for f in run.storage.listing("targets/train/parts")]


def test_gc_lists_and_then_deletes(littered: RunFolder, stillhouse: Callable[..., Any]) -> None:
    said = stillhouse("gc", littered.uri)
    assert said.code == 0 and "00000009-old.parquet  1,234 bytes  named by no entry" in said.out
    assert "young" not in said.out and "1 files, 1,234 bytes can go; add --delete" in said.out
    assert parts(littered) == ["0.parquet", "old.parquet", "young.parquet"]
    assert "deleted 1 files, 1,234 bytes" in stillhouse("gc", littered.uri, "--delete").out
    assert parts(littered) == ["0.parquet", "young.parquet"]
    assert "nothing to delete" in stillhouse("gc", littered.uri).out
    stillhouse("gc", littered.uri, "--delete", "--older-than", "0s")
    assert parts(littered) == ["0.parquet"]


def test_gc_deletes_nothing_young_under_a_living_driver(littered: RunFolder, stillhouse: Callable[..., Any]) -> None:
    """What is old can go at any time; what is young may be about to be committed."""
    with Lease.take(littered.storage, "the run"):
        said = stillhouse("gc", littered.uri, "--delete", "--older-than", "30m")
        assert said.code == 2 and "is driven now (host " in said.error
        assert len(parts(littered)) == 3
        assert stillhouse("gc", littered.uri, "--older-than", "0s").code == 0
        assert stillhouse("gc", littered.uri, "--delete").code == 0
        assert parts(littered) == ["0.parquet", "young.parquet"]
    stillhouse("gc", littered.uri, "--delete", "--older-than", "0s")
    assert parts(littered) == ["0.parquet"]


def test_gc_speaks_to_programs(littered: RunFolder, stillhouse: Callable[..., Any]) -> None:
    found = json.loads(stillhouse("gc", "trial", "--json", "--older-than", "36h").out)
    assert (found["files"], found["bytes"], found["deleted"]) == (1, 1234, False)
    assert found["splits"] == {"train": {"files": 1, "bytes": 1234}}
    assert [g["key"] for g in found["garbage"]] == ["targets/train/parts/g0000/00000009-old.parquet"]


@pytest.mark.parametrize("age", ["1", "d", "1w", "-1d", "1d "])
def test_gc_refuses_what_is_no_age(age: str, littered: RunFolder, stillhouse: Callable[..., Any]) -> None:
    assert "not an age" in stillhouse("gc", littered.uri, f"--older-than={age}").error


def test_gc_of_no_run_is_refused(tmp_path: Path, stillhouse: Callable[..., Any]) -> None:
    assert "no run at" in stillhouse("gc", str(tmp_path / "nothing")).error
