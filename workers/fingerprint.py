"""Stable hashes of configurations, tokenizers and models: what two things must share to be called the same."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from workers.chat_template import read_chat_template
from workers.fetching import hub, remote
from workers.fetching.names import folder_of, is_remote
from workers.model_files import read_json_object

_WHOLE_FILE_LIMIT = 4 << 30
"""Bytes of weights up to which a model's files are hashed whole."""

_SAMPLE, _STRIDE = 1 << 20, 64 << 20
"""Beyond the limit, in the fingerprints of older runs: this many bytes of every stride are hashed."""

_BLOCK, _MOST_SAMPLES = 4096, 8192
"""Beyond the limit: bytes that are hashed of a tensor, and tensors of which they are, at most."""

_BLOCKS, _READERS = 64, 16

_HUB, _SAMPLED = "hub:", "sampled:"

_FINGERPRINTS: dict[bytes, str] = {}
"""By the hash of a tokenizer.json as it stands: a teacher and its students have the same one, which takes a fifth of a
second to read."""


def hash_json(value: Any) -> str:
    """sha256 (hex) of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def tokenizer_fingerprint(folder: Path) -> str:
    """Hash of what maps text to ids: the model, its added tokens, and how text is split. Special-token roles, padding
    and truncation settings do not count, nor does the order of keys. Raises ValueError without a tokenizer.json."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ValueError(
            f"model: {str(folder)!r} has no tokenizer.json; save a fast tokenizer there "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    digest = hashlib.sha256(path.read_bytes()).digest()
    if digest not in _FINGERPRINTS:
        content = read_json_object(path)
        parts = {k: content.get(k) for k in ("model", "normalizer", "pre_tokenizer")}
        parts["added"] = sorted((t["content"], t["id"]) for t in content.get("added_tokens") or [])
        _FINGERPRINTS[digest] = hash_json(parts)
    return _FINGERPRINTS[digest]


def chat_template_fingerprint(folder: Path) -> str:
    """Hash of the chat template, wherever the tokenizer keeps it; of the empty string where it has none."""
    return hash_json(read_chat_template(folder))


def model_fingerprint(model: str, revision: str | None = None) -> str:
    """What tells a model from another one, without fetching its weights. Raises ValueError where it is not found.

    - A Hugging Face id: `hub:` and its commit, which is made of the hashes of all its files (of weights in LFS, their
      sha256). A branch that moves gives another one; a tag, a branch and the commit itself give the same.
    - An s3:// folder: `s3:` and a hash of the names, sizes and ETags of its configuration and weights.
    - A folder of up to 4 GiB of weights: a hash of every byte of its configuration and weights.
    - A larger one: `sampled:` and a hash of its configuration, of the headers and sizes of its files, and of 4 KiB in
      the middle of each tensor, of 8,192 tensors at most (of files of the older format, at even distances). Proves
      that it is no other model, and not trained on. What changes a part of a tensor only, outside the sample, is not
      seen.

    The same files give another fingerprint where they are named in another way.
    """
    if (folder := folder_of(model)) is not None:
        return _of_folder(folder)
    if is_remote(model):
        return remote.RemoteModel.of(model, fresh=True).fingerprint()
    return _HUB + hub.commit_of(model, revision)


def fingerprint_like(recorded: str | None, model: str, revision: str | None = None) -> str:
    """The fingerprint of a model in the form in which a store has one recorded (None: in today's).

    Before models were told by commit, all were told by a hash of their bytes, which had no prefix. Such a one is made
    again where the bytes are on this machine: of a folder, and of a model of the Hub that its cache has whole. Raises
    ValueError where it has not.
    """
    if recorded is None or ":" in recorded or is_remote(model):
        return model_fingerprint(model, revision)
    folder = folder_of(model) or hub.cached_folder(model, revision)
    if folder is None:
        raise ValueError(
            f"model: this run was begun when models were told by a hash of all weights, and those of {model!r} are not "
            f"in this machine's cache to compare; fetch them here once (`hf download {model}"
            + (f" --revision {revision}" if revision else "")
            + "`), and start again"
        )
    return _of_bytes(folder)


def commit_in(fingerprint: str) -> str | None:
    """The commit that a fingerprint names; None where it names none."""
    return fingerprint.removeprefix(_HUB) if fingerprint.startswith(_HUB) else None


def _weights_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.name == "config.json" or p.suffix in (".safetensors", ".bin"))


def _of_folder(folder: Path) -> str:
    files = _weights_of(folder)
    if sum(p.stat().st_size for p in files) <= _WHOLE_FILE_LIMIT:
        return _of_bytes(folder)
    digest, tensors = hashlib.sha256(), []
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        if path.name == "config.json":
            digest.update(path.read_bytes())
        elif path.suffix == ".safetensors":
            header, places = _header_of(path, size)
            digest.update(header)
            tensors += [(path, place) for place in places]
        else:
            tensors += [(path, size * part // _BLOCKS) for part in range(_BLOCKS)]
    step = max(1, -(-len(tensors) // _MOST_SAMPLES))
    with ThreadPoolExecutor(_READERS) as pool:  # a network disk answers many at a time
        for block in pool.map(_block, tensors[::step]):
            digest.update(block)
    return _SAMPLED + digest.hexdigest()


def _header_of(path: Path, size: int) -> tuple[bytes, list[int]]:
    """The header of a safetensors file, and the middle of each of its tensors, in the order of the file. Raises
    ValueError for a file that is none."""
    with path.open("rb") as file:
        begins = file.read(8)
        length = int.from_bytes(begins, "little")
        try:
            if length > size - 8:
                raise ValueError("its header is longer than the file")
            header = file.read(length)
            entries = [entry for name, entry in json.loads(header).items() if name != "__metadata__"]
            places = sorted(sum(entry["data_offsets"]) // 2 + 8 + length for entry in entries)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"model: {str(path)!r} is not a whole safetensors file ({error}); fetch it again"
            ) from None
    return begins + header, places


def _block(place: tuple[Path, int]) -> bytes:
    path, offset = place
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        return file.read(_BLOCK)


def _of_bytes(folder: Path) -> str:
    """A hash of a folder's configuration and weights: of every byte, beyond 4 GiB of 1 MiB in each 64 MiB."""
    files = _weights_of(folder)
    whole = sum(p.stat().st_size for p in files) <= _WHOLE_FILE_LIMIT
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as file:
            if whole:
                while block := file.read(1 << 22):
                    digest.update(block)
            else:
                for offset in range(0, size, _STRIDE):
                    file.seek(offset)
                    digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
