"""Parts of the benchmark of the log (tests/benchmarks/driving/log.py): one question a module."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # where the tests' S3 servers are
