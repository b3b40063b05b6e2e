"""Parts of the benchmark of the log (tests/benchmarks/log.py): one question a module."""
