"""What a target store holds, as a person reads it."""

from __future__ import annotations

import json
from typing import Any

from humanize import naturalsize
from rich.console import Console

from orchestrator.render.columns import print_columns, print_facts
from workers.targets.encoding.schema import StoreHeader

_SHORT = 10
"""Digits of a fingerprint that a person compares."""


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
            f"{d['kept_per_token']:,.2f}",
            f"{d['bytes_per_token']:,.2f}",
        ]
        for domain, d in info["domains"].items()
    ]
    print_columns(out, ["domain", "units", "target tokens", "kept ids a token", "bytes a token"], rows, ["domain"])
    if sum(d["planned"] for d in info["domains"].values()) > units["planned"]:
        out.print("units of several domains count in each")
    if units["missing"]:
        out.print(
            f"{units['missing']:,} of {units['planned']:,} units are not captured yet; "
            "`stillhouse capture CONFIG` captures them",
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
    chat = {
        f"{source} ({', '.join(way['domains'])})": json.dumps(way["chat_template_kwargs"])
        for source, ways in header.prompts.items()
        for way in ways
        if way["chat_template_kwargs"]
    }
    if chat:
        settings["chat template"] = "; ".join(f"{name} {own}" for name, own in chat.items())
    for name, teacher in header.teachers.items():
        ranks = f" on {teacher['ep_size']} ranks ({teacher['dispatch']})" if teacher["ep_size"] > 1 else ""
        settings[name if name == "teacher" else f"teacher {name}"] = (
            f"{teacher['model']}{ranks}; dtype {teacher['dtype']}, fingerprint {teacher['fingerprint'][:_SHORT]}"
        )
    return settings


def _scheme(header: StoreHeader) -> str:
    if header.scheme == "full":
        kept = f"full, {header.precision}"
    elif header.scheme == "hidden":
        kept = f"hidden states, {header.precision}, and the teacher's head"
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
        "units": f"{info['split']}: {units['committed']:,} of {units['planned']:,} captured",
        "texts": f"{info['rows']:,} with {info['tokens']:,} tokens: {info['targets']:,} targets, "
        f"{info['generated']:,} tokens generated",
        "stored": f"{naturalsize(info['bytes'])}: {info['bytes_per_token']:,} bytes and "
        f"{info['kept_per_token']:,} kept ids a target token",
    }
    for name, label in (("texts_rejected", "texts rejected"), ("prompts_rejected", "rows rejected")):
        if info[name]:
            held[label] = "; ".join(f"{n:,} × {reason}" for reason, n in info[name].items())
    return held
