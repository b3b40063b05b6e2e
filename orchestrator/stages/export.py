"""Exporting the trained specialists, each with a card that says where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.storage import Storage
from orchestrator.runs.context import RunContext
from workers.export.safetensors_folder import export_safetensors
from workers.fetching.folder import model_folder
from workers.layout import StudentLayout, export_key

FORMATS: dict[str, Callable[[Storage, str, str, Path, str], list[str]]] = {"safetensors": export_safetensors}
"""Writers of `export` formats: storage, key of the model, key of the export, tokenizer folder, model card."""


def export(ctx: RunContext, cards: Mapping[str, str]) -> list[str]:
    """Export every trained specialist in the configured formats; returns the keys of the folders.

    `cards` are model cards by specialist.
    """
    run, config, keys = ctx.run, ctx.config, []
    for name in config.specialists:
        if run.student_done(name) is None or not config.export:
            continue
        teacher = config.teachers[config.teacher_of(config.own_domain(name))]
        tokenizer = model_folder(teacher.model, teacher.revision, weights=False)
        for form in config.export:
            FORMATS[form](run.storage, StudentLayout(name).final, export_key(name), tokenizer, cards[name])
        keys.append(export_key(name))
    return keys
