"""Parts of tests/benchmarks/initial.py, which speaks the quickstart's language."""

import sys
from pathlib import Path

QUICKSTART = Path(__file__).resolve().parents[3] / "examples" / "quickstart"
TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(QUICKSTART), str(TESTS.parent), str(TESTS)]
