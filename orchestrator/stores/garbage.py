"""`stillhouse gc`: what of a run's target stores can go, and its deletion."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from typing import Any

from cluster.lease import living_holder
from orchestrator.runs.folder import find_run
from workers.targets.commits.garbage import Garbage, delete_garbage, find_garbage

_SAFE_AGE_S = 3600.0
"""A part that was written so long ago is not about to be committed."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def collect_garbage(where: str, *, older_than: str, delete: bool) -> dict[str, Any]:
    """What can go, or with `delete` what went: {run, deleted, files, bytes, splits, garbage}.

    Raises ValueError if there is no such run, the age is none, or young files would be deleted under a living driver.
    """
    age = seconds_of(older_than)
    before, run = time.time() - age, find_run(where)
    if delete and age < _SAFE_AGE_S and (holder := living_holder(run.storage)) is not None:
        raise ValueError(
            f"--older-than {older_than}: the run at {run.uri} is driven now ({holder}), and a part so young may be "
            "about to be committed; wait until that ends, or leave alone what is younger than an hour"
        )
    garbage = find_garbage(run.storage, before)
    if delete:
        garbage = delete_garbage(run.storage, garbage)
    splits = {split: _total([g for g in garbage if g.split == split]) for split in sorted({g.split for g in garbage})}
    return {
        "run": run.uri,
        "deleted": delete,
        **_total(garbage),
        "splits": splits,
        "garbage": [asdict(g) for g in garbage],
    }


def seconds_of(age: str) -> float:
    """`90s`, `30m`, `12h` or `1d` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", age)
    if match is None:
        raise ValueError(f"--older-than {age}: not an age; write 90s, 30m, 12h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


def lines_of(found: dict[str, Any], older_than: str) -> list[str]:
    """What the command says."""
    if not found["files"]:
        return [f"nothing to delete: no garbage older than {older_than} in {found['run']}"]
    lines = [f"  {g['key']}  {g['bytes']:,} bytes  {g['reason']}" for g in found["garbage"]]
    lines += [f"{split}: {t['files']} files, {t['bytes']:,} bytes" for split, t in found["splits"].items()]
    total = f"{found['files']} files, {found['bytes']:,} bytes"
    return [*lines, f"deleted {total}" if found["deleted"] else f"{total} can go; add --delete to delete them"]


def _total(garbage: list[Garbage]) -> dict[str, int]:
    return {"files": len(garbage), "bytes": sum(g.bytes for g in garbage)}
