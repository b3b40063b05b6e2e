"""Commands that watch runs from any machine that reaches their storage: no Ray, no model library."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep, time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from orchestrator.cli.options import Json, Run
from orchestrator.cli.output import ERR, OUT, print_json

if TYPE_CHECKING:
    from orchestrator.status.view import RunView

_EVERY_S = 5.0
_FOLLOW_S = 2.0


def status(
    where: Run,
    seconds: Annotated[
        float | None, typer.Argument(metavar="[SECONDS]", min=0.5, help="With --watch: between two looks; else 5.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until the run ends.")] = False,
    as_json: Json = False,
) -> None:
    """How a run stands, while it works or after: stage, rates, waiting, failures, cost so far, when it will be done.

    Exit code 0: it is at work or done; 1: it failed, or its driver is gone and it is not done.
    """
    from orchestrator.status.drawing import print_status

    if seconds is not None and not watch:
        raise ValueError(f"SECONDS: {seconds:g} says how often to look with --watch; add that, or leave it out")
    view = _view(where)
    reading(view.refresh)
    reading(view.make_sure)
    shown = Console(highlight=False)
    if as_json:
        print_json(view.to_dict(time()))
    elif not (watch and shown.is_terminal):
        print_status(view, shown)
    if watch:
        _watch(view, seconds or _EVERY_S, shown, as_json)
    raise typer.Exit(view.exit_code(time()))


def _watch(view: RunView, every_s: float, shown: Console, as_json: bool) -> None:
    """Until the run ends, or the person at the keyboard has seen enough."""
    from rich.live import Live

    from orchestrator.status.drawing import Drawn, print_status

    def looks(show: Callable[[], Any]) -> None:
        def look() -> None:
            view.refresh()
            show()

        _while_it_runs(view, every_s, look)

    try:
        if as_json:
            looks(lambda: print_json(view.to_dict(time())))
        elif shown.is_terminal:
            with Live(console=shown, get_renderable=lambda: Drawn(view), auto_refresh=False) as live:
                live.refresh()
                looks(live.refresh)
        else:
            looks(lambda: print_status(view, shown))
    except KeyboardInterrupt:
        pass


def _while_it_runs(view: RunView, every_s: float, look: Callable[[], Any]) -> None:
    """Look again and again. While a storage is out of reach nothing is concluded of the run."""
    reached = True
    while not reached or view.state(time()) == "running":
        sleep(every_s)
        try:
            look()
        except OSError as error:
            reached = False
            ERR.print(f"the storage is not reached, and tried again: {error}", markup=False)
        else:
            reached = True


def runs(
    storage: Annotated[
        str, typer.Argument(metavar="[STORAGE]", help="The folder or s3:// prefix that runs lie in.")
    ] = "runs",
    as_json: Json = False,
) -> None:
    """The runs of a storage: how each stands, when it was last heard of, what is done and failed, what it cost."""
    from orchestrator.status.listing import list_runs
    from orchestrator.status.table import print_runs

    found = reading(lambda: list_runs(storage))
    if as_json:
        print_json({"storage": storage, "runs": [run.to_dict() for run in found]})
    elif found:
        print_runs(found, Console(highlight=False))
    else:
        OUT.print(f"no run lies right below {storage!r}; name the `storage` of a configuration", markup=False)


def logs(
    where: Run,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="A teacher, a specialist (with its controls), or driver.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes, until the run ends.")] = False,
) -> None:
    """What a run said, in words with their times: of all attempts, of all parts or of one."""
    from orchestrator.status.messages import Words

    view = _view(where)
    words = Words(_known(view, name))

    def told(event: Any) -> None:
        for line in words.lines(event):
            OUT.print(line, markup=False)

    reading(lambda: view.refresh(told))
    try:
        if follow:
            _while_it_runs(view, _FOLLOW_S, lambda: view.refresh(told))
    except KeyboardInterrupt:
        pass


def _known(view: RunView, name: str) -> str:
    """A name that lines can be about. Raises ValueError."""
    from orchestrator.config.students import student_groups
    from orchestrator.status.messages import DRIVER

    students = [student.name for group in student_groups(view.config) for student in group]
    known = [DRIVER, *view.config.teachers, *students]
    if name and name not in known:
        raise ValueError(f"NAME: {name!r} is no part of run {view.config.name!r}; there are {', '.join(known)}")
    return name


def _view(where: str) -> RunView:
    from orchestrator.runs.folder import find_run
    from orchestrator.status.view import RunView

    def skipped(why: str) -> None:
        ERR.print(f"not read: {why}", markup=False)

    return reading(lambda: RunView(find_run(where), skipped=skipped))


def reading(look: Callable[[], Any]) -> Any:
    """What a look at a storage finds. Raises ValueError, in one line, where it cannot be read."""
    try:
        return look()
    except OSError as error:
        raise ValueError(f"storage: cannot be read: {error}; check its name and your credentials") from None
