"""Which answers were rejected and why, counted by their domains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from cluster.storage import Storage
from workers.manifest import read_plan
from workers.splits import TRAIN
from workers.targets.commits.log import Entry


def rejected_answers(storage: Storage, entries: Iterable[Entry]) -> dict[str, dict[str, int]]:
    """Training answers rejected, by domain and reason, most of them first. One of several domains counts in each."""
    found: dict[str, Counter[str]] = {}
    with_rejected = [entry for entry in entries if entry.rejected]
    units = {u.index: u.domains for u in read_plan(storage, TRAIN).units} if with_rejected else {}
    for entry in with_rejected:
        for domain in units[entry.unit]:
            found.setdefault(domain, Counter()).update(item["reason"] for item in entry.rejected)
    return {domain: dict(counts.most_common()) for domain, counts in sorted(found.items())}
