"""What a submitted job would not find is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.small_configuration import put, small

from cluster.jobs.submit import DEFAULT_EXCLUDES, shipped_files
from orchestrator.config.loading import ConfigFile, validate
from orchestrator.launch.shipping import check_shipped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with prompts, beside other ones."""
    work = tmp_path / "work"
    inside = ("data/medical.jsonl", "big/medical.jsonl", "rows/a.csv", "f.py", "run.yaml")
    for name in ("beside.jsonl", *(f"work/{name}" for name in inside)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    (work / ".gitignore").write_text("/big\n")
    return work


def said_of(folder: Path, data: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    shipped = shipped_files(folder, DEFAULT_EXCLUDES)
    check_shipped(ConfigFile(validate(data), folder), folder, Path("run.yaml"), shipped, lines.append)
    return lines


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("name", "clinic"),
        ("prompts.medical", "./data"),
        ("prompts.medical", "rows/*.csv"),
        ("prompts.medical", "s3://bucket/medical.jsonl"),
        ("prompts.medical", "owner/dataset"),
        ("evaluate.truth", "f.py:truth"),
        ("answers.filter", "f.py:keep"),
    ],
)
def test_what_goes_along_or_is_elsewhere_is_not_mentioned(folder: Path, where: str, value: str) -> None:
    assert said_of(folder, put(where, value)) == []


@pytest.mark.parametrize(
    ("where", "value", "why"),
    [
        ("prompts.medical", "../beside.jsonl", "is not in"),
        ("prompts.medical", "big/medical.jsonl", "is left out"),
        ("prompts.medical", "none/*.jsonl", "is left out"),
        ("prompts.medical", "./missing.jsonl", "is left out"),
        ("teacher.model", "./runs/teacher", "is left out"),
        ("evaluate.truth", "g.py:truth", "is left out"),
        ("evaluate.probes", "../probes.jsonl", "is not in"),
    ],
)
def test_what_the_job_would_not_find_is_refused(folder: Path, where: str, value: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"^{where}: '{value.replace('*', '.')}' {why}.*s3://"):
        said_of(folder, put(where, value))


def test_every_fault_has_its_line(folder: Path) -> None:
    data = small(prompts={"medical": "../beside.jsonl", "legal": "big/medical.jsonl"})
    with pytest.raises(ValueError) as refused:
        said_of(folder, data)
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == [
        "prompts.medical",
        "prompts.legal",
    ]


def test_absolute_paths_are_of_the_nodes(folder: Path) -> None:
    (line,) = said_of(folder, put("prompts.medical", "/mnt/shared/medical.jsonl"))
    assert "prompts.medical" in line and "/mnt/shared/medical.jsonl" in line
    with pytest.raises(ValueError, match="give it relative"):
        said_of(folder, put("prompts.medical", str(folder / "data" / "medical.jsonl")))


def test_a_configuration_that_is_left_out_is_refused(folder: Path) -> None:
    (folder / ".gitignore").write_text("*.yaml\n")
    with pytest.raises(ValueError, match=r"^run\.yaml is left out"):
        said_of(folder, small(prompts={"medical": "s3://bucket/medical.jsonl"}))
