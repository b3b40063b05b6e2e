"""What of the lattices is known without torch: their names and sizes."""

from __future__ import annotations

from typing import Literal

Form = Literal["q4_0", "q8_0"]

GROUP = 32
"""Weights that share a scale."""
