"""Generations of a run: which older ones one goes on from, and which is the next."""

from __future__ import annotations

from dataclasses import replace

from cluster.storage import join, local_folder, open_storage
from orchestrator.config.loading import ConfigFile
from orchestrator.config.schema import ContinuesConfig, RunConfig
from orchestrator.config.students import student_groups
from orchestrator.runs.folder import RunFolder
from orchestrator.runs.identity import differences, specialist_differences
from workers.layout import REPORT_JSON, generation_uri, split_generation


def older_runs(run: RunFolder, continues: ContinuesConfig | None) -> list[RunFolder]:
    """The generations that one goes on from, oldest first; none of one that begins anew. Raises ValueError where one is
    not there."""
    found: list[RunFolder] = []
    while continues is not None and continues.generation is not None:
        run = _before(run, continues.generation)
        if any(run.uri == other.uri for other in found):
            raise ValueError(f"continues.generation: {run.uri} goes on from itself")
        continues = run.located_config().continues if run.config().continues is not None else None
        found.insert(0, run)
    return found


def _before(run: RunFolder, generation: int | str) -> RunFolder:
    if isinstance(generation, str):
        home, number = split_generation(generation)
        return RunFolder(generation_uri(home, number))
    return RunFolder(generation_uri(split_generation(run.uri)[0], generation))


def generation_name(of: RunFolder, seen_from: RunFolder) -> str:
    """What a generation is called in another one: its number, or that of another run with its name."""
    home, number = split_generation(of.uri)
    return str(number) if home == split_generation(seen_from.uri)[0] else f"{home.rpartition('/')[2]}@{number}"


def trained_before(run: RunFolder, config: RunConfig) -> RunFolder | None:
    """The generation right before one; None where it begins anew."""
    older = older_runs(run, config.continues)
    return older[-1] if older else None


def continuing(run: RunFolder, config: RunConfig) -> list[str]:
    """Students that go on from what they were in the generation before."""
    before = trained_before(run, config)
    groups = student_groups(config) if before is not None else []
    return [g[0].name for g in groups if before is not None and before.student_done(g[0].name) is not None]


def copy_between(source: RunFolder, folder: str, target: RunFolder, key: str) -> None:
    """Copy a folder of a generation into another one: within the store, where both are of one run."""
    home = split_generation(target.uri)[0]
    if split_generation(source.uri)[0] == home:
        inside = [
            f"{run.uri.rstrip('/')}/{key}".removeprefix(f"{home}/") for run, key in ((source, folder), (target, key))
        ]
        open_storage(home).copy_folder(*inside)
        return
    with local_folder(source.storage, folder) as here:
        target.storage.upload_folder(here, key)


def next_generation(file: ConfigFile) -> ConfigFile:
    """The configuration of a run's next generation; of the last one, where that has begun and is not finished.

    Raises ValueError where there is no run to go on from, or nothing new.
    """
    said = file.config.continues
    if said is not None and said.generation is not None:
        return file
    home = join(file.storage, file.config.name)
    last = RunFolder.newest(home)
    try:
        begun = last.config()
    except ValueError:
        raise ValueError(
            f"run --continue: there is no run at {home!r} to go on from; `stillhouse run CONFIG` makes its first "
            f"generation{', once continues is taken out' if file.config.continues is not None else ''}"
        ) from None
    as_last = _going_on(file, last.generation - 1)
    unfinished, changes = _unfinished(last, begun), differences(begun, as_last.config)
    trained_otherwise = specialist_differences(begun, as_last.config)
    if unfinished and changes:
        raise ValueError(
            f"run --continue: generation {last.generation} of {home!r} is not finished ({unfinished}), and has another "
            f"configuration: {'; '.join(changes)}. Finish it with its own first"
        )
    if not unfinished and not changes and not trained_otherwise:
        new = sorted(file.config.specialists.keys() - begun.specialists.keys())
        more = f"; {', '.join(new)} alone can be added to it: type the command without --continue" if new else ""
        raise ValueError(
            f"run --continue: generation {last.generation} of {home!r} is finished, and this configuration is its own: "
            "there is nothing new. Name new prompts (files with other names), another teacher, or other settings of "
            f"training{more}"
        )
    return as_last if unfinished else _going_on(file, last.generation)


def _going_on(file: ConfigFile, generation: int) -> ConfigFile:
    """A configuration as that of the generation behind `generation`; 0: of the first."""
    said = file.config.continues or ContinuesConfig()
    continues = said.model_copy(update={"generation": generation}) if generation else None
    return replace(file, config=file.config.model_copy(update={"continues": continues}))


def _unfinished(run: RunFolder, config: RunConfig) -> str:
    """Why a generation is not finished, in words; empty where it is."""
    students = [student.name for group in student_groups(config) for student in group]
    if lacking := [name for name in students if run.student_done(name) is None]:
        return f"{', '.join(lacking)} not trained"
    return "" if run.storage.exists(REPORT_JSON) else "not evaluated"
