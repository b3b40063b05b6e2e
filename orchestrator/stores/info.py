"""What a target store holds, from its header, its plan and its log alone: no part is read."""

from __future__ import annotations

from collections import Counter
from typing import Any

from orchestrator.stores.opening import OpenTargets, kept_of, per_token
from workers.layout import PROMPTS_SUMMARY
from workers.targets.commits.sums import EntrySums


def describe(source: OpenTargets) -> dict[str, Any]:
    """Settings, teachers and amounts of a store as plain data; bytes and entries are per target token too."""
    planned, domains = source.plan.units, source.plan.domains
    whole, of_domain = EntrySums(), {domain: EntrySums() for domain in domains}
    for entry in source.store.log.each():
        whole.add(entry)
        for domain in source.domains_of(entry.unit):
            of_domain[domain].add(entry)
    units_of = Counter(domain for unit in planned for domain in unit.domains)
    summary = source.run.read_json(PROMPTS_SUMMARY) or {}
    return {
        **source.facts(),
        "header": vars(source.store.header),
        "units": {"planned": len(planned), "committed": whole.units, "missing": len(planned) - whole.units},
        "rows": whole.rows,
        "tokens": whole.tokens,
        "targets": whole.targets,
        "generated": whole.generated,
        "num_kept": kept_of(source, whole),
        "bytes": whole.bytes,
        **_per_token(source, whole),
        "texts_rejected": dict(whole.rejected),
        "prompts_rejected": summary.get("reasons", {}),
        "domains": {domain: {"planned": units_of[domain], **_domain(source, of_domain[domain])} for domain in domains},
    }


def _domain(source: OpenTargets, sums: EntrySums) -> dict[str, Any]:
    return {"units": sums.units, "targets": sums.targets, **_per_token(source, sums)}


def _per_token(source: OpenTargets, sums: EntrySums) -> dict[str, float]:
    return {
        "kept_per_token": per_token(kept_of(source, sums), sums.targets),
        "bytes_per_token": per_token(sums.bytes, sums.targets),
    }
