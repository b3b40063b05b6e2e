"""`stillhouse export`: of a run, of a configuration, or of any model folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.options import Json, Sets
from orchestrator.cli.output import after, folder_of, monitors

if TYPE_CHECKING:
    from orchestrator.config.loading import ConfigFile
    from workers.export.config import ExportConfig


def export(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A YAML file, or a run's name (below runs/), folder or s3:// URI; RUN@1: "
            "its first generation, in place of the last one.",
        ),
    ] = None,
    formats: Annotated[
        list[str],
        typer.Option(
            "--format",
            metavar="FORMAT[:TYPE]",
            help="In place of the configuration's: safetensors[:bfloat16], gguf[:q4_0], compressed-tensors.",
        ),
    ] = [],
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FOLDER", help="A model folder, in place of a run.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="With --model: what is written.")] = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", metavar="FILE", help="With --model: text that the file is measured on.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            metavar="own|none",
            help="With --format gguf. none: the file holds no tokenizer and takes token ids alone.",
        ),
    ] = None,
    sets: Sets = [],
    as_json: Json = False,
) -> None:
    """Export what is trained, and measure each file in the program that people run it with; exit code 3 if that
    computes otherwise than training did."""
    asked = [_format_of(name, tokenizer) for name in formats]
    if tokenizer is not None and not any(form.format == "gguf" for form in asked):
        raise ValueError("--tokenizer: is a setting of gguf files; add --format gguf")
    if (run is None) == (model is None):
        raise ValueError("export: name a run (or its YAML file), or a model folder with --model; one of the two")
    if model is not None:
        return _folder(model, out, asked, texts, as_json)
    if out is not None or texts is not None:
        raise ValueError("export: --out and --texts are of --model; a run's exports lie in its folder")
    from orchestrator.driver import pipeline

    file = _file_of(str(run), sets)
    if asked:
        file = replace(file, config=file.config.model_copy(update={"export": asked}))
    written = pipeline.export_only(file, monitors(as_json))
    files = [artefact.to_dict() for of_one in written.artefacts.values() for artefact in of_one]
    data = {"exports": written.keys, "artefacts": files, "failures": written.failures}
    lines = [f"exported {folder_of(file)}/{key}" for key in written.keys]
    after(as_json, data, [*lines, *(f"{key} FAILED: {why}" for key, why in written.failures.items())])
    beyond = any(artefact.within_gate is False for of_one in written.artefacts.values() for artefact in of_one)
    raise typer.Exit(1 if written.failures else 3 if beyond else 0)


def _format_of(name: str, tokenizer: str | None) -> ExportConfig:
    """`gguf:q8_0` as settings. `tokenizer`: that of files that hold one. Raises ValueError."""
    from pydantic import ValidationError

    from workers.export.config import ExportConfig

    form, _, kind = name.partition(":")
    settings = {"format": form, **({{"gguf": "weights"}.get(form, "dtype"): kind} if kind else {})}
    if tokenizer is not None and form == "gguf":
        settings["tokenizer"] = tokenizer
    try:
        return ExportConfig.model_validate(settings)
    except ValidationError as error:
        wrong = error.errors()[0]
        option = f"--tokenizer {tokenizer}" if wrong["loc"] == ("tokenizer",) else f"--format {name}"
        raise ValueError(f"{option}: {wrong['msg'].removeprefix('Value error, ')}") from None


def _file_of(where: str, sets: list[str]) -> ConfigFile:
    from orchestrator.config.loading import ConfigFile, load_config
    from orchestrator.runs.folder import find_run
    from workers.layout import split_generation

    if where.endswith((".yaml", ".yml")):
        return load_config(Path(where), sets)
    if sets:
        raise ValueError("--set: changes a YAML file's settings; name that in place of the run")
    found = find_run(where)
    config, (storage, _, name) = found.config(), split_generation(found.uri)[0].rpartition("/")
    if name != config.name:
        raise ValueError(f"export: the folder {found.uri} holds the run {config.name!r}; give it that name")
    here = config.model_copy(update={"storage": storage})  # it may have been moved, or be named from elsewhere
    return ConfigFile(here, Path(found.environment()["config_folder"]))


def _folder(model: Path, out: Path | None, asked: list[ExportConfig], texts: Path | None, as_json: bool) -> None:
    from orchestrator.stages.export import export_folder
    from workers.export.artefact import told

    if out is None or len(asked) != 1:
        raise ValueError("export: --model takes one --format, and --out FOLDER, which is written")
    if not (model / "config.json").exists():
        raise ValueError(f"--model: {str(model)!r} is no model folder; it has no config.json")
    if texts is not None and not texts.is_file():
        raise ValueError(f"--texts: there is no file {str(texts)!r}")
    artefact = export_folder(model, out, asked[0], texts)
    after(as_json, artefact.to_dict(), [f"exported {out.parent / artefact.path}: {told(artefact)}"])
    if artefact.within_gate is False:
        raise typer.Exit(3)
