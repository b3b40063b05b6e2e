"""A plain copy of a trained model: a folder that transformers loads with its Auto classes."""

from __future__ import annotations

from pathlib import Path

from cluster.storage import Storage

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "vocab.txt",
)


def copy_model(storage: Storage, source: str, key: str, tokenizer_folder: Path) -> list[str]:
    """Copy a trained model and the teacher's tokenizer below `key`; returns the keys written.

    The weights are copied within the store: by the server on S3, and by the kernel locally. Raises FileNotFoundError if
    the model was not trained yet.
    """
    if not storage.exists(f"{source}/config.json"):
        raise FileNotFoundError(f"export: no trained model at {source}; run `stillhouse train` first")
    keys = storage.copy_folder(source, key)
    written = {f"{key}/{name}": tokenizer_folder / name for name in TOKENIZER_FILES}
    for target, file in written.items():
        if file.exists():
            storage.write(target, file.read_bytes())
            keys.append(target)
    return sorted(set(keys))
