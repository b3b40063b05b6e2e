"""Following the log of a Ray job to its end, over any number of broken connections, each line once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

Echo = Callable[[str], None]  # takes one line of text, without its end

QUIET_S = 120.0  # a log this silent may be a connection that died without a sign: open it again
RETRY_S = 3.0  # between two tries to reach a log again
LOST_LIMIT_S = 600.0  # a cluster out of reach for this long: stop following; the job does not depend on us


class JobLog:
    """Shows each character of a log once, in whole lines; the server starts over on every connection."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._position = 0  # characters received over this connection
        self.shown = 0  # characters taken over all connections
        self._rest = ""  # a line whose end has not come yet

    def restart(self) -> None:
        self._position = 0

    def feed(self, chunk: str) -> None:
        fresh = chunk[max(0, self.shown - self._position) :]
        self._position += len(chunk)
        self.shown = max(self.shown, self._position)
        *lines, self._rest = (self._rest + fresh).split("\n")
        for line in lines:
            self._echo(line)

    def close(self) -> None:
        if self._rest:
            self._echo(self._rest)


async def _tail(client: JobSubmissionClient, submission_id: str, log: JobLog) -> None:
    """Show the log until the server ends the stream, or says nothing for QUIET_S seconds."""
    log.restart()
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(QUIET_S) as limit, aclosing(client.tail_job_logs(submission_id)) as stream:
            async for chunk in stream:
                log.feed(chunk)
                limit.reschedule(loop.time() + QUIET_S)
    except TimeoutError:
        pass  # the job's status, asked next, tells a quiet job from a dead connection


def follow_log(
    client: JobSubmissionClient, address: str, submission_id: str, log: JobLog, echo: Echo
) -> JobDetails | None:
    """Follow until the job ends, over any number of connections. None: out of reach for LOST_LIMIT_S."""
    import aiohttp

    lost_at: float | None = None
    while True:
        broken = False
        if lost_at is None:
            try:
                asyncio.run(_tail(client, submission_id, log))
            except (RuntimeError, OSError, aiohttp.ClientError):  # what a broken websocket raises
                broken = True
        try:
            job = client.get_job_info(submission_id)
            # The whole log by plain HTTP: fills the gap of a broken stream, or of a proxy without websockets.
            log.restart()
            log.feed(client.get_job_logs(submission_id))
        except (RuntimeError, OSError) as error:
            if "status code 404" in str(error):
                raise ValueError(f"{address} no longer knows job {submission_id}: submit it again") from None
            if lost_at is None:
                lost_at = time.monotonic()
                echo(f"connection to {address} lost ({first_line(error)}); trying for {LOST_LIMIT_S:.0f} s")
            elif time.monotonic() - lost_at > LOST_LIMIT_S:
                return None
            broken = True
        else:
            if job.status.is_terminal():
                log.close()
                return job
            if lost_at is not None:
                echo(f"connected to {address} again")
                lost_at = None
        if broken:
            time.sleep(RETRY_S)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
