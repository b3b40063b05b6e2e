"""Nodes come with a run's demand and leave when it has none: Ray's autoscaler, with nodes that are raylets here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from end_to_end.small_job import CHECKOUT, Job

from cluster.storage import open_storage
from orchestrator.runs.events import read_events
from workers.channels.events import NodeJoined, NodeLeft, PlaceEnded, PlaceWanted, StudentStep, UnitCommitted

pytestmark = pytest.mark.long

PROGRAM = CHECKOUT / "tests" / "support" / "programs" / "scaled_run.py"
ROLE = "stillhouse-role"
TEACHERS = STUDENTS = 2
NODES = {
    "teacher": {"resources": {"CPU": 1}, "labels": {ROLE: "teacher"}, "max": TEACHERS + 1},
    "student": {"resources": {"CPU": 1}, "labels": {ROLE: "student"}, "max": STUDENTS + 1},
    "cpu": {"resources": {"CPU": 1}, "labels": {ROLE: "cpu"}, "max": 1},
}
"""As in examples/cluster, with a head that computes nothing, and small; of each one more than the run needs."""

IDLE_S = 5


def own_namespaces() -> list[str]:
    """How a command is run that sees no other process and no other network; skips where that is not allowed."""
    tried = []
    for ways in ("-pfn", "-Urpfn"):
        command = ["unshare", ways, "--mount-proc"]
        try:
            done = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=30)
        except FileNotFoundError:
            pytest.skip("there is no `unshare` here: such a cluster would end every other Ray of the machine")
        if done.returncode == 0:
            return command
        tried.append(done.stderr.strip())
    pytest.skip(f"no namespaces of its own for a cluster that would end every other Ray: {'; '.join(tried)}")


@dataclass
class Scaled:
    """A run on such a cluster, and what was seen of it."""

    events: list[Any]
    looks: list[tuple[float, dict[str, int]]]
    """Nodes by type, as the autoscaler told."""
    report: dict[str, Any]

    def of(self, kind: type, **fields: Any) -> list[Any]:
        """Events of a kind, in order of time."""
        found = [e for e in self.events if isinstance(e, kind) and all(getattr(e, k) == v for k, v in fields.items())]
        return sorted(found, key=lambda event: event.time)

    def joined(self, role: str) -> list[NodeJoined]:
        return self.of(NodeJoined, role=role)

    def left(self, role: str) -> list[NodeLeft]:
        ids = {event.node for event in self.joined(role)}
        return [event for event in self.of(NodeLeft) if event.node in ids]


@pytest.fixture(scope="module")
def scaled(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Scaled:
    namespaces, folder = own_namespaces(), tmp_path_factory.mktemp("scaled")
    job = Job(folder, teacher)
    job.config["teacher"] |= {
        "ep_size": 1, "cpus_per_rank": 1, "replicas": TEACHERS, "label_selector": {ROLE: "teacher"},
    }  # fmt: skip
    job.config["defaults"]["train"] |= {"tokens": 120_000, "cpus_per_worker": 1, "label_selector": {ROLE: "student"}}
    job.config["evaluate"] |= {"baselines": []}
    del job.config["evaluate"]["control_tokens"]
    job.config |= {"export": [], "cluster": {"address": "auto"}}
    (folder / "job.yaml").write_text(json.dumps(job.config))
    (folder / "cluster.json").write_text(json.dumps({"nodes": NODES, "idle_s": IDLE_S}))
    command = [*namespaces, sys.executable, str(PROGRAM), str(folder / "cluster.json"), str(folder / "seen.json")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*command, *job.command("run")],
        cwd=CHECKOUT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads((folder / "seen.json").read_text())
    assert seen["code"] == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = open_storage(str(folder / "runs" / "job"))
    looks = [(at, types) for at, types in seen["looks"]]
    return Scaled(list(read_events(run)), looks, json.loads(run.read("report.json")))


def test_pending_groups_bring_up_nodes_of_their_role(scaled: Scaled) -> None:
    for role, part in (("teacher", "teacher"), ("student", "student")):
        wanted = [event for event in scaled.of(PlaceWanted) if getattr(event, part)]
        joined, found = scaled.joined(role), [e for e in scaled.of(PlaceEnded, found=True) if getattr(e, part)]
        places = {event.place for event in wanted}
        assert len(joined) == len(places) == 2 and places == {event.place for event in found}
        assert {tuple(event.labels.items()) for event in wanted} == {((ROLE, role),)}
        first = min(event.joined for event in joined)
        print(f"\n{role}: {first - wanted[0].time:.1f} s from demand to its first node", end="")
        print(f", {found[-1].time - wanted[0].time:.1f} s until all had places", end="")
        assert wanted[0].time < first < found[0].time


def test_teacher_nodes_leave_while_students_go_on(scaled: Scaled) -> None:
    captured = max(event.finished for event in scaled.of(UnitCommitted))
    gone = [event.left for event in scaled.left("teacher")]
    steps = [event.time for event in scaled.of(StudentStep)]
    assert len(gone) == TEACHERS and captured < max(gone)
    print(f"\nteacher nodes left {max(gone) - captured:.1f} s after the last unit (idle timeout {IDLE_S} s)", end="")
    assert max(gone) < max(steps), "students had ended before: train them for more tokens"
    assert not [node for node in scaled.left("student") if node.left < captured]


def test_the_autoscaler_saw_the_same_and_all_nodes_leave_at_the_end(scaled: Scaled) -> None:
    most = {name: max(types.get(name, 0) for _, types in scaled.looks) for name in NODES}
    assert (most["teacher"], most["student"]) == (TEACHERS, STUDENTS)
    gone = max(event.left for event in scaled.left("teacher"))
    steps = [event.time for event in scaled.of(StudentStep)]
    after = [types for at, types in scaled.looks if gone + 2 < at < max(steps)]
    assert after and all("teacher" not in types and types["student"] for types in after)
    assert scaled.looks[-1][1] == {}, "nothing but the head stays"


def test_the_report_has_what_was_saved_of_a_fixed_cluster(scaled: Scaled) -> None:
    nodes = scaled.report["nodes"]
    assert {name: nodes["roles"][name]["most"] for name in ("teacher", "student")} == {"teacher": 2, "student": 2}
    assert nodes["roles"]["head"]["node_s"] == pytest.approx(nodes["seconds"], rel=0.01)
    saved = 1 - nodes["node_s"] / nodes["fixed_node_s"]
    print(f"\n{nodes['node_s']:.0f} node-seconds, {nodes['fixed_node_s']:.0f} of a fixed cluster: {saved:.0%} less")
    assert nodes["node_s"] < nodes["fixed_node_s"] and nodes["wanted"]["teachers"]["places"] >= TEACHERS
