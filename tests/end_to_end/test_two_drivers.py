"""Two drivers of one run, as two people type the same command: one is refused; one that is taken over stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from end_to_end.small_job import Job

from cluster.holder import Holder
from cluster.storage import open_storage
from workers.targets.store import TargetStore


@pytest.mark.long
def test_a_second_driver_is_refused_and_one_that_was_taken_over_commits_nothing_more(
    teacher: Path, tmp_path: Path
) -> None:
    job = Job(tmp_path / "twice", teacher)
    storage = open_storage(str(job.folder / "runs" / "job"))
    first = job.start_until("before-entry:2", 120, "capture")
    holder = Holder.from_bytes(storage.read("attempts/0001.json"))
    assert holder.pid == first.pid
    refused = job.run("capture", expect=2)
    assert f"run 'job' at {storage.uri} is driven by attempt 1 already: {holder}" in refused
    committed = TargetStore(storage, "train").log.committed()
    assert committed and not storage.exists("attempts/0002.json")

    taker = replace(Holder.this_process(), host="elsewhere")
    assert storage.create("attempts/0002.json", taker.to_bytes())
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 1
    assert f"failed: attempt 1 was taken over by attempt 2 ({taker})" in output
    assert TargetStore(storage, "train").log.committed() == committed
    assert not storage.exists("attempts/0001.end.json") and not storage.exists("report.json")
