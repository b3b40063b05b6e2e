"""Which stored text is meant: by unit, by prompt and sample, or the first that there is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from orchestrator.stores.opening import OpenTargets
from workers.manifest import Manifest, is_frozen
from workers.splits import SPLITS
from workers.targets.commits.log import Entry
from workers.targets.encoding.arrays import UnitTargets


@dataclass(frozen=True)
class StoredText:
    """One text with its targets."""

    entry: Entry
    targets: UnitTargets
    """Of one row."""


def choose_text(source: OpenTargets, unit: int | None, prompt: str | None, sample: int | None) -> StoredText:
    """The first text that the words fit. Raises ValueError, saying what there is, if none does."""
    if unit is not None and prompt is not None:
        raise ValueError("--unit and --prompt: give one of the two")
    if prompt is not None:
        unit = _unit_of(source, prompt)
    if unit is None:
        return _first_text(source, sample)
    entry = _entry(source, unit, f"--unit {unit}" if prompt is None else f"--prompt {prompt}: its unit {unit}")
    return StoredText(entry, _row(source.store.read_unit(entry), entry, prompt, sample))


def _first_text(source: OpenTargets, sample: int | None) -> StoredText:
    for entry in source.store.log.each():
        if entry.rows:
            return StoredText(entry, _row(source.store.read_unit(entry), entry, None, sample))
    raise ValueError(
        f"targets: no {source.store.split} text of the run at {source.run.uri} is captured yet; "
        "`stillhouse capture CONFIG` captures them"
    )


def _unit_of(source: OpenTargets, prompt: str) -> int:
    storage, split = source.run.storage, source.store.split
    manifest = Manifest(storage, split)
    unit = manifest.unit_of(prompt)
    if unit is not None:
        return unit
    others = [s for s in SPLITS if s != split and is_frozen(storage, s)]
    elsewhere = [s for s in others if Manifest(storage, s).unit_of(prompt) is not None]
    if elsewhere:
        raise ValueError(f"--prompt {prompt}: is a {elsewhere[0]} prompt; add --split {elsewhere[0]}")
    ids = list(manifest.ids())
    near = get_close_matches(prompt, ids, 3) or ids[:3]
    raise ValueError(
        f"--prompt {prompt}: none of the {len(ids):,} {split} prompts has this id; there are "
        f"{', '.join(near)}{', ...' if len(near) < len(ids) else ''}"
    )


def _entry(source: OpenTargets, unit: int, asked: str) -> Entry:
    planned = len(source.plan.units)
    if unit >= planned:
        raise ValueError(f"{asked}: the {source.store.split} plan has the units 0 ... {planned - 1}")
    entry = source.store.log.entry(unit)
    if entry is None:
        captured = _spans(source.store.log.committed())
        raise ValueError(f"{asked} is not captured yet; captured are {captured or 'none'} of the {planned:,} planned")
    return entry


def _row(targets: UnitTargets, entry: Entry, prompt: str | None, sample: int | None) -> UnitTargets:
    """The first text of a unit that is of this prompt and sample."""
    of_prompt = [r for r, name in enumerate(targets.prompt_uids) if prompt in (None, name)]
    if not of_prompt:
        rejected = [i["reason"] for i in entry.rejected if prompt in (None, i["id"])]
        raise ValueError(
            f"{f'--prompt {prompt}' if prompt is not None else f'--unit {entry.unit}'}: no text of it is stored"
            + (f"; rejected: {rejected[0]}" if rejected else "")
        )
    of_sample = [r for r in of_prompt if sample in (None, int(targets.samples[r]))]
    if not of_sample:
        samples = sorted({int(targets.samples[r]) for r in of_prompt})
        raise ValueError(f"--sample {sample}: stored are the samples {', '.join(map(str, samples))}")
    return targets.select(np.array(of_sample[:1], np.int64))


def _spans(units: Iterable[int]) -> str:
    """`0-3, 7` of {0, 1, 2, 3, 7}."""
    spans: list[list[int]] = []
    for unit in sorted(units):
        if spans and spans[-1][1] == unit - 1:
            spans[-1][1] = unit
        else:
            spans.append([unit, unit])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)
