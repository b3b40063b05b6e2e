"""What a submission is made of, without a Ray head: attempt numbers, the files shipped, the log as it is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.submissions import IDENTITY

from cluster.jobs import job_log
from cluster.jobs import submit as module
from cluster.jobs.submit import choose_submission, shipped_files, submission_base


def test_attempts() -> None:
    base = submission_base("clinic", IDENTITY)
    assert base == "stillhouse-clinic-01234567"
    other = [("stillhouse-clinic-7654321a", False), (f"{base}-x", False), ("raysubmit_1", False)]
    assert choose_submission(base, other) == (base, False)
    assert choose_submission(base, [*other, (base, False)]) == (base, True)
    assert choose_submission(base, [*other, (base, True)]) == (f"{base}-2", False)
    assert choose_submission(base, [(base, True), (f"{base}-2", True)]) == (f"{base}-3", False)
    assert choose_submission(base, [(base, True), (f"{base}-2", False)]) == (f"{base}-2", True)
    assert choose_submission(base, [(f"{base}-10", True), (f"{base}-9", True)]) == (f"{base}-11", False)


def test_size_is_told_before_the_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE

    assert module.UPLOAD_LIMIT_BYTES == DASHBOARD_CLIENT_MAX_SIZE
    for name, size in {"data/a.bin": 3000, "data/b.bin": 2000, "ignored.log": 9999, "small.py": 10}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "huge").write_bytes(bytes(9999))

    expected = {Path("data/a.bin"): 3000, Path("small.py"): 10, Path(".gitignore"): 6}
    assert shipped_files(tmp_path, ["b.bin"]) == expected
    environment = module.resolve_runtime_env({"excludes": ["a.bin"]}, tmp_path, ["/small.py"])
    assert set(shipped_files(tmp_path, environment["excludes"])) == {Path("data/b.bin"), Path(".gitignore")}

    lines, seen = list[str](), list[Path]()
    module._check_upload(environment, seen.extend, lines.append)
    assert lines == [f"shipping {tmp_path}: 2 files, 0.0 MiB"]
    assert set(seen) == {Path("data/b.bin"), Path(".gitignore")}
    monkeypatch.setattr(module, "UPLOAD_LIMIT_BYTES", 2000)
    with pytest.raises(ValueError, match=r"0\.0 MiB \(largest: data .*\): exclude data and checkpoints"):
        module._check_upload(environment, seen.extend, lines.append)


def test_a_log_is_shown_once_in_whole_lines() -> None:
    lines: list[str] = []
    log = job_log.JobLog(lines.append)
    for chunk in ("one\ntw", "o\n", "thr"):
        log.feed(chunk)
    assert lines == ["one", "two"]
    log.restart()
    for chunk in ("one\n", "two\nthree\nfo"):
        log.feed(chunk)
    log.restart()
    log.feed("one\n")  # a connection that breaks early takes nothing back
    log.restart()
    log.feed("one\ntwo\nthree\nfour")
    assert lines == ["one", "two", "three"]
    log.close()
    assert lines[3:] == ["four"]
