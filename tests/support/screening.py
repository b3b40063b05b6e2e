"""Rows of a file as a source of a run has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.config.schema import PromptSource
from orchestrator.prompts.sources import SourceRows, screen


def screened(path: Path | str, **source: Any) -> SourceRows:
    return screen("med", PromptSource(path=str(path), **source))
