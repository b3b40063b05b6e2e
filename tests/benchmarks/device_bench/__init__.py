"""Parts of tests/benchmarks/device_ops.py."""
