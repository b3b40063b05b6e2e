"""Parts of capture_at_size.py."""
