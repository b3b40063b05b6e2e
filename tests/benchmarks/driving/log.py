"""The log of a store with very many units: what it costs to open, to follow, and to compact.

cd tests/benchmarks && PYTHONPATH=../..:.. python -m driving.log [--units 100000] [--s3-units 2000] [--million]

The entries are synthetic, of the size of real ones. Files are in the page cache: a cold disk adds its reads. S3 is a
server on this machine (SeaweedFS if `weed` is installed, else moto's): its times are those of a near, slow server, and
only the numbers of requests carry over.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from log_bench.compaction import compactions
from log_bench.entries import fill_bucket, fill_folder, synthetic
from log_bench.following import FOLLOWED_UNITS, follow
from log_bench.opening import count_requests, opened
from log_bench.servers import s3_server
from targets_bench.tables import show

import workers
from cluster.storage import open_storage

CHECKOUT = Path(__file__).resolve().parents[3]
MILLION = 1_000_000
LISTED = 1000
"""Keys in one answer of S3 to a listing."""

Figures = dict[str, Any]

OPENED = ["units", "committed_s", "entries_s", "entries_mb", "committed_requests", "entries_requests"]
FOLLOWED = ["commit_s", "follow_s", "follow_worst_s", "follow_after_idling_s", "idle_requests_per_s"]


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--s3-units", type=int, default=500, help="what is beyond them is extrapolated")
    parser.add_argument("--million", action="store_true", help="measure a million local units: minutes, 4 GB of disk")
    args = parser.parse_args()
    assert Path(workers.__file__).parents[1] == CHECKOUT, f"{workers.__file__} would be measured, not {CHECKOUT}"
    requests = count_requests()
    figures = {"units": args.units, "entry_bytes": len(synthetic(12_345).to_bytes())}
    figures["local"] = on_disk(args.units, args.million, requests)
    figures["s3"] = on_s3(args.s3_units, args.units, requests)
    figures["compaction"] = compacted(MILLION if args.million else args.units)
    print(json.dumps(figures))


def on_disk(units: int, million: bool, requests: Counter[str]) -> dict[str, object]:
    """A log in a folder, at growing sizes."""
    rows, followed = [], []
    sizes = sorted({max(1, units // 100), max(2, units // 10), max(3, units)} | ({MILLION} if million else set()))
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        held = 0
        for size in sizes:
            fill_folder(Path(folder), held, size)
            rows.append(opened(folder))
            followed.append({"units": size} | follow(open_storage(folder), size, requests))
            held = size + FOLLOWED_UNITS
    scaled = [] if million else [_scaled(rows[-2], rows[-1], MILLION)]
    show("local folder: opening the log", OPENED, _rows(rows + scaled, OPENED))
    if scaled:
        print("  the last row is extrapolated; --million measures it")
    columns = ["units", *FOLLOWED]
    show("local folder: one more unit, with a student's stream waiting", columns, _rows(followed, columns))
    return {"opening": [_rounded(r) for r in rows + scaled], "following": [_rounded(f) for f in followed]}


def on_s3(units: int, wanted: int, requests: Counter[str]) -> dict[str, object]:
    """A log in a bucket, at two sizes; `wanted` and a million units by what they tell."""
    with s3_server() as (name, uri):
        storage, rows, held = open_storage(uri), [], 0
        for size in (max(1, units // 4), max(2, units)):
            fill_bucket(storage, held, size)
            rows.append(opened(uri))
            held = size
        followed = follow(storage, held, requests)
    # Memory at such sizes is the client's, which has no slope.
    scaled = [_scaled(*rows, n) | {"entries_mb": None} for n in sorted({wanted, MILLION}) if n > units]
    show(f"S3 ({name}): opening the log", OPENED, _rows(rows + scaled, OPENED))
    print(f"  the rows beyond {units:,} units are extrapolated; requests of the largest: {rows[-1]['operations']}")
    show(f"S3 ({name}): one more unit, with a student's stream waiting", FOLLOWED, _rows([followed], FOLLOWED))
    return {"server": name, "opening": [_rounded(r) for r in rows + scaled], "following": _rounded(followed)}


def compacted(units: int) -> dict[str, dict[str, float]]:
    """All entries as one object."""
    found = compactions([synthetic(u) for u in range(units)])
    columns = ["bytes", "make_s", "open_s"]
    show(f"{units:,} entries in one object", ["", *columns], [[n, *(f[c] for c in columns)] for n, f in found.items()])
    return {name: _rounded(f) for name, f in found.items()}


def _scaled(small: Figures, large: Figures, units: int) -> Figures:
    """A row as it would be with more units: on the line through two measured ones, with a listing's pages by count."""
    beyond = (units - large["units"]) / (large["units"] - small["units"])
    scaled = {name: large[name] + (large[name] - small[name]) * beyond for name in OPENED}
    if large["committed_requests"]:
        pages = math.ceil(units / LISTED) - math.ceil(large["units"] / LISTED)
        scaled["committed_requests"] = large["committed_requests"] + pages
        scaled["entries_requests"] += pages
    return {name: round(v) if name.endswith(("units", "requests")) else v for name, v in scaled.items()}


def _rows(found: list[Figures], columns: list[str]) -> list[list[float | None]]:
    return [[f[c] for c in columns] for f in found]


def _rounded(figures: Figures) -> Figures:
    return {n: round(v, 4) if v is not None else None for n, v in figures.items() if n != "operations"}


if __name__ == "__main__":
    main()
