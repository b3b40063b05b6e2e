"""What Prometheus finds of a run, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.resources import files

import pytest
from support.toys.tracked_run import whole_run

from orchestrator.trackers import prometheus
from orchestrator.trackers.metrics import METRICS, RAY_PREFIX
from orchestrator.trackers.prometheus import LABELS, PrometheusMonitor

DASHBOARD = json.loads(files("orchestrator.trackers").joinpath("grafana_dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_dashboard_asks_for_what_is_registered_and_for_all_of_it() -> None:
    asked = [name for query in QUERIES for name in re.findall(r"\w*stillhouse\w+", query)]
    assert sorted(asked) == sorted(RAY_PREFIX + metric.gauge for metric in METRICS)


def test_the_dashboard_tells_runs_teachers_and_specialists_apart_by_their_labels() -> None:
    legends = {label for p in DASHBOARD["panels"] for t in p["targets"] for label in re.findall(r"{{(\w+)}}", str(t))}
    selected = {label for query in QUERIES for label in re.findall(r"(\w+)=~", query)}
    assert legends == set(LABELS) and selected == {"run"}


def test_panels_have_places_and_words_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    places = {(p["gridPos"]["x"] + i, p["gridPos"]["y"] + j) for p in panels for i in range(8) for j in range(8)}
    assert len(places) == 64 * len(panels) and len({p["id"] for p in panels}) == len(panels)
    assert all(p["title"] and p["description"] for p in panels)


def test_gauges_are_set_with_all_labels_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gauge:
        def __init__(self) -> None:
            self.values: dict[tuple[str, ...], float] = {}

        def set(self, value: float, labels: dict[str, str]) -> None:
            assert tuple(labels) == LABELS and all(isinstance(label, str) for label in labels.values())
            self.values[tuple(labels.values())] = value

    made = {metric.gauge: Gauge() for metric in METRICS}
    monkeypatch.setattr(prometheus, "gauges", lambda: made)
    monitor = PrometheusMonitor("clinic", 0.0)
    for attempt in whole_run():
        for event in attempt:
            monitor.take(event)
    assert made["stillhouse_student_tokens"].values == {("clinic", "", "medical"): 80, ("clinic", "", "legal"): 50}
    assert made["stillhouse_teacher_units"].values == {("clinic", "teacher", ""): 3}
    assert made["stillhouse_teacher_replicas"].values == {("clinic", "teacher", ""): 0}
    assert made["stillhouse_heldout_kl"].values[("clinic", "", "legal")] == 0.5


SCRAPE = """
import time, urllib.request
import ray
from support.toys.tracked_run import whole_run
from orchestrator.config.schema import RunConfig
from orchestrator.monitors.base import Monitors
from orchestrator.trackers.prometheus import watched_by_prometheus
from support.small_configuration import clinic

ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
node = ray.nodes()[0]
with Monitors([]) as watching, watched_by_prometheus(clinic(trackers=["prometheus"]), watching):
    for event in whole_run()[0]:
        watching.take(event)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            where = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            text = urllib.request.urlopen(where, timeout=5).read().decode()
        except OSError:
            text = ""
        lines = [line for line in text.splitlines() if line.startswith("ray_stillhouse_")]
        if any("student_tokens" in line for line in lines) and any("teacher_units" in line for line in lines):
            print(*lines, sep="\\n")
            break
        time.sleep(0.5)
"""


@pytest.mark.long
def test_rays_agent_exports_them() -> None:
    """A Ray of its own, without dashboard; about 25 s, most of it Ray's start and the agent's."""
    done = subprocess.run([sys.executable, "-c", SCRAPE], capture_output=True, text=True, timeout=200)
    found = {line.split("{")[0]: line for line in done.stdout.splitlines() if 'specialist="medical"' in line}
    assert found["ray_stillhouse_student_tokens"].endswith(" 60.0"), done.stderr[-2000:]
    assert (
        'run="clinic"' in found["ray_stillhouse_student_loss"] and 'teacher=""' in found["ray_stillhouse_student_loss"]
    )
    [units] = [line for line in done.stdout.splitlines() if line.startswith("ray_stillhouse_teacher_units{")]
    assert 'teacher="teacher"' in units and units.endswith(" 3.0")
