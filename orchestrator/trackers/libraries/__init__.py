"""Trackers by their own libraries, each imported in the process that tells it."""
