"""Servers that tests start: Ray heads, S3."""
