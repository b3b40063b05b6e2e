"""Nodes of a cluster that is not there yet, and which processes find room on them."""
