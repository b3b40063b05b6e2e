"""A working directory that is submitted as a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.jobs.submit import SubmitResult, submit

IDENTITY = "0123456789abcdef"


class Submission:
    """A working directory with one script, and the lines that submitting it printed."""

    def __init__(self, address: str, folder: Path, run_name: str) -> None:
        self.address, self.folder, self.run_name = address, folder, run_name
        self.lines: list[str] = []

    def script(self, text: str) -> None:
        (self.folder / "job.py").write_text(text)

    def __call__(self, **options: Any) -> SubmitResult:
        arguments: dict[str, Any] = {
            "address": self.address,
            "run_name": self.run_name,
            "working_dir": self.folder,
            "entrypoint": "python -u job.py",
            "identity": IDENTITY,
            "runtime_env": {},
            "excludes": [],
            "echo": self.lines.append,
        }
        return submit(**(arguments | options))
