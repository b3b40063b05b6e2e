"""What a target store holds, from its header, its plan and its log alone: no part is read."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console

from orchestrator.columns import print_columns, print_facts
from orchestrator.plan import size_text
from orchestrator.targets_source import OpenTargets, entries_of, per_token
from workers.targets.log import Entry
from workers.targets.schema import StoreHeader

_SHORT = 10
"""Digits of a fingerprint that a person compares."""


def describe(source: OpenTargets) -> dict[str, Any]:
    """Settings, teachers and amounts of a store as plain data; bytes and entries are per target token too."""
    header, entries = source.store.header, source.store.log.entries()
    planned = source.plan.units
    targets, kept, size = (sum(f) for f in _amounts(source, entries))
    domains = {}
    for domain in source.plan.domains:
        own = [e for e in entries if domain in source.domains_of(e.unit)]
        domains[domain] = {"planned": sum(domain in u.domains for u in planned), **_domain(source, own)}
    summary = source.run.read_json("prompts/summary.json") or {}
    return {
        **source.facts(),
        "header": vars(header),
        "units": {"planned": len(planned), "committed": len(entries), "missing": len(planned) - len(entries)},
        "rows": sum(e.rows for e in entries),
        "tokens": sum(e.tokens for e in entries),
        "targets": targets,
        "generated": sum(e.generated for e in entries),
        "entries": kept,
        "bytes": size,
        "entries_per_token": per_token(kept, targets),
        "bytes_per_token": per_token(size, targets),
        "texts_set_aside": dict(Counter(item["reason"] for e in entries for item in e.set_aside)),
        "prompts_set_aside": summary.get("reasons", {}),
        "domains": domains,
    }


def show_info(info: dict[str, Any], header: StoreHeader, out: Console) -> None:
    """Print what `describe` found."""
    units = info["units"]
    print_facts(out, {"run": info["run"], **_settings(header), **_held(info, header)})
    out.print()
    rows = [
        [
            domain,
            f"{d['units']:,} of {d['planned']:,}",
            f"{d['targets']:,}",
            f"{d['entries_per_token']:,.2f}",
            f"{d['bytes_per_token']:,.2f}",
        ]
        for domain, d in info["domains"].items()
    ]
    print_columns(out, ["domain", "units", "target tokens", "entries a token", "bytes a token"], rows, ["domain"])
    if sum(d["planned"] for d in info["domains"].values()) > units["planned"]:
        out.print("units of several domains count in each")
    if units["missing"]:
        out.print(
            f"{units['missing']:,} of {units['planned']:,} units are not taught yet; "
            "`stillhouse teach CONFIG` teaches them",
            markup=False,
        )


def _settings(header: StoreHeader) -> dict[str, str]:
    where = "at the answer" if header.positions == "answer" else "at all tokens"
    settings = {
        "targets": f"{_scheme(header)}, {where}; format {header.version}, seed {header.seed}",
        "vocabulary": f"{header.vocabulary:,} ids; tokenizer {header.tokenizer[:_SHORT]}, "
        f"chat template {header.chat_template[:_SHORT]}",
    }
    if header.answers:
        settings["answers"] = "; ".join(
            f"{k} {str(v)[:_SHORT] if k == 'filter_sha256' else v}" for k, v in header.answers.items()
        )
    for name, teacher in header.teachers.items():
        ranks = f" on {teacher['ep_size']} ranks ({teacher['dispatch']})" if teacher["ep_size"] > 1 else ""
        settings[name if name == "teacher" else f"teacher {name}"] = (
            f"{teacher['model']}{ranks}; dtype {teacher['dtype']}, fingerprint {teacher['fingerprint'][:_SHORT]}"
        )
    return settings


def _scheme(header: StoreHeader) -> str:
    if header.scheme == "full":
        kept = f"full, {header.precision}"
    elif header.scheme == "topk":
        kept = f"topk, {header.top_k} ids and their tail"
    else:
        kept = f"{header.scheme}, {header.draws} draws a position"
        kept += f" {header.redraws} times" if header.redraws > 1 else ""
    kept += f", always-kept ids {', '.join(map(str, header.always))}" if header.always else ""
    return kept + _temperatures(header)


def _temperatures(header: StoreHeader) -> str:
    others = {d: t for d, t in header.temperatures.items() if d != "*"}
    if not others and header.temperatures["*"] == 1:
        return ""
    rest = f"else {header.temperatures['*']:g}" if others else f"{header.temperatures['*']:g}"
    return f", at temperature {', '.join([*(f'{t:g} ({d})' for d, t in others.items()), rest])}"


def _held(info: dict[str, Any], header: StoreHeader) -> dict[str, str]:
    units = info["units"]
    held = {
        "units": f"{info['split']}: {units['committed']:,} of {units['planned']:,} taught",
        "texts": f"{info['rows']:,} with {info['tokens']:,} tokens: {info['targets']:,} targets, "
        f"{info['generated']:,} tokens generated",
        "stored": f"{size_text(info['bytes'])}: {info['bytes_per_token']:,} bytes and "
        f"{info['entries_per_token']:,} entries a target token",
    }
    for name, label in (("texts_set_aside", "texts set aside"), ("prompts_set_aside", "rows set aside")):
        if info[name]:
            held[label] = "; ".join(f"{n:,} × {reason}" for reason, n in info[name].items())
    return held


def _domain(source: OpenTargets, entries: list[Entry]) -> dict[str, Any]:
    targets, kept, size = (sum(f) for f in _amounts(source, entries))
    return {
        "units": len(entries),
        "targets": targets,
        "entries_per_token": per_token(kept, targets),
        "bytes_per_token": per_token(size, targets),
    }


def _amounts(source: OpenTargets, entries: list[Entry]) -> tuple[list[int], list[int], list[int]]:
    """Target tokens, kept entries and bytes of each unit."""
    return (
        [e.targets for e in entries],
        [entries_of(source, e) for e in entries],
        [e.size for e in entries],
    )
