"""A look at what is captured so far: counts, and a few answers to read."""

from __future__ import annotations

from typing import Any

from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from workers.splits import TRAIN
from workers.targets.commits.damage import DamagedShard
from workers.targets.store import TargetStore


def summary_of_captured(run: RunFolder, answers: int) -> dict[str, Any]:
    """Units, target tokens and the first texts of the training store. Raises RunFailed if one of these is damaged."""
    store = TargetStore(run.storage, TRAIN)
    units = tokens = 0
    shown: list[dict[str, Any]] = []
    for entry in store.log.each():
        units, tokens = units + 1, tokens + entry.targets
        if len(shown) < answers:
            try:
                targets = store.read_or_mark(entry, "capture", "stillhouse train CONFIG")
            except DamagedShard as damage:
                raise RunFailed(str(damage)) from None
            shown += [{"prompt_uid": p, "text": t} for p, t in zip(targets.prompt_uids, targets.texts, strict=True)]
    return {"units": units, "tokens": tokens, "answers": shown[:answers]}
