"""Gangs' places on a real Ray: waiting, giving up, and the place of an actor that was restarted."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import ray

from cluster.placement import free_group, free_group_of, group_name, place_group, state_of
from cluster.resources import group_request


@pytest.fixture(scope="module", autouse=True)
def small_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def place(cpus: float, ranks: int = 1, *, deadline_s: float = 30, patience: str = "deadline", **labels: str) -> object:
    return place_group(
        group_request(ranks, cpus, 0, "PACK", labels),
        what="teacher t",
        deadline_s=deadline_s,
        patience=lambda: patience,  # type: ignore[arg-type,return-value]
        say=lambda text: None,
    )


def test_a_place_is_taken_and_freed() -> None:
    group = place(1, ranks=2)
    with pytest.raises(TimeoutError, match="it is in use"):
        place(1, deadline_s=1)
    free_group(group)
    assert state_of(group) == "REMOVED"
    free_group(place(2))


@pytest.mark.parametrize(
    ("cpus", "labels", "reason"),
    [
        (3, {}, "one process wants 3 CPU, the largest node has 2"),
        (1, {"role": "teacher"}, "no node has the label role=teacher"),
    ],
)
def test_at_the_deadline_it_says_what_it_wants_and_what_there_is(
    cpus: float, labels: dict[str, str], reason: str
) -> None:
    with pytest.raises(TimeoutError) as caught:
        place(cpus, deadline_s=1, **labels)
    message = str(caught.value)
    assert message.startswith(f"teacher t wants 1 x {cpus} CPU (PACK)") and reason in message
    assert "2 of 2 CPU free" in message


@pytest.mark.parametrize("patience", ["forever", "others"])
def test_who_may_wait_waits_beyond_the_deadline_and_takes_the_place_when_it_is_free(patience: str) -> None:
    first = place(2)
    threading.Timer(2, free_group, (first,)).start()
    second = place(2, deadline_s=0.2, patience=patience)
    assert second is not None and state_of(first) == "REMOVED"
    free_group(second)


def test_waiting_for_others_is_in_vain_if_it_would_not_fit_without_them() -> None:
    with pytest.raises(TimeoutError, match="largest node has 2"):
        place(3, deadline_s=0.5, patience="others")


@ray.remote(num_cpus=0, max_restarts=1, max_task_retries=1)
class Holder:
    """Takes a place, as a leader does."""

    def __init__(self, cpus: float) -> None:
        self._group = place(cpus, patience="forever")

    def group(self) -> tuple[str, str | None, int]:
        me = ray.get_runtime_context().get_actor_id()
        return me, self._group and self._group.id.hex(), os.getpid()  # type: ignore[attr-defined]


def test_a_restarted_actor_has_the_place_that_it_had() -> None:
    holder = Holder.remote(2)  # type: ignore[attr-defined]
    actor, group, pid = ray.get(holder.group.remote())
    os.kill(pid, 9)
    assert ray.get(holder.group.remote())[:2] == (actor, group)
    free_group_of(actor)
    free_group(place(2))


def test_who_waits_gives_up_when_its_group_is_removed() -> None:
    first = place(2)
    holder = Holder.remote(2)  # type: ignore[attr-defined]
    call = holder.group.remote()
    while not (waiting := [g for g in _groups() if g["state"] == "PENDING"]):
        time.sleep(0.05)
    free_group_of(waiting[0]["name"].removeprefix(group_name("")))
    assert ray.get(call)[1] is None
    free_group(first)
    free_group_of("nobody")


def _groups() -> list[dict[str, str]]:
    return list(ray.util.placement_group_table().values())
