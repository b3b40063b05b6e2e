"""Stable hashes of configurations, tokenizers and models: what two things must share to be called the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from workers.chat_template import read_chat_template
from workers.model_files import read_json_object

_WHOLE_FILE_LIMIT = 4 << 30
"""Bytes of weights up to which a model's files are hashed whole."""

_SAMPLE, _STRIDE = 1 << 20, 64 << 20
"""Beyond the limit: this many bytes of every stride are hashed."""


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


def model_fingerprint(folder: Path) -> str:
    """Hash of a model folder's configuration and weights (sampled beyond 4 GiB)."""
    files = sorted(p for p in folder.iterdir() if p.name == "config.json" or p.suffix in (".safetensors", ".bin"))
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
