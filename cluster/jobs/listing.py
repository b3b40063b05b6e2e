"""The jobs of a Ray cluster that were sent there by `submit`."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cluster.jobs.client import asked_for_token, connect, no_dashboard

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails


@dataclass(frozen=True, kw_only=True)
class ListedJob:
    """A job, as a list shows it. Its environment is left out: it may hold secrets."""

    id: str
    """Its submission id."""
    run: str
    identity: str
    """Of the run's configuration: a hash."""
    status: str
    """Ray's: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    command: str
    started: float | None
    """When it was sent, in seconds since 1970 by the head's clock; so is `ended`."""
    ended: float | None
    message: str
    """What Ray says of its status, in one line."""

    def seconds(self, now: float) -> float | None:
        """From its start to its end, or until now."""
        if self.started is None or (self.ended is None and self.status not in ("PENDING", "RUNNING")):
            return None
        return max((self.ended or now) - self.started, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self) | {"seconds": self.seconds(time.time())}


def list_jobs(address: str) -> list[ListedJob]:
    """The jobs that `submit` sent to the cluster whose dashboard is at an address, newest first; others are left out.

    One request, of all jobs that Ray remembers. Raises ValueError where no dashboard answers, or it wants a token.
    """
    with asked_for_token(address):
        client = connect(address)
        try:
            found = client.list_jobs()
        except (OSError, RuntimeError, TypeError, ValueError) as error:  # no answer, or one that is no list of jobs
            raise no_dashboard(address, error) from None
    return sorted(filter(None, map(_listed, found)), key=lambda job: job.started or 0.0, reverse=True)


def _listed(job: JobDetails) -> ListedJob | None:
    """None for a job of others: `submit` names its own, and notes run and identity."""
    said = job.metadata or {}
    if job.submission_id is None or not {"run", "identity"} <= said.keys():
        return None
    if not job.submission_id.startswith(f"stillhouse-{said['run']}-"):
        return None
    return ListedJob(
        id=job.submission_id,
        run=said["run"],
        identity=said["identity"],
        status=str(job.status),
        command=job.entrypoint,
        started=_seconds(job.start_time),
        ended=_seconds(job.end_time),
        message=(job.message or "").partition("\n")[0],
    )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
