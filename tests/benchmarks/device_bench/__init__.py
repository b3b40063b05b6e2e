"""Parts of tests/benchmarks/device_ops.py: what a GPU would be asked to do, counted on a CPU."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # where the tests' programs are
