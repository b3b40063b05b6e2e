"""The runs of a storage: of each a few small keys, whatever lies in it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from cluster.lease import Attempt, Timing, attempts
from cluster.storage import Storage, join, open_storage
from orchestrator.reporting.money.spent import Amount
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.identity import from_stored
from orchestrator.status.view import State, state_of
from workers.layout import CONFIG, REPORT_JSON, EventsLayout, StudentLayout

_AT_ONCE = 16
"""Runs that are looked at at the same time."""


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run, as a list shows it."""

    name: str
    """Of its folder, and which generation this is, if there are several."""
    state: State
    stage: str
    """Of its last attempt; empty where an earlier version did not note it."""
    attempt: int
    started: float | None
    last_sign: float | None
    """Last sign of life, by its driver's clock."""
    specialists: int
    done: int
    """Specialists whose training has ended."""
    failures: dict[str, str]
    """Of its last attempt."""
    cost: Amount | None
    """None where no attempt has noted it."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_runs(uri: str, timing: Timing = Timing()) -> list[ListedRun]:
    """The runs right below a storage, by name. Folders that are no runs are passed over.

    Raises ValueError if it is no storage, OSError if it cannot be read.
    """
    storage = open_storage(uri)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(lambda name: _newest(join(uri, name), name, timing), storage.folders(""))
        return [run for run in found if run is not None]


def _newest(uri: str, name: str, timing: Timing) -> ListedRun | None:
    """The last generation of a run; of one that has several, with its number behind the name."""
    run = RunFolder.newest(uri)
    return _listed(run.uri, f"{name}@{run.generation}" if run.generation > 1 else name, timing)


def _listed(uri: str, name: str, timing: Timing) -> ListedRun | None:
    """One folder; None if it is no run."""
    storage = open_storage(uri)
    [data] = storage.read_many([CONFIG])
    if data is None:
        return None
    try:
        specialists: list[str] | None = list(from_stored(yaml.safe_load(data)).specialists)
    except (ValueError, AttributeError, yaml.YAMLError):
        specialists = None
    taken = attempts(storage)
    if specialists is None and not taken:
        return None  # another program's file
    specialists = specialists or []  # of another version: what its driver left says enough
    last = taken[-1] if taken else None
    left = _summaries(storage, taken)
    ended = left[-1] if left and last is not None and left[-1]["attempt"] == last.number else {}
    trained = {done for one in left for done in one.get("done", ())}
    if left and "done" not in left[0]:  # an earlier version left no such list
        trained |= {s for s in specialists if storage.exists(StudentLayout(s).done)}
    failures = {n: why for n, why in ended.get("failures", {}).items() if n not in trained}
    return ListedRun(
        name=name,
        state=_state(storage, last, ended, failures, timing),
        stage=ended.get("stage", ""),
        attempt=last.number if last is not None else 0,
        started=taken[0].holder.since if taken else None,
        last_sign=None if last is None else last.ended or last.beat.time,
        specialists=len(specialists),
        done=sum(name in trained for name in specialists),
        failures=failures | ({"run": ended["cause"]} if ended.get("cause") else {}),
        cost=_cost(left),
    )


def _summaries(storage: Storage, taken: Sequence[Attempt]) -> list[dict[str, Any]]:
    """What attempts left of themselves, in order."""
    found = []
    for one, data in zip(taken, storage.read_many([EventsLayout(t.number).wall for t in taken]), strict=True):
        try:
            left = json.loads(data) if data is not None else None
        except ValueError:
            continue
        if isinstance(left, dict):
            found.append(left | {"attempt": one.number})
    return found


def _state(
    storage: Storage, last: Attempt | None, ended: dict[str, Any], failures: dict[str, str], timing: Timing
) -> State:
    """As RunView.state, from what the last attempt left."""
    if last is None:
        return "done" if storage.exists(REPORT_JSON) else "begun"
    return state_of(last.sign(time.time(), timing), ended.get("outcome"), failures, storage)


def _cost(left: Sequence[dict[str, Any]]) -> Amount | None:
    """Of all attempts that noted theirs."""
    noted = [Amount(**one["cost"]) for one in left if "cost" in one]
    return sum(noted[1:], noted[0]) if noted else None
