"""Names of Ray's that are private, and may change with any release: all that this program uses, but Ray Train's
(orchestrator/stages/train_internals.py). A test for each fails when it does.

Ray is imported inside the functions: it loads in two seconds, and the CLI has to answer in less than one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any


def free_resources() -> dict[str, dict[str, Any]]:
    """What is free on each living node now, by the id of the node. Ray's public way to it goes through the dashboard,
    which need not run."""
    import ray

    return dict(ray._private.state.available_resources_per_node())


def walk_package(root: Path, excludes: list[str], note: Callable[[Path], None], *, gitignore: bool) -> None:
    """Call `note` with each path that Ray would put in the package of a working directory.

    Ray's own walk: a second reading of .gitignore rules would disagree with it somewhere.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    skip = [_get_excludes(root, [*get_runtime_env_default_excludes(), *excludes])]
    _dir_travel(root, skip, note, include_gitignore=gitignore, logger=logging.getLogger(__name__))
