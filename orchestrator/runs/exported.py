"""The files that a run's students were exported as."""

from __future__ import annotations

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import QUANTISED
from orchestrator.runs.folder import RunFolder
from workers.export.artefact import Artefact
from workers.export.job import artefact_at
from workers.layout import export_key


def artefacts_of(run: RunFolder, config: RunConfig, name: str) -> tuple[Artefact, ...]:
    """What is known of the files of a specialist and its quantised sibling, in the formats of `export`; of whole ones
    alone."""
    keys = [export_key(n, form.label) for n in (name, f"{name}.{QUANTISED}") for form in config.export]
    return tuple(found for key in keys if (found := artefact_at(run.storage, key)) is not None)
