"""Parts of tests/benchmarks/initial.py, which speaks the quickstart's language."""

import sys
from pathlib import Path

QUICKSTART = Path(__file__).resolve().parents[3] / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))
