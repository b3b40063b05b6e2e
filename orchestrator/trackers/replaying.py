"""A run's log to a tracker after the fact, or to another one than the run told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.lease import living_holder
from orchestrator.config.loading import apply_settings, validate
from orchestrator.config.trackers import TrackerConfig, TrackersConfig, check_trackers
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from orchestrator.trackers.opening import open_tracker
from orchestrator.trackers.sending import Sending


@dataclass(frozen=True)
class Replayed:
    """What a replay did."""

    tracker: str
    group: str
    """The key of the run's group in the tracker."""
    sent: int
    """Points that were sent now."""
    before: int
    """Points that had been sent before."""


def replay(run: RunFolder, name: str, settings: Sequence[str]) -> Replayed:
    """Send a tracker what it has not been sent of a run; `settings` are as `--set` has them (trackers.mlflow.uri=...).

    Raises ValueError for a tracker that is not known, cannot be reached from here by its settings, or is told by the
    run itself, which is at work; RunFailed where the tracker's library raises an error.
    """
    config = run.config()
    if name not in TrackersConfig.model_fields or name == "prometheus":
        known = ", ".join(n for n in TrackersConfig.model_fields if n != "prometheus")
        why = ", which has the numbers of now alone" if name == "prometheus" else ""
        raise ValueError(f"--to {name}: a log cannot be sent there{why}; there are {known}")
    told, holder = getattr(config.trackers, name) is not None, living_holder(run.storage)
    if told and holder is not None:
        raise ValueError(f"--to {name}: the run is at work ({holder}) and tells {name} itself; wait until it ends")
    data = config.model_dump(mode="json")
    data["trackers"] = {name: data["trackers"].get(name, {})}
    apply_settings(data, settings)
    trackers = validate(data).trackers
    check_trackers(trackers, run.storage.uri)
    own = getattr(trackers, name)
    assert isinstance(own, TrackerConfig)
    sending = Sending(run.storage, config.name, name, own)
    before, behind = sending.sent, sending.behind()
    try:
        if behind:
            tracker = open_tracker(name, own, sending.group)
            for place in behind:
                sending.send(place, tracker)
            tracker.close()
    except Exception as error:  # whatever its library raises
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise RunFailed(f"{name}: {cause}; {sending.sent - before:,} points were sent before that") from error
    return Replayed(name, sending.group.key, sending.sent - before, before)
