"""The folder of a model on this node, whatever it is named by."""

from __future__ import annotations

from pathlib import Path

from workers.fetching import hub, remote
from workers.fetching.names import folder_of, is_remote, require_no_revision


def model_folder(model: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a model on this node: itself; a copy of an s3:// folder below `cluster.model_cache`; the snapshot
    of a Hugging Face id in the Hub's own cache.

    What is not there is fetched, by one process of a node while others wait. `weights=False` fetches only
    configuration and tokenizer, and is all that who does not load the model may ask for. Raises ValueError where it
    cannot be had, with what to do.
    """
    require_no_revision(model, revision)
    if (folder := folder_of(model)) is not None:
        return folder
    if is_remote(model):
        return remote.whole_folder(model) if weights else remote.settings_folder(model)
    return hub.whole_folder(model, revision) if weights else hub.settings_folder(model, revision)
