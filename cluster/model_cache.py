"""Where models of object stores, and what is compiled, are put on a node. Every process of the node finds the same
folders, by its environment."""

from __future__ import annotations

import os
from pathlib import Path

MODEL_CACHE = "STILLHOUSE_MODEL_CACHE"
"""The variable that names the folder. `cluster.model_cache` sets it in all processes of a run."""

_DEFAULT = "~/.cache/stillhouse/models"


def model_cache() -> Path:
    """The folder of this node, which may not exist yet."""
    return Path(os.path.expanduser(os.environ.get(MODEL_CACHE) or _DEFAULT))


def compile_cache() -> Path:
    """The folder of this node for compiled kernels, where nothing else is said."""
    return Path("~/.cache/stillhouse/compiled").expanduser()


def use_model_cache(folder: str | None) -> None:
    """Take a folder in this process and those that it starts; None leaves it as it is."""
    if folder is not None:
        os.environ[MODEL_CACHE] = folder
