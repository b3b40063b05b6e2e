"""Sending a run to a cluster."""
