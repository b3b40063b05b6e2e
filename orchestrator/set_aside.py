"""What was set aside and why, counted: rows of prompt sources, and answers by their domains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from cluster.storage import Storage
from workers.manifest import read_plan
from workers.splits import TRAIN
from workers.targets.log import Entry

_SHOWN = 8
"""Reasons of one domain that are told apart; a filter may give as many as there are answers."""


def answers_set_aside(storage: Storage, entries: Iterable[Entry]) -> dict[str, dict[str, int]]:
    """Training answers set aside, by domain and reason, most of them first. One of several domains counts in each."""
    found: dict[str, Counter[str]] = {}
    lacking = [entry for entry in entries if entry.set_aside]
    units = {u.index: u.domains for u in read_plan(storage, TRAIN).units} if lacking else {}
    for entry in lacking:
        for domain in units[entry.unit]:
            found.setdefault(domain, Counter()).update(item["reason"] for item in entry.set_aside)
    return {domain: dict(counts.most_common()) for domain, counts in sorted(found.items())}


def set_aside_lines(report: dict[str, Any]) -> list[str]:
    """What a report says of it, a line for each source and each domain."""
    rows = report["prompts"].get("reasons_by_source", {})
    lines = [f"rows of prompts.{source} set aside: {_counted(reasons)}" for source, reasons in rows.items()]
    answers = report["targets"].get("set_aside_by_domain", {})
    return lines + [f"answers of {domain} set aside: {_counted(reasons)}" for domain, reasons in answers.items()]


def _counted(reasons: dict[str, int]) -> str:
    most = sorted(reasons.items(), key=lambda item: -item[1])
    words = [f"{count:,} × {reason}" for reason, count in most[:_SHOWN]]
    if rest := most[_SHOWN:]:
        words.append(f"{sum(count for _, count in rest):,} × {len(rest):,} other reasons")
    return "; ".join(words)
