"""Runs in other programs' trackers: what is told of them, and to whom."""
