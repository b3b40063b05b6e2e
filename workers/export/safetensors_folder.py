"""The `safetensors` export: a folder that transformers loads with its Auto classes, with a card."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cluster.storage import Storage

_TOKENIZER_FILES = (
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


def export_safetensors(storage: Storage, source: str, key: str, tokenizer_folder: Path, card: str) -> list[str]:
    """Copy a trained model, the teacher's tokenizer and a model card below `key`; returns the keys written.

    Raises FileNotFoundError if the model was not trained yet.
    """
    if not storage.exists(f"{source}/config.json"):
        raise FileNotFoundError(f"export: no trained model at {source}; run `stillhouse train` first")
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as name:
        folder = Path(name)
        storage.download_folder(source, folder)
        for file in _TOKENIZER_FILES:
            if (tokenizer_folder / file).exists():
                shutil.copyfile(tokenizer_folder / file, folder / file)
        (folder / "README.md").write_text(card)
        return storage.upload_folder(folder, key)
