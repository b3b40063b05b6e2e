"""A plain copy has the model's own bytes, which never come to the machine that makes it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.servers.s3_servers import reached_at

from cluster.storage import Storage, join, open_storage
from workers.export.safetensors_folder import copy_model


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "local":
        yield open_storage(str(tmp_path / "run"))
        return
    with reached_at(request.getfixturevalue("moto_endpoint")) as bucket:
        yield open_storage(join(bucket, uuid.uuid4().hex))


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
