"""How Ray Data is used by the stages: it says nothing of its own, and what waits for a place is told by us."""

from __future__ import annotations


def quieten() -> None:
    """No bars and no warnings of Ray Data in this process; it waits for no first actor, as who starts a pool looks
    after its places."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.issue_detectors_config.detectors = []
    context.wait_for_min_actors_s = -1


def restarted(times: int) -> dict[str, int]:
    """How often Ray starts a pool's process anew: Ray Data would start one that is too large for its node for ever."""
    return {"max_restarts": times, "max_task_retries": times}
