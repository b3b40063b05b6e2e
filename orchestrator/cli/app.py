"""The `stillhouse` command. Imports nothing heavy: a stage's own module is imported when its command runs.

Exit codes: 0 done, 1 a specialist (or the work itself) failed, 2 the request was wrong, 3 all is done and a specialist
does not pass `evaluate.gate`.
"""

from __future__ import annotations

import sys

import typer

from orchestrator.cli import before, exporting, jobs, looking, stages, stopping, watching
from orchestrator.cli.clusters import cluster
from orchestrator.cli.output import ERR
from orchestrator.cli.targets import targets
from orchestrator.runs.errors import RunFailed, Stopped

app = typer.Typer(
    name="stillhouse",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distil one mixture-of-experts teacher into several dense specialists, in one run, on a Ray cluster.",
)
for command in (
    *(before.init, before.validate, before.plan),
    *(stages.run, stages.capture, stages.train, stages.evaluate, stages.compare, exporting.export),
    *(watching.status, watching.runs, watching.logs, stopping.stop),
    *(looking.ask, looking.report, looking.track, looking.gc, jobs.submit, jobs.jobs),
):
    app.command()(command)
app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(stages.teach)
app.add_typer(targets, name="targets")
app.add_typer(cluster, name="cluster")


def main() -> None:
    """The entry point: one clear line for a wrong request, a traceback only for our own faults."""
    try:
        sys.exit(app(standalone_mode=False) or 0)  # the code of typer.Exit is returned, not raised
    except ValueError as error:
        for line in str(error).splitlines():
            ERR.print(f"error: {line}", markup=False)
        sys.exit(2)
    except RunFailed as error:
        ERR.print(f"failed: {error}", markup=False)
        ERR.print("What is committed stays; the same command resumes")
        sys.exit(1)
    except (KeyboardInterrupt, Stopped) as stop:
        by = f", as asked by {stop.by}" if isinstance(stop, Stopped) and stop.by else ""
        ERR.print(f"stopped{by}. What is committed stays; the same command resumes", markup=False)
        sys.exit(stop.exit_code if isinstance(stop, Stopped) else 130)
    except typer.Exit as exit_:
        sys.exit(exit_.exit_code)
    except Exception as error:
        if not _is_usage_error(error):
            raise
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)


def _is_usage_error(error: Exception) -> bool:
    return hasattr(error, "show") and hasattr(error, "exit_code")


if __name__ == "__main__":
    main()
