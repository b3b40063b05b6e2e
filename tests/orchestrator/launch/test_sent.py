"""What `stillhouse submit` sends: the command, its environment, and what it says of how to end it."""

from __future__ import annotations

from typing import Any

import pytest
from support.project import Project

from cluster.jobs.submit import SubmitResult
from orchestrator.launch import submission


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would have gone to the cluster."""
    found: list[dict[str, Any]] = []

    def submit(**what: Any) -> SubmitResult:
        found.append(what)
        return SubmitResult("id", "SUCCEEDED", 0)

    monkeypatch.setattr(submission, "submit", submit)
    return found


def submitted(project: Project, **how: Any) -> None:
    submission.submit_run(project.write(), [], "http://head:8265", follow=False, say=lambda text: None, **how)


def test_a_job_may_take_as_long_to_leave_as_its_run(project: Project, sent: list[dict[str, Any]]) -> None:
    project.set("cluster.leave_s", 300)
    submitted(project)
    assert int(sent[0]["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 300
    project.set("cluster.runtime_env", {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "7", "FLAVOUR": "vanilla-pod"}})
    submitted(project)
    assert sent[1]["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "7"


def test_a_job_may_take_over_or_continue(project: Project, sent: list[dict[str, Any]]) -> None:
    submitted(project)
    submitted(project, flags=["--take-over", "--continue"])
    assert sent[1]["entrypoint"] == f"{sent[0]['entrypoint']} --take-over --continue"
    assert sent[1]["identity"] == sent[0]["identity"], "it is the same run, and attaches while it works"


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("s3://bucket/runs", "`stillhouse stop s3://bucket/runs/trial`"),
        ("/mnt/a", "`stillhouse stop /mnt/a/trial`"),
        ("runs", ""),
    ],
)
def test_who_reaches_the_storage_is_told_how_to_stop(
    project: Project, sent: list[dict[str, Any]], storage: str, said: str
) -> None:
    """A folder of the job's own is reached by nobody else."""
    project.set("storage", storage)
    submitted(project)
    assert sent[0]["how_to_stop"] == said
