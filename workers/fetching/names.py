"""What the name of a model means, and which files of a model are fetched. Pure, but for a look whether a folder is
there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection
from fnmatch import fnmatch
from pathlib import Path

SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py")
"""Files that say what a model is: configuration, tokenizer, index of its weights, code of its own. All small."""

WEIGHTS = ("*.safetensors",)
OLDER_WEIGHTS = ("*.bin",)
"""Fetched where there are no WEIGHTS: many models have both."""

NOT_LOADED = ("*/*.safetensors", "*/*.bin", "*/*.pt", "*/*.pth", "*/*.gguf", "consolidated*.safetensors")
"""Copies of the same weights for other programs. transformers and vLLM load what lies right in the folder."""

_OTHER_STORE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def folder_of(model: str) -> Path | None:
    """The folder on this machine that a model's name is; None for one that lies elsewhere.

    Raises ValueError for a name that is no folder, no s3:// folder and no id of the Hub.
    """
    if is_remote(model):
        return None
    folder = Path(os.path.expanduser(model))
    if os.path.isdir(folder):
        return folder
    if _OTHER_STORE.match(model):
        raise ValueError(f"model: {model!r} is in no store that is read; name a folder, a Hugging Face id, or s3://...")
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise ValueError(f"model: no folder {model!r} (and it is not a Hugging Face id either)")
    return None


def is_remote(model: str) -> bool:
    """Whether a model lies in an object store."""
    return model.startswith("s3://")


def require_no_revision(model: str, revision: str | None) -> None:
    """Raise ValueError for a revision of what has none: a folder, here or in an object store."""
    if revision is not None and (is_remote(model) or folder_of(model) is not None):
        raise ValueError(
            f"revision: {revision!r}, but {model!r} is a folder, which has none; leave it out, or name an id of the Hub"
        )


def is_settings(name: str) -> bool:
    """Whether a file says what a model is."""
    return any(fnmatch(name, pattern) for pattern in SETTINGS)


def weights_among(names: Collection[str]) -> list[str]:
    """Files of a model's weights that are loaded, sorted."""
    loaded = [name for name in names if not any(fnmatch(name, pattern) for pattern in NOT_LOADED)]
    for patterns in (WEIGHTS, OLDER_WEIGHTS):
        if found := sorted(name for name in loaded if any(fnmatch(name, pattern) for pattern in patterns)):
            return found
    return []


def missing_weights(names: Collection[str], read: Callable[[str], bytes]) -> str | None:
    """Which weights a folder of these files lacks, by its index, in words; None where it has all. `read` reads one."""
    if not weights_among(names):
        return "weights (model.safetensors)"
    if "model.safetensors" in names:
        return None
    for index in sorted(name for name in names if fnmatch(name, "*.safetensors.index.json")):
        try:
            listed = set(json.loads(read(index))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"a readable {index}"
        if lacking := sorted(listed - set(names)):
            return lacking[0] + (f" and {len(lacking) - 1} more files of weights" if len(lacking) > 1 else "")
    return None
