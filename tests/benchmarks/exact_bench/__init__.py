"""Parts of tests/benchmarks/exact.py."""
