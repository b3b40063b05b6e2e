"""Exporting what is trained, each file with a card that says where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from orchestrator.config.students import QUANTISED
from orchestrator.reporting.licences import passed_on
from orchestrator.reporting.report import Report
from orchestrator.runs.context import RunContext
from workers.export.artefact import Artefact, told
from workers.export.config import ExportConfig
from workers.export.formats import why_not, why_not_here
from workers.export.job import ExportJob, done, run_apart
from workers.fetching.licences import Licence, licence_of
from workers.fetching.names import folder_of
from workers.fingerprint import hash_json
from workers.layout import StudentLayout, export_key
from workers.model_files import read_model_config
from workers.quantise.config import QuantisedWeights

Make = Callable[[Sequence[ExportJob]], Iterable[tuple[ExportJob, Artefact | str]]]
"""Makes exports: each with its artefact, or with why there is none."""


@dataclass
class Exports:
    """What was exported."""

    keys: list[str] = field(default_factory=list)
    """Of folders below the run's."""
    artefacts: dict[str, list[Artefact]] = field(default_factory=dict)
    """By specialist, those of its quantised sibling too."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why an export failed, by its key."""


def make_apart(jobs: Sequence[ExportJob]) -> Iterator[tuple[ExportJob, Artefact | str]]:
    """Make exports on this machine, one after another, each in a process of its own."""
    for job in jobs:
        try:
            yield job, run_apart(job)
        except (ValueError, RuntimeError) as error:
            yield job, str(error)


def export(ctx: RunContext, report: Report, cards: Mapping[str, str], make: Make) -> Exports:
    """Export every trained specialist, and its quantised sibling, in the configured formats; what is there already is
    not made again. One that fails does not keep others from it. `cards` are model cards by specialist."""
    jobs = [
        (name, job) for name in ctx.config.specialists for job in _jobs(ctx, name, cards[name], passed_on(report, name))
    ]
    found: dict[str, Artefact | str] = {
        job.target: artefact for _, job in jobs if (artefact := done(ctx.run.storage, job)) is not None
    }
    missing = [job for _, job in jobs if job.target not in found]
    if missing:
        ctx.say(f"exporting {', '.join(job.target for job in missing)}")
    for job, made in make(missing) if missing else ():
        found[job.target] = made
        ctx.say(f"{job.target} FAILED: {made}" if isinstance(made, str) else f"exported {made.path}: {told(made)}")
    exports = Exports()
    for name, job in jobs:  # in their order, whichever was done first
        if isinstance(outcome := found[job.target], str):
            exports.failures[job.target] = outcome
            continue
        exports.keys.append(job.target)
        exports.artefacts.setdefault(name, []).append(outcome)
    return exports


def _jobs(ctx: RunContext, name: str, card: str, licence: Licence | None) -> Iterator[ExportJob]:
    """The exports of a specialist and its quantised sibling, as far as these are trained."""
    said = licence.shown if licence is not None else None
    for student in (name, f"{name}.{QUANTISED}"):
        if (facts := ctx.run.student_done(student)) is not None:
            for form in (form for form in ctx.config.export if form.of(name)):
                yield replace(_job(ctx, name, student, form, card), licence=said, version=hash_json(facts))


def _job(ctx: RunContext, name: str, student: str, form: ExportConfig, card: str) -> ExportJob:
    base = ctx.config.specialists[name].model.source
    folder = folder_of(base) if base is not None else None
    teacher = ctx.config.teachers[ctx.config.teacher_of(ctx.config.own_domain(name))]
    return ExportJob(
        store=ctx.run.uri,
        source=StudentLayout(student).final,
        target=export_key(student, form.label),
        tokenizer=teacher.model,
        tokenizer_revision=teacher.revision,
        name=student,
        export=form.model_dump(mode="json", exclude_unset=True),
        card=card,
        base=Path(base).name if folder is not None and base is not None else base,
        domain=ctx.config.own_domain(name),
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
    licence = licence_of(str(model.absolute()))
    return run_apart(
        ExportJob(
            store=str(out.absolute().parent),
            source=str(model.absolute()),
            target=out.name,
            tokenizer=str(tokenizer.absolute()),
            name=model.name,
            export=form.model_dump(mode="json", exclude_unset=True) | {"measure": form.measure},
            card=_plain_card(model, form, licence),
            licence=licence.shown if licence is not None else None,
            base=model.name,
            texts=str(texts.absolute()) if texts is not None else None,
        )
    )


def _plain_card(model: Path, form: ExportConfig, licence: Licence | None) -> str:
    front = {"base_model": model.name}
    if licence is not None:
        said = {"license": licence.id, "license_name": licence.name, "license_link": licence.link}
        front |= {key: value for key, value in said.items() if value is not None}
    words = f"# {model.name}\n\nWritten as {form.format} by stillhouse of {model.name}."
    stated = licence.shown if licence is not None else "not stated in its folder"
    return f"---\n{yaml.safe_dump(front)}---\n\n{words}\n\nIts licence: {stated}.\n"
