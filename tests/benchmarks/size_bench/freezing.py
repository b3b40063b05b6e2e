"""Freezing very many prompts: rows a second, memory of the processes, bytes of the manifests, how soon a unit is open.

Run in a process of its own, so that its memory is that of freezing; workers are looked at five times a second. Memory
is what is a process's own (RssAnon): pages that it shares count for none.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from support.servers.s3_servers import BUCKET, KEYS, seaweed

from cluster.storage import Storage, open_storage
from orchestrator.config.loading import load_config
from orchestrator.prompts.freezing import shards
from orchestrator.prompts.freezing.freeze import freeze
from size_bench.chats import write_chats, write_config
from workers.manifest import Manifest, read_plan
from workers.splits import TRAIN

_OPENED = 50
"""Units that are opened."""
_COMPARED = 20_000
"""Rows that are frozen in one block and in four."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What it takes from the command line."""
    parser.add_argument("--rows", type=int, default=1_000_000, help="prompts to freeze")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Its figures."""
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as name:
        folder = Path(name)
        prompts = write_chats(folder / "chats.jsonl", args.rows, args.model)
        command = [sys.executable, "-m", "size_bench.freezing", str(args.model), str(prompts), str(folder / "run")]
        child = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], env=os.environ)
        if child.returncode:
            raise RuntimeError(child.stderr[-4000:])
        figures: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
        storage = open_storage(str(folder / "run"))
        size = sum(stored.bytes for stored in storage.listing("prompts"))
        figures |= {"freeze_rows": args.rows, "freeze_rows_per_s": args.rows / figures["freeze_s"]}
        figures |= {"manifest_bytes_per_prompt": size / args.rows, **_opened(storage, "")}
        figures |= _on_s3(folder / "run") | {"blocks_are_equal": _blocks_are_equal(folder, args.model)}
        hours = 5e6 / figures["freeze_rows_per_s"] / 3600
    return figures | {"freeze_5m_hours_here": hours}


def _opened(storage: Storage, suffix: str) -> dict[str, float]:
    """Milliseconds to open a split, and then one unit of it."""
    units = len(read_plan(storage, TRAIN).units)
    opened = [_milliseconds(lambda: Manifest(storage, TRAIN)) for _ in range(5)]
    manifest = Manifest(storage, TRAIN)
    chosen = [n * units // _OPENED for n in range(_OPENED)]
    times = [_milliseconds(lambda unit=unit: manifest.prompts(unit)) for unit in chosen]  # type: ignore[misc]
    found = {"open_manifest_ms": statistics.median(opened), "open_unit_ms": statistics.median(times)}
    return {name + suffix: value for name, value in found.items()} | {"units": units}


def _on_s3(run: Path) -> dict[str, float]:
    with seaweed() as endpoint:
        os.environ |= KEYS | {"AWS_ENDPOINT_URL": endpoint}
        storage = open_storage(f"s3://{BUCKET}/run")
        storage.upload_folder(run / "prompts", "prompts")
        return _opened(storage, "_s3")


def _blocks_are_equal(folder: Path, model: Path) -> bool:
    """Whether one block and four make the same bytes."""
    prompts = write_chats(folder / "few.jsonl", _COMPARED, model)
    written = []
    for blocks in (1, 4):
        shards.SHARD_BYTES = -(-prompts.stat().st_size // blocks)
        run = folder / f"blocks-{blocks}"
        config = load_config(write_config(folder / "few.yaml", model, str(prompts), str(folder)), []).located()
        assert len(shards.shards_of(config)) == blocks
        freeze(config, str(run), spread=_backwards)
        storage = open_storage(str(run))
        written.append({stored.key: storage.read(stored.key) for stored in storage.listing("prompts")})
    return written[0] == written[1]


def _backwards(work: Callable[[Any], Any], items: Sequence[Any], /) -> Iterator[Any]:
    return map(work, reversed(items))


def _milliseconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


class _Memory(threading.Thread):
    """Watches the memory of this process and of the pool's."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.worker = 0.0

    def run(self) -> None:
        while True:
            self.own = max(self.own, _anonymous_mb("self"))
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit() and _is_worker(entry):
                    self.worker = max(self.worker, _anonymous_mb(entry.name))
            time.sleep(0.2)


def _is_worker(process: Path) -> bool:
    try:
        return process.joinpath("cmdline").read_bytes().startswith(b"ray::MapWorker")
    except OSError:
        return False


def _anonymous_mb(process: str) -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon")), 0.0)


def _frozen(model: str, prompts: str, run: str) -> dict[str, float]:
    """Freezes in a pool on this machine's cores, as a run does."""
    import ray

    from orchestrator.prompts.freezing.work import teacher_tokenizers
    from orchestrator.stages.preparing.freezing_pool import in_pool

    config = load_config(write_config(Path(run + ".yaml"), Path(model), prompts, str(Path(run).parent)), []).located()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    tokenizers, memory = teacher_tokenizers(config), _Memory()
    before = _anonymous_mb("self")
    memory.start()
    began = time.perf_counter()
    freeze(config, run, tokenizers=tokenizers, spread=in_pool)
    seconds = time.perf_counter() - began
    ray.shutdown()
    figures = {"freeze_driver_peak_mb": memory.own, "freeze_worker_peak_mb": memory.worker}
    return {"freeze_s": seconds, "freeze_driver_before_mb": before, **figures}


if __name__ == "__main__":
    print(json.dumps(_frozen(*sys.argv[1:])))
