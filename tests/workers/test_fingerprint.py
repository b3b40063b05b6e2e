"""What a model in a plain folder is told by: every byte of a small one, a sample of each tensor of a large one."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

from workers import fingerprint
from workers.fingerprint import fingerprint_like, model_fingerprint

TENSOR = 64 << 10
HEADER = json.dumps(
    {f"t{i}": {"dtype": "U8", "shape": [TENSOR], "data_offsets": [i * TENSOR, (i + 1) * TENSOR]} for i in range(3)}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    write(tmp_path, bytes(3 * TENSOR))
    return tmp_path


def write(folder: Path, weights: bytes) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(HEADER)) + HEADER.encode() + weights)


def changed(folder: Path, place: int) -> str:
    """The fingerprint with another byte at a place of the weights."""
    weights = bytearray(3 * TENSOR)
    weights[place] = 1
    write(folder, bytes(weights))
    return model_fingerprint(str(folder))


def test_every_byte_of_a_small_model_counts_and_its_fingerprint_is_that_of_older_runs(folder: Path) -> None:
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        data = (folder / name).read_bytes()
        digest.update(f"{name}:{len(data)};".encode() + data)
    assert model_fingerprint(str(folder)) == digest.hexdigest() == fingerprint_like("0" * 64, str(folder))
    assert changed(folder, 5) != digest.hexdigest()


def test_of_a_large_model_each_tensor_counts_where_it_is_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_WHOLE_FILE_LIMIT", 1000)
    first = model_fingerprint(str(folder))
    assert first.startswith("sampled:") and first == fingerprint_like(first, str(folder))
    assert len({first, *(changed(folder, i * TENSOR + TENSOR // 2) for i in range(3))}) == 4
    assert changed(folder, 5) == first  # what it does not prove, as its docstring says
    (folder / "config.json").write_text("[]")
    assert model_fingerprint(str(folder)) != first


def test_a_large_model_of_an_older_run_is_compared_as_it_was_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 MiB of each 64 MiB: here the beginning of the file."""
    monkeypatch.setattr(fingerprint, "_WHOLE_FILE_LIMIT", 1000)
    monkeypatch.setattr(fingerprint, "_SAMPLE", 1000)
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        data = (folder / name).read_bytes()
        digest.update(f"{name}:{len(data)};".encode() + data[:1000])
    assert fingerprint_like(digest.hexdigest(), str(folder)) == digest.hexdigest()
    assert model_fingerprint(str(folder)) != digest.hexdigest()


def test_a_large_model_is_told_by_few_of_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 GB of zeros that take no room: 300 tensors."""
    size, read = 128 << 20, 0
    entries = {
        f"t{i}": {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]} for i in range(300)
    }
    header = json.dumps(entries).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 300 * size)
    block = fingerprint._block

    def counted(place: tuple[Path, int]) -> bytes:
        nonlocal read
        data = block(place)
        read += len(data)
        return data

    monkeypatch.setattr(fingerprint, "_block", counted)
    assert model_fingerprint(str(tmp_path)).startswith("sampled:") and read == 300 * 4096
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    (tmp_path / "pytorch_model.bin").touch()
    with (tmp_path / "pytorch_model.bin").open("r+b") as file:
        file.truncate(5 << 30)
    with pytest.raises(ValueError, match=r"model\.safetensors' is not a whole safetensors file"):
        model_fingerprint(str(tmp_path))
