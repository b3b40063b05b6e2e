"""Exporting what is trained, each file with a card that says where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.config.students import QUANTISED
from orchestrator.runs.context import RunContext
from workers.export.artefact import Artefact, told
from workers.export.config import ExportConfig
from workers.export.formats import why_not, why_not_here
from workers.export.job import ExportJob, done, run_apart
from workers.export.safetensors_folder import export_safetensors
from workers.fetching.folder import model_folder
from workers.fetching.names import folder_of
from workers.fingerprint import hash_json
from workers.layout import StudentLayout, export_key
from workers.model_files import read_model_config
from workers.quantise.config import QuantisedWeights


@dataclass
class Exports:
    """What was exported."""

    keys: list[str] = field(default_factory=list)
    """Of folders below the run's."""
    artefacts: dict[str, list[Artefact]] = field(default_factory=dict)
    """By specialist, those of its quantised sibling too; a plain copy of its weights is none."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why an export failed, by its key."""


def export(ctx: RunContext, cards: Mapping[str, str]) -> Exports:
    """Export every trained specialist, and its quantised sibling, in the configured formats. One that fails does not
    keep others from it. `cards` are model cards by specialist."""
    exports = Exports()
    for name in ctx.config.specialists:
        teacher = ctx.config.teachers[ctx.config.teacher_of(ctx.config.own_domain(name))]
        for student in (name, f"{name}.{QUANTISED}"):
            if (facts := ctx.run.student_done(student)) is None:
                continue
            tokenizer = model_folder(teacher.model, teacher.revision, weights=False)
            for form in (f for f in ctx.config.export if f.of(name)):
                key = export_key(student, form.label)
                if form.copied:
                    export_safetensors(ctx.run.storage, StudentLayout(student).final, key, tokenizer, cards[name])
                    exports.keys.append(key)
                    continue
                job = _job(ctx, name, student, form, tokenizer, cards[name], hash_json(facts))
                _export_file(ctx, exports, name, job)
    return exports


def _export_file(ctx: RunContext, exports: Exports, name: str, job: ExportJob) -> None:
    """One file, if it is not there already."""
    if (artefact := done(ctx.run.storage, job)) is None:
        ctx.say(f"exporting {job.target}")
        try:
            artefact = run_apart(job)
        except (ValueError, RuntimeError) as error:
            exports.failures[job.target] = str(error)
            ctx.say(f"{job.target} FAILED: {error}")
            return
        ctx.say(f"exported {artefact.path}: {told(artefact)}")
    exports.keys.append(job.target)
    exports.artefacts.setdefault(name, []).append(artefact)


def _job(
    ctx: RunContext, name: str, student: str, form: ExportConfig, tokenizer: Path, card: str, version: str
) -> ExportJob:
    base = ctx.config.specialists[name].model.source
    folder = folder_of(base) if base is not None else None
    return ExportJob(
        store=ctx.run.uri,
        source=StudentLayout(student).final,
        target=export_key(student, form.label),
        tokenizer=str(tokenizer),
        name=student,
        export=form.model_dump(mode="json", exclude_unset=True),
        card=card,
        base=Path(base).name if folder is not None and base is not None else base,
        licence=licence_of(folder) if folder is not None else None,
        domain=ctx.config.own_domain(name),
        version=version,
    )


def export_folder(
    model: Path, out: Path, form: ExportConfig, texts: Path | None, tokenizer: Path | None = None
) -> Artefact:
    """Write a model folder of this machine to another, empty one. `texts`: a file with text that it is measured on;
    None: it is not measured. Raises ValueError for what the format cannot express, RuntimeError if it fails."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--out: {str(out)!r} is not empty; name a new folder")
    tokenizer = tokenizer or model
    form = form if texts is not None else form.model_copy(update={"measure": 0})
    wanted = form.of_model(QuantisedWeights.of_folder(model))
    if (reason := why_not_here(form) or why_not(wanted, read_model_config(model), tokenizer)) is not None:
        raise ValueError(f"--format {form.format}: {reason}")
    return run_apart(
        ExportJob(
            store=str(out.absolute().parent),
            source=str(model.absolute()),
            target=out.name,
            tokenizer=str(tokenizer.absolute()),
            name=model.name,
            export=form.model_dump(mode="json", exclude_unset=True) | {"measure": form.measure},
            card=_plain_card(model, form),
            licence=licence_of(model),
            base=model.name,
            texts=str(texts.absolute()) if texts is not None else None,
        )
    )


def licence_of(folder: Path) -> str | None:
    """The licence that a model folder's card states, if it has one."""
    from huggingface_hub import metadata_load  # imports an HTTP client

    card = folder / "README.md"
    said = (metadata_load(card) or {}).get("license") if card.exists() else None
    return said if isinstance(said, str) else None


def _plain_card(model: Path, form: ExportConfig) -> str:
    licence = licence_of(model)
    front = ["---", f"base_model: {model.name}", *([f"license: {licence}"] if licence else []), "---"]
    return "\n".join(
        [*front, "", f"# {model.name}", "", f"Written as {form.format} by stillhouse of {model.name}.", ""]
    )
