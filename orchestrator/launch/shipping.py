"""Whether a job finds what its configuration names: it starts in a copy of the working directory, elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from fnmatch import fnmatch
from pathlib import Path

from orchestrator.config.loading import ConfigFile

_INSTEAD = "or put it where all nodes reach it (s3://...)"
_LEFT_OUT = (
    "is left out of what the job gets (by .gitignore, .rayignore, cluster.runtime_env.excludes, or as it is not "
    f"there): let it in, {_INSTEAD}"
)


def check_shipped(
    file: ConfigFile, folder: Path, config: Path, shipped: Collection[Path], say: Callable[[str], None]
) -> None:
    """Raise ValueError, a line for each, if inputs or the configuration itself are not among the files that go along:
    relative paths in `folder`, as `config` is one.

    What is named by an absolute path outside of it may be on the nodes (a shared disk): that is said, not refused.
    """
    faults = [] if config in shipped else [f"{config} {_LEFT_OUT}"]
    for given, path in file.local_inputs():
        key, named, inside = given.key, given.value, path.is_relative_to(folder)
        if os.path.isabs(os.path.expanduser(named)) and not inside:
            say(f"note: {key}: {named!r} is not sent along; the job reads it from its own node's disk")
        elif os.path.isabs(os.path.expanduser(named)):
            faults.append(f"{key}: {named!r} is elsewhere in the job; give it relative to the configuration's folder")
        elif not inside:
            faults.append(
                f"{key}: {named!r} is not in {str(folder)!r}, the folder that the job gets; type the command in "
                f"one that holds both, {_INSTEAD}"
            )
        elif not _is_among(path.relative_to(folder), shipped):
            faults.append(f"{key}: {named!r} {_LEFT_OUT}")
    if faults:
        raise ValueError("\n".join(faults))


def _is_among(path: Path, shipped: Collection[Path]) -> bool:
    """Whether a file, a folder with any, or a file that a pattern fits goes along."""
    pattern = path.as_posix()
    return any(each == path or path in each.parents or fnmatch(each.as_posix(), pattern) for each in shipped)
