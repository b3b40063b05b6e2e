"""The report of a run as data."""
