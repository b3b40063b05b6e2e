"""The names under which prompts and their targets are kept."""

from __future__ import annotations

GENERATION = "g0000"
"""New prompts or a changed teacher open the next generation; this version writes the first."""

TRAIN, HELDOUT, PROBES = SPLITS = ("train", "heldout", "probes")
"""Splits: each has its own plan and its own store. Probes are prompts whose one right next token is known."""
