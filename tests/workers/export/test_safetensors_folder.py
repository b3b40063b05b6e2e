"""A plain copy has the model's own bytes, which never come to the machine that makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.storage import Storage
from workers.export.safetensors_folder import copy_model


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "teacher"
    folder.mkdir()
    files = {"tokenizer.json": "the teacher's", "chat_template.jinja": "{{ x }}", "model.safetensors": "its weights"}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_weights_and_tokenizer(storage: Storage, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {
        "config.json": b"{}",
        "model-00001-of-00002.safetensors": bytes(5000),
        "model-00002-of-00002.safetensors": b"2",
    }
    for name, data in model.items():
        storage.write(f"students/a/final/{name}", data)
    storage.write("exports/a/config.json", b"of an earlier export")
    for way in ("download_folder", "upload_folder", "read") if storage.uri.startswith("s3") else ("download_folder",):
        monkeypatch.setattr(storage, way, None)
    keys = copy_model(storage, "students/a/final", "exports/a", tokenizer)
    monkeypatch.undo()
    expected = model | {
        "tokenizer.json": b"the teacher's",
        "chat_template.jinja": b"{{ x }}",
    }
    assert {key: storage.read(key) for key in keys} == {f"exports/a/{name}": data for name, data in expected.items()}
    assert storage.keys("exports/a") == keys


def test_an_untrained_model_is_refused(storage: Storage, tokenizer: Path) -> None:
    with pytest.raises(FileNotFoundError, match="stillhouse train"):
        copy_model(storage, "students/a/final", "exports/a", tokenizer)
