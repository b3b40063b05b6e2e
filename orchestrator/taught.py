"""A look at what is taught so far: counts, and a few answers to read."""

from __future__ import annotations

from typing import Any

from orchestrator.run_folder import RunFolder
from workers.splits import TRAIN
from workers.targets.store import TargetStore


def summary_of_taught(run: RunFolder, answers: int) -> dict[str, Any]:
    """Units, target tokens and the first texts of the training store."""
    store = TargetStore(run.storage, TRAIN)
    entries = store.log.entries()
    shown: list[dict[str, Any]] = []
    for entry in entries:
        if len(shown) < answers:
            targets = store.read_unit(entry)
            shown += [{"prompt_id": p, "text": t} for p, t in zip(targets.prompt_ids, targets.texts, strict=True)]
    return {"units": len(entries), "tokens": sum(e.targets for e in entries), "answers": shown[:answers]}
