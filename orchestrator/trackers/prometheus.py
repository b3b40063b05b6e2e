"""A run's numbers as gauges in the driver's process. Ray's agent on its node exports them for Prometheus, beside its
own. The dashboard that shows them is grafana_dashboard.json."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.monitors.base import Monitors
from orchestrator.trackers.metrics import METRICS
from orchestrator.trackers.points import Meter
from workers.channels.events import Event

LABELS = ("run", "teacher", "specialist")
"""Of every gauge; one that does not apply is empty."""


@cache
def gauges() -> dict[str, Any]:
    """All gauges by name, made once a process: Ray keeps the first of a name."""
    from ray.util.metrics import Gauge

    return {metric.gauge: Gauge(metric.gauge, metric.meaning, tag_keys=LABELS) for metric in METRICS}


class PrometheusMonitor:
    """Sets gauges as events come. Ray is connected before it starts."""

    def __init__(self, run: str, every_s: float) -> None:
        self._run, self._meter = run, Meter(every_s)

    def start(self) -> None:
        """Make the gauges."""
        gauges()

    def take(self, event: Event) -> None:
        """Set what an event tells."""
        for point in self._meter.take(event):
            labels = {"run": self._run, "teacher": point.teacher, "specialist": point.student}
            for metric, value in point.values.items():
                gauges()[metric.gauge].set(value, labels)

    def flush(self, *, force: bool = False) -> None:
        """Nothing to do: Ray's agent collects."""

    def stop(self) -> None:
        """Nothing to do: the gauges end with the process."""


@contextmanager
def watched_by_prometheus(config: RunConfig, watching: Monitors) -> Iterator[None]:
    """The gauges of a run for the length of a block, where it has them."""
    settings = config.trackers.prometheus
    if settings is None:
        yield
        return
    with watching.also(PrometheusMonitor(config.name, settings.every_s)):
        yield
