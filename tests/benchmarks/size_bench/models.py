"""Models at size: what it takes to tell a large folder from another one, before and after; and how fast a model comes
out of an S3 server onto a node, for one process and for four that want the same one.

    python tests/benchmarks/size_bench/models.py
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    CHECKOUT = Path(__file__).resolve().parents[3]
    sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])

from support.servers.s3_servers import WEED, moto, reached_at, seaweed

from cluster.storage import open_storage
from workers import fingerprint

_FILES, _TENSORS = 16, 18_000
_SHARD = 64 << 20

_FETCH = """
import json, sys, time
from workers.fetching import remote
from workers.fetching.folder import model_folder
fetched = 0
add = remote.Progress.add
def counted(progress, count):
    global fetched
    fetched += count
    add(progress, count)
remote.Progress.add = counted
began = time.perf_counter()
model_folder(sys.argv[1])
print(json.dumps([time.perf_counter() - began, fetched]))
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of what is measured."""
    parser.add_argument("--model-gb", type=float, default=60, help="GB of the sparse folder that is told from others")
    parser.add_argument("--fetch-mb", type=int, default=512, help="MB of the model that is fetched from S3")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and MB read for the fingerprint of a folder, `before` (1 MiB of each 64 MiB) and after; MB/s of a fetch
    from S3 until all processes have the model, and MB that they fetched in all."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _sparse(folder, int(options.model_gb * 1e9))
        found |= _told(folder, "fingerprint_before", fingerprint._of_bytes)
        found |= _told(folder, "fingerprint", fingerprint._of_folder)
    with (seaweed if WEED.exists() else moto)() as endpoint, reached_at(endpoint) as bucket:
        uri = f"{bucket}/model"
        _upload(uri, options.fetch_mb << 20)
        for processes in (1, 4):
            found |= _fetched(uri, processes)
    return found


def _sparse(folder: Path, size: int) -> None:
    """A model of so many bytes that take no room on the disk."""
    (folder / "config.json").write_text("{}")
    each, tensor = _TENSORS // _FILES, size // _TENSORS
    for number in range(_FILES):
        entry = lambda i: {"dtype": "U8", "shape": [tensor], "data_offsets": [i * tensor, (i + 1) * tensor]}  # noqa: E731
        header = json.dumps({f"layer.{number}.expert.{i}": entry(i) for i in range(each)}).encode()
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + each * tensor)


def _told(folder: Path, name: str, tell: Callable[[Path], str]) -> dict[str, float]:
    read, began = _bytes_read(), time.perf_counter()
    tell(folder)
    return {f"{name}_s": round(time.perf_counter() - began, 3), f"{name}_mb": round((_bytes_read() - read) / 1e6, 1)}


def _bytes_read() -> int:
    """Bytes that this process has read so far, of files that a disk cache holds too."""
    return int(Path("/proc/self/io").read_text().split()[1])


def _upload(uri: str, size: int) -> None:
    storage = open_storage(uri)
    storage.write("config.json", b"{}")
    for number in range(-(-size // _SHARD)):
        storage.write(f"model-{number}.safetensors", os.urandom(_SHARD))


def _fetched(uri: str, processes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"STILLHOUSE_MODEL_CACHE": cache}
        command = [sys.executable, "-c", _FETCH, uri]
        started = [
            subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) for _ in range(processes)
        ]
        ends = [json.loads(program.communicate()[0]) for program in started]
        size = sum(p.stat().st_size for p in Path(cache).glob("*/*/whole/*"))
    return {
        f"fetch_mb_per_s_of_{processes}": round(size / 1e6 / max(seconds for seconds, _ in ends), 1),
        f"fetch_mb_wanted_by_{processes}": round(size * processes / 1e6, 1),
        f"fetch_mb_in_all_by_{processes}": round(sum(fetched for _, fetched in ends) / 1e6, 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    print(json.dumps(measure(parser.parse_args())))
