"""Parts of `tests/benchmarks/capture_at_size.py`."""
