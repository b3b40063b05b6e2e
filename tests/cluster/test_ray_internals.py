"""Each of Ray's private names that the cluster room uses, against what it is used for: fails when Ray changes it."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import worker

from cluster.placement import free_groups_made_by, state_of
from cluster.ray_internals import free_resources, groups_made_by, node_table, quieten_deaths, walk_package


@pytest.fixture(scope="module")
def small_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_available_resources_per_node_counts_what_is_held(small_ray: None) -> None:
    (node,) = (n["NodeID"] for n in ray.nodes())
    assert free_resources()[node]["CPU"] == 2
    group = ray.util.placement_group([{"CPU": 1.5}])
    ray.get(group.ready())
    assert free_resources().keys() == {node} and free_resources()[node]["CPU"] == 0.5
    ray.util.remove_placement_group(group)


def test_the_table_of_nodes_tells_when_each_came(small_ray: None) -> None:
    (one,) = node_table(living=True, timeout_s=30) or ()
    assert one.is_head_node and one.node_id.hex() == ray.get_runtime_context().get_node_id()
    assert 0 <= time.time() - one.start_time_ms / 1000 < 600 and one.end_time_ms == 0
    assert dict(one.resources_total)["CPU"] == 2 and one.node_manager_address and "ray.io/node-id" in one.labels
    assert node_table(living=False, timeout_s=30) == []


def test_groups_of_an_actor_that_died_are_found_and_freed(small_ray: None) -> None:
    @ray.remote(num_cpus=0)
    class Maker:
        def make(self) -> tuple[str, Any]:
            return ray.get_runtime_context().get_actor_id(), ray.util.placement_group([{"CPU": 1}])

    makers = [Maker.remote() for _ in range(2)]
    (one, group), (other, kept) = ray.get([maker.make.remote() for maker in makers])
    assert groups_made_by(one) == [group.id.hex()] and groups_made_by(other) == [kept.id.hex()]
    ray.kill(makers[0])
    free_groups_made_by(one)
    assert state_of(group) == "REMOVED" and state_of(kept) != "REMOVED"
    ray.util.remove_placement_group(kept)


@ray.remote(num_cpus=0, max_restarts=0)
class Dies:
    """Ends as if it was killed."""

    def now(self) -> None:
        os._exit(1)


@pytest.mark.parametrize("quiet", [False, True])
def test_ray_prints_of_a_process_that_dies_unless_it_is_quietened(
    small_ray: None, quiet: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    if quiet:
        quieten_deaths()
        quieten_deaths()
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(Dies.remote().now.remote())
    said, deadline = "", time.monotonic() + (3 if quiet else 60)
    while "A worker died" not in said and time.monotonic() < deadline:
        time.sleep(0.1)
        said += "".join(capfd.readouterr())
    assert ("A worker died" in said) is not quiet


def test_the_walk_of_a_package_goes_by_both_ways_to_exclude(tmp_path: Path) -> None:
    for name in ("kept.py", "deep/kept.py", "data.bin", "ignored.log", ".venv/huge"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("*.log\n")

    def found(*, gitignore: bool) -> set[str]:
        paths: list[Path] = []
        walk_package(tmp_path, ["*.bin"], paths.append, gitignore=gitignore)
        return {p.relative_to(tmp_path).as_posix() for p in paths if p.is_file()}

    assert found(gitignore=True) == {"kept.py", "deep/kept.py", ".gitignore"}
    assert found(gitignore=False) == {"kept.py", "deep/kept.py", ".gitignore", "ignored.log"}


def test_the_parts_of_the_walk_take_what_they_are_given() -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    assert list(inspect.signature(_get_excludes).parameters) == ["path", "excludes"]
    assert list(inspect.signature(_dir_travel).parameters) == [
        "path", "excludes", "handler", "include_gitignore", "logger"
    ]  # fmt: skip
    assert ".venv" in get_runtime_env_default_excludes()
