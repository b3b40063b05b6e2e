"""Initial weights of one student, in a folder of a test's own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from workers.student.config import ModelConfig
from workers.student.models.initial import Asked, make_initials


def make_initial(
    model: ModelConfig,
    out: Path,
    *,
    vocabulary: int,
    seed: int = 0,
    texts: list[list[int]] = [],
    prompts: list[list[int]] = [],
    memory: int = 0,
) -> dict[str, Any]:
    """Write the initial weights of a student to a folder; returns the facts about them."""
    asked = [Asked("student", model, seed, texts, prompts)]
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for made in make_initials(asked, Path(folder), vocabulary=vocabulary, memory=memory):
            shutil.copytree(made.folder, out, dirs_exist_ok=True)
            facts = made.facts
    return facts
