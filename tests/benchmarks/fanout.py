"""Fan-out: one run of several specialists beside separate ones and the ideal; and the control plane without models.

python tests/benchmarks/fanout.py [--config FILE] [--tokens 60000] [--counts 1 2 3 6] [--only specialists control]
    [--units 10000] [--replicas 64] [--readers 32]

FILE is the quickstart's or another configuration, whose inputs are there. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from fanout_bench.control import control_figures
from fanout_bench.specialists import QUICKSTART, Project, figures

SUBJECTS = ["specialists", "control"]
ASKED = (
    *("share_of_ideal_1", "share_of_ideal_2", "share_of_ideal_3", "share_of_ideal_6"),
    *("over_separate_3", "over_separate_6", "overlap", "units_per_s", "commit_ms", "driver_peak_mb"),
)


def main() -> None:
    """Print tables and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=QUICKSTART)
    parser.add_argument("--tokens", type=int, default=60_000, help="target tokens of each specialist")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 3, 6], help="specialists of a run")
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--replicas", type=int, default=64)
    parser.add_argument("--readers", type=int, default=32)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=SUBJECTS)
    args = parser.parse_args()
    found: dict[str, Any] = dict.fromkeys(ASKED)
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        if "specialists" in args.only:
            found |= figures(Project(args.config.resolve(), Path(folder), args.tokens), args.counts)
        if "control" in args.only:
            found |= control_figures(Path(folder), args.units, args.replicas, args.readers)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
