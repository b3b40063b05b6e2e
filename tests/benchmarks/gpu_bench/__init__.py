"""Parts of `tests/benchmarks/gpu.py`."""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # in this order: tests have rooms that are named like the packages
