"""Exporting the trained specialists, each with a card that says where it comes from."""

from __future__ import annotations

from typing import Any

from orchestrator.config import RunConfig
from orchestrator.report_text import model_card
from orchestrator.run_folder import RunFolder
from workers.export.safetensors_folder import export_safetensors
from workers.model_files import model_folder


def export(run: RunFolder, config: RunConfig, report: dict[str, Any]) -> list[str]:
    """Export every trained specialist in the configured formats; returns the keys of the folders."""
    folders = []
    for name in config.specialists:
        if run.student_done(name) is not None and "safetensors" in config.export:
            teacher = config.teachers[config.teacher_of(config.own_domain(name))]
            tokenizer = model_folder(teacher.model, teacher.revision, weights=False)
            export_safetensors(
                run.storage, f"students/{name}/final", run.export_key(name), tokenizer, model_card(report, name)
            )
            folders.append(run.export_key(name))
    return folders
