"""Parts of `tests/benchmarks/teacher.py`."""
