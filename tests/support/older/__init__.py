"""Older generations of a run, for tests."""
