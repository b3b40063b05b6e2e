"""What a target store holds, from its header, its plan and its log alone: no part is read."""

from __future__ import annotations

from collections import Counter
from typing import Any

from orchestrator.stores.opening import OpenTargets, kept_of, per_token
from workers.layout import PROMPTS_SUMMARY
from workers.targets.commits.log import Entry


def describe(source: OpenTargets) -> dict[str, Any]:
    """Settings, teachers and amounts of a store as plain data; bytes and entries are per target token too."""
    header, entries = source.store.header, source.store.log.entries()
    planned = source.plan.units
    targets, kept, size = (sum(f) for f in _amounts(source, entries))
    domains = {}
    for domain in source.plan.domains:
        own = [e for e in entries if domain in source.domains_of(e.unit)]
        domains[domain] = {"planned": sum(domain in u.domains for u in planned), **_domain(source, own)}
    summary = source.run.read_json(PROMPTS_SUMMARY) or {}
    return {
        **source.facts(),
        "header": vars(header),
        "units": {"planned": len(planned), "committed": len(entries), "missing": len(planned) - len(entries)},
        "rows": sum(e.rows for e in entries),
        "tokens": sum(e.tokens for e in entries),
        "targets": targets,
        "generated": sum(e.generated for e in entries),
        "num_kept": kept,
        "bytes": size,
        "kept_per_token": per_token(kept, targets),
        "bytes_per_token": per_token(size, targets),
        "texts_rejected": dict(Counter(item["reason"] for e in entries for item in e.rejected)),
        "prompts_rejected": summary.get("reasons", {}),
        "domains": domains,
    }


def _domain(source: OpenTargets, entries: list[Entry]) -> dict[str, Any]:
    targets, kept, size = (sum(f) for f in _amounts(source, entries))
    return {
        "units": len(entries),
        "targets": targets,
        "kept_per_token": per_token(kept, targets),
        "bytes_per_token": per_token(size, targets),
    }


def _amounts(source: OpenTargets, entries: list[Entry]) -> tuple[list[int], list[int], list[int]]:
    """Target tokens, kept entries and bytes of each unit."""
    return (
        [e.targets for e in entries],
        [kept_of(source, e) for e in entries],
        [e.size for e in entries],
    )
