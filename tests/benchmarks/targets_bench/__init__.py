"""Parts of the benchmark of targets (tests/benchmarks/targets.py): one question a module."""
