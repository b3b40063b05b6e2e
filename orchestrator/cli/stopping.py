"""`stillhouse stop`: a run's driver is asked to leave, from any machine that reaches the storage. No Ray."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Run
from orchestrator.cli.output import ERR, OUT

if TYPE_CHECKING:
    from cluster.lease import Attempt
    from orchestrator.runs.folder import RunFolder


def stop(
    where: Run,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Ask, and do not wait until it has ended.")] = False,
    at_once: Annotated[
        bool, typer.Option("--now", help="End it at once, as a second SIGTERM does: students write no checkpoint.")
    ] = False,
) -> None:
    """Ask a run's driver to leave in order, from any machine that reaches the storage, and wait until it has.

    It finds the request within five seconds, and leaves as by a SIGTERM: students write their checkpoints, what is
    committed stays, and the same command resumes. `ray job stop` sends SIGTERM too, but kills what has not ended after
    RAY_JOB_STOP_WAIT_TIME_S of the job's environment: 3 s, unless `stillhouse submit` sent it.

    Exit code 0: nothing works on the run any more (with --no-wait: it is asked); 1: it has not ended, or nobody knows.
    """
    from cluster.holder import local_time
    from cluster.lease import last_attempt
    from cluster.stopping import ask_to_stop
    from orchestrator.cli.watching import reading
    from orchestrator.runs.folder import find_run

    run = reading(lambda: find_run(where))
    attempt = reading(lambda: last_attempt(run.storage))
    if attempt is None:
        return OUT.print(f"nothing runs: no driver has begun {run.uri} yet", markup=False)
    who, sign = f"attempt {attempt.number} of {run.uri} ({attempt.holder})", attempt.sign(time())
    if sign in ("ended", "gone"):
        gone = "is gone without a word; the same command resumes"
        how = f"ended at {local_time(attempt.ended)}" if attempt.ended is not None else gone
        return OUT.print(f"nothing runs: {who} {how}", markup=False)
    request = reading(lambda: ask_to_stop(run.storage, attempt, now=at_once))
    OUT.print(f"{who} is asked to stop {request.how} (by {request})", markup=False)
    if sign == "silent":
        OUT.print(f"nothing was heard of it since {local_time(attempt.beat.time)} by its clock", markup=False)
    if no_wait:
        return OUT.print(f"To see it end: stillhouse status {run.uri}", markup=False)
    try:
        code = _wait(run, attempt, at_once)
    except KeyboardInterrupt:
        ERR.print("not waited for any more; the request stays", markup=False)
        code = 130
    raise typer.Exit(code)


def _wait(run: RunFolder, attempt: Attempt, at_once: bool) -> int:
    """Wait until an attempt is over, and say what came of it; returns the exit code."""
    from cluster.stopping import ENDING_S, wait_until_over

    patience = ENDING_S + (0 if at_once else run.config().cluster.leave_s)
    left = wait_until_over(run.storage, attempt, patience, lambda text: OUT.print(text, markup=False))
    who, by_hand = f"attempt {attempt.number}", f"`kill {attempt.holder.pid}` on {attempt.holder.host}"
    match left:
        case "ended":
            OUT.print(f"{who} {_outcome(run, attempt)}", markup=False)
        case "gone":
            OUT.print(f"{who} has died: its process is there no more; {_RESUME}", markup=False)
        case "taken over":
            ERR.print(f"{who} is over, and another driver works on the run now: type this again to stop that one")
        case "silent":
            ERR.print(
                f"{who} has been silent for a minute. If its machine is gone, so is its driver, and the same command "
                f"resumes; if it comes back, it finds the request. {by_hand} ends it there",
                markup=False,
            )
        case "alive":
            ERR.print(
                f"{who} has not ended after {patience:.0f} s, and is at work still (a driver of an earlier version "
                "looks for no request). Type this again to wait on, with --now to end it at once, or end it there: "
                f"{by_hand}",
                markup=False,
            )
    return 0 if left in ("ended", "gone") else 1


_RESUME = "what is committed stays, and the same command resumes (`stillhouse run CONFIG`)"


def _outcome(run: RunFolder, attempt: Attempt) -> str:
    """How an attempt ended, as it noted: it may have been about to end by itself."""
    from workers.layout import EventsLayout

    try:
        outcome = (run.read_json(EventsLayout(attempt.number).wall) or {}).get("outcome") or "stopped"
    except OSError:  # that it has ended is known
        outcome = "stopped"
    return "came to its end before it was asked: all is done" if outcome == "done" else f"{outcome}; {_RESUME}"
