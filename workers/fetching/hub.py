"""Models of the Hugging Face Hub, in the cache that HF_HOME names. The token is found by huggingface_hub, in its usual
places, and nothing of it is said here."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from workers.fetching.names import NOT_LOADED, OLDER_WEIGHTS, SETTINGS, WEIGHTS, missing_weights, weights_among
from workers.fetching.node_lock import one_at_a_time, refused, require_room
from workers.fetching.progress import Progress
from workers.model_sizes import weights_fault

_COMMIT = re.compile(r"[0-9a-f]{40}")
_FRESH_S = 30.0
"""What a branch stands at counts for so long: the checks of a run ask for the same model many times."""

_LOOK_S = 0.5

_commits: dict[tuple[str, str | None], tuple[float, str]] = {}


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a whole commit, which never moves."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def commit_of(model: str, revision: str | None) -> str:
    """The commit that a branch or tag of a model stands at; without a network, the one that the cache knows it by.

    Raises ValueError where it is not to be found.
    """
    if revision is not None and is_commit(revision):
        return revision
    known = _commits.get((model, revision))
    if known is None or time.monotonic() - known[0] > _FRESH_S:
        known = _commits[model, revision] = time.monotonic(), _resolved(model, revision)
    return known[1]


def settings_folder(model: str, revision: str | None) -> Path:
    """The snapshot of a model, of which at least configuration and tokenizer are fetched. Raises ValueError."""
    from huggingface_hub import snapshot_download

    return Path(_asked(model, revision, lambda: snapshot_download(model, revision=revision, **_files(SETTINGS))))


def cached_folder(model: str, revision: str | None) -> Path | None:
    """The snapshot of a model that the cache has whole, weights and all; None where it has not. Asks no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    for weights in (WEIGHTS, OLDER_WEIGHTS):
        files = _files((*SETTINGS, *weights))
        try:
            folder = Path(snapshot_download(model, revision=revision, local_files_only=True, **files))
        except (LocalEntryNotFoundError, ValueError):  # an incomplete snapshot is one too
            continue
        if _lacking(folder) is None:
            return folder
    return None


def whole_folder(model: str, revision: str | None) -> Path:
    """The snapshot of a model with its weights, fetched by one process of a node where the cache has it not.

    Raises ValueError where it cannot be had, with what to do.
    """
    from huggingface_hub import constants

    commit = commit_of(model, revision)
    if (folder := cached_folder(model, commit)) is not None:
        return folder
    if constants.HF_HUB_OFFLINE:
        raise _not_cached(model, revision)
    locks = Path(constants.HF_HUB_CACHE).expanduser() / ".locks" / f"stillhouse--{model.replace('/', '--')}"
    done = lambda: cached_folder(model, commit) is not None  # noqa: E731
    with one_at_a_time(locks / f"{commit}.lock", f"{model!r}", done=done):
        return cached_folder(model, commit) or _fetched(model, revision, commit)


def one_file(model: str, revision: str | None, name: str) -> Path | None:
    """One file of a model, fetched alone where the cache has it not; None where the model has none of that name.

    Raises ValueError where it cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    commit = commit_of(model, revision)
    try:
        return Path(hf_hub_download(model, name, revision=commit, local_files_only=True))
    except LocalEntryNotFoundError:
        pass

    def fetch() -> str | None:
        try:
            return hf_hub_download(model, name, revision=commit)
        except RemoteEntryNotFoundError:
            return None

    found = _asked(model, revision, fetch)
    return None if found is None else Path(found)


def _fetched(model: str, revision: str | None, commit: str) -> Path:
    """Fetch a commit. What an earlier fetch left whole is kept (huggingface_hub keeps parts of files, too)."""
    from huggingface_hub import constants, snapshot_download

    cache = Path(constants.HF_HUB_CACHE).expanduser()
    for weights in (WEIGHTS, OLDER_WEIGHTS):
        files = _files((*SETTINGS, *weights))
        dry: Any = _asked(model, revision, lambda: snapshot_download(model, revision=commit, dry_run=True, **files))  # noqa: B023
        missing = [f for f in dry if f.will_download]
        if weights_among([f.filename for f in dry]):
            break
    total = sum(f.file_size or 0 for f in missing)
    cache.mkdir(parents=True, exist_ok=True)
    require_room(f"{model!r}", cache, total)
    progress = Progress(f"{model} ({commit[:12]}) into {cache}", total)
    blobs = cache / f"models--{model.replace('/', '--')}" / "blobs"
    before = _bytes_in(blobs)

    def look() -> None:
        progress.reached(_bytes_in(blobs) - before)
        progress.look()

    folder = Path(
        _asked(model, revision, lambda: _watched(lambda: snapshot_download(model, revision=commit, **files), look))
    )
    if (lack := _lacking(folder)) is not None:
        raise ValueError(f"model: {model!r} lacks {lack} at {commit[:12]}; choose another revision")
    if (fault := weights_fault(folder, whole=True)) is not None:
        raise ValueError(f"model: {fault}")
    progress.end()
    return folder


def _files(patterns: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of a download of these files, without bars of its own."""
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more | {"disable": True})

    return {"allow_patterns": list(patterns), "ignore_patterns": list(NOT_LOADED), "tqdm_class": Silent}


