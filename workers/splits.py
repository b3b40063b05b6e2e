"""The names under which prompts and their targets are kept."""

from __future__ import annotations

TRAIN, HELDOUT, PROBES = SPLITS = ("train", "heldout", "probes")
"""Splits: each has its own plan and its own store. Probes are prompts whose one right next token is known."""

OLDER = "older"
"""In the names of scores: the held-out text of an older generation."""

OWN, OWN_COMPARED = "own", "own-compared"
"""In the names of scores: text that a student writes itself, and how far it is from its teacher there."""

BRIDGES, BRIDGES_COMPARED = "bridges", "bridges-compared"
"""In the names of scores: a teacher's right answers with tokens of them changed, and what a student does there."""

SPEED = "speed"
"""In the names of scores: how fast a model answers, which has neither."""

WEIGHTS = "weights"
"""In the names of scores: what a model weighs whose weights were rounded."""

TASKS = "tasks"
"""In the names of scores: items of tasks, which are no split and have no store."""

HARNESS = "harness"
"""In the names of scores: tasks of lm-evaluation-harness, likewise."""

SHOWN = "shown"
"""In the names of scores: a few held-out texts token by token."""
