"""What a GPU would be waited for, counted on a CPU: in a training step, a decode step, a capture; and a resume's bytes.

cd tests/benchmarks && PYTHONPATH=../..:.. python -m device_ops

Counts are exact and the same on every machine (support/device/ledger.py says what counts): stops of the host, for a
number of the device's or for a copy to it. `step` is what a step costs with no layer, `layer` what each layer adds. The
models are tiny, two ranks over gloo: a student in bfloat16 with ZeRO-2, a mixture whose experts are split. Of a resume
counts what all ranks read of the storage, beside masters and moments. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from device_bench.resume import resume_bytes_over_state
from support.device.capturing import ROWS, VOCABULARY, capture_rows
from support.device.counted import count_stops
from targets_bench.tables import show

WORDS = {"train": "an optimiser step", "decode": "a decode step, captured"}


def main() -> None:
    """Print tables and one JSON object."""
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        stops = count_stops(Path(folder))
    figures: dict[str, Any] = {}
    for what, (step, layer) in stops.items():
        figures |= {f"{what}_step_syncs": step, f"{what}_layer_ops": layer}
    show("stops of a rank", ["", "a step", "a layer"], [[WORDS[what], *found] for what, found in stops.items()])
    captured = capture_rows()
    rows = [[what, count] for what, count in (captured.waits + captured.copies).items()]
    show(f"capture of {ROWS} rows of {VOCABULARY:,} ids", ["", "stops"], [*rows, ["kernels", captured.kernels]])
    figures |= {"capture_ops_per_256_rows": captured.stops, "capture_kernels_per_256_rows": captured.kernels}
    read = {ranks: resume_bytes_over_state(ranks) for ranks in (2, 4, 8)}
    show("bytes that a resume reads, over those of the state", ["ranks", "read"], [[*item] for item in read.items()])
    figures |= {"resume_bytes_over_state": round(read[4], 4)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
