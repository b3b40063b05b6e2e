"""Parts of `quantise.py`."""