def _watched(work: Callable[[], str], look: Callable[[], None]) -> str:
    """What `work` returns, or raises, from a thread; meanwhile `look` is called. The thread does not hold up the end
    of the process."""
    result: list[str] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            errors.append(error)
            if not isinstance(error, Exception):
                raise

    thread = Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_S)
        look()
    if errors:
        raise errors[0]
    return result[0]


def _resolved(model: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    return _asked(model, revision, lambda: HfApi().resolve_revision(model, revision=revision).resolved)


def _asked(model: str, revision: str | None, ask: Callable[[], Any]) -> Any:
    """What the Hub, or its cache, answers. Raises ValueError with what to do."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    try:
        return ask()
    except (hub.LocalEntryNotFoundError, hub.RevisionResolutionError) as error:
        if constants.HF_HUB_OFFLINE:
            raise _not_cached(model, revision) from None
        raise _unknown(model, error) from None
    except hub.RevisionNotFoundError:
        raise ValueError(f"model: {model!r} has no revision {revision!r}; name a branch, tag or commit of it") from None
    except hub.HfHubHTTPError as error:
        status = error.response.status_code
        if isinstance(error, hub.GatedRepoError) or status == 403:
            raise ValueError(
                f"model: access to {model!r} is denied (HTTP {status}); accept its terms on its page at "
                f"{constants.ENDPOINT}, and give a token that may read it, on every node: HF_TOKEN, HF_TOKEN_PATH, or "
                "`hf auth login`"
            ) from None
        raise _unknown(model, error) from None
    except hub.HFValidationError as error:
        raise _unknown(model, error) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise refused(f"{model!r}", Path(constants.HF_HUB_CACHE), error) from None
        raise _unknown(model, error) from None
    except Exception as error:
        if type(error).__module__.startswith("httpx"):  # what huggingface_hub lets through, of the library below it
            raise _unknown(model, error) from None
        raise


def _unknown(model: str, error: Exception) -> ValueError:
    return ValueError(
        f"model: {model!r} is neither a folder nor a Hugging Face model within reach ({type(error).__name__}). "
        "Name a local folder, or check the id, the network and the token (HF_TOKEN, HF_TOKEN_PATH, `hf auth login`)"
    )


def _not_cached(model: str, revision: str | None) -> ValueError:
    from huggingface_hub import constants

    snapshot = Path(constants.HF_HUB_CACHE).expanduser() / f"models--{model.replace('/', '--')}"
    lack = "it" if not snapshot.is_dir() else "some of its files"
    at = f" --revision {revision}" if revision else ""
    return ValueError(
        f"model: {model!r} is a Hugging Face id, HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE!r} lacks "
        f"{lack}; fetch it there where there is a network (`hf download {model}{at}`), or unset HF_HUB_OFFLINE"
    )


def _lacking(folder: Path) -> str | None:
    names = [path.name for path in folder.iterdir()]
    return missing_weights(names, lambda name: (folder / name).read_bytes())


def _bytes_in(folder: Path) -> int:
    """Bytes of the files of a folder, half done ones too."""
    found = 0
    for path in folder.glob("*"):
        try:
            found += path.stat().st_size
        except FileNotFoundError:  # renamed meanwhile
            continue
    return found
