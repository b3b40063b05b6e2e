"""The configuration behind `stillhouse compare`: a teacher, models that were never trained here, and prompts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.config.loading import ConfigFile, apply_settings, validate


def comparison(
    teacher: str, students: Sequence[str], prompts: Sequence[str], settings: Sequence[str], name: str | None
) -> ConfigFile:
    """The run that answers all prompts with the teacher and measures the students on its answers.

    `students` are NAME=MODEL, or MODEL, which is then called by its last part; `prompts` are DOMAIN=FILE, or FILE
    likewise. The run's name, if not given, is made of the teacher, the prompts and the settings, and not of the
    students: a further one finds the teacher's answers. Raises ValueError, one line per fault.
    """
    data: dict[str, Any] = {
        "teacher": {"model": teacher},
        "prompts": _named(prompts, "--prompts"),
        "specialists": {},
        "evaluate": {"models": _named(students, "--student")},
    }
    apply_settings(data, settings)
    begun = json.dumps([teacher, data["prompts"], sorted(settings)])
    data.setdefault("name", name or f"compare-{hashlib.sha256(begun.encode()).hexdigest()[:8]}")
    return ConfigFile(validate(data), Path.cwd())


def _named(values: Sequence[str], option: str) -> dict[str, str]:
    """By name. What a model or file is called that has none: its last part without endings, as far as names go."""
    found: dict[str, str] = {}
    for value in values:
        before, equals, after = value.partition("=")
        name, what = (before, after) if equals and "/" not in before else (_called(value), value)
        if not name or not what:
            raise ValueError(f"{option} {value}: expected NAME=WHAT, or what alone")
        if name in found:
            raise ValueError(f"{option} {value}: there is another {name!r}; write NAME={what}")
        found[name] = what
    return found


def _called(value: str) -> str:
    last = os.path.basename(value.rstrip("/")).partition(".")[0]
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in last).strip("-_")
