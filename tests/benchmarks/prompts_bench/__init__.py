"""For the benchmark of prompts: where the tests' chat models are, and one core, as the process has that freezes."""

import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]  # in this order: tests have rooms that are named like the packages
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
