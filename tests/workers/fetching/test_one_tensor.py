"""A tensor of a model that lies elsewhere is had without the rest of its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from support.servers.faulty_s3 import faulty
from support.servers.hub import Hub, hub_server, program_at, ran
from support.servers.s3_servers import reached_at

from cluster.storage import open_storage
from workers.fetching import remote
from workers.fetching.weights import read_tensor

HEAD = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
LAST = "model-00002-of-00002.safetensors"
SHARDS = {
    "model-00001-of-00002.safetensors": save({"embed.weight": torch.zeros(200, 1000)}),
    LAST: save({"norm": torch.ones(4), "lm_head.weight": HEAD, "other": torch.zeros(200, 1000)}),
}
WHERE = {"embed.weight": next(iter(SHARDS)), "norm": LAST, "lm_head.weight": LAST, "other": LAST}
FILES = SHARDS | {
    "config.json": b"{}",
    "model.safetensors.index.json": json.dumps({"weight_map": WHERE}).encode(),
}
OWN = ["lm_head.weight", "embed.weight"]


def check(model: str) -> None:
    assert torch.equal(read_tensor(model, None, OWN, 5), HEAD[:5])  # type: ignore[arg-type]
    assert torch.equal(read_tensor(model, None, OWN, 50), HEAD)  # type: ignore[arg-type]
    assert read_tensor(model, None, ["nothing"], 5) is None


def test_of_a_folder(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    check(str(tmp_path))


@pytest.mark.parametrize("sharded", [True, False])
def test_of_the_hub_only_its_file_is_fetched(tmp_path: Path, sharded: bool) -> None:
    script = """
import json
from workers.fetching.weights import read_tensor
found = [read_tensor("acme/head", None, names, 5) for names in (["lm_head.weight", "embed.weight"], ["nothing"])]
print(json.dumps([None if tensor is None else tensor.tolist() for tensor in found]))
"""
    files = FILES if sharded else {"config.json": b"{}", "model.safetensors": SHARDS[LAST]}
    with hub_server(Hub("acme/head")) as hub:
        hub.commit(files, "main")
        found, _ = ran(program_at(hub, tmp_path, script))
        assert found == [HEAD[:5].tolist(), None]
        fetched = {name: hub.fetched(name) for name in files if name.endswith(".safetensors") and hub.fetched(name)}
        assert fetched == {LAST if sharded else "model.safetensors": 1}


def test_of_an_s3_folder_only_its_bytes_are_read(
    moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLHOUSE_MODEL_CACHE", str(tmp_path / "cache"))
    with faulty(moto_endpoint) as (endpoint, _), reached_at(endpoint) as bucket:
        uri = f"{bucket}/{tmp_path.name}/model"
        for name, data in FILES.items():
            open_storage(uri).write(name, data)
        remote._listed.clear()
        check(uri)
        assert not list((tmp_path / "cache").rglob("*.safetensors"))
        open_storage(uri).write(LAST, (1 << 60).to_bytes(8, "little") + SHARDS[LAST][8:])
        remote._listed.clear()
        with pytest.raises(ValueError, match=f"{LAST}.*no safetensors file"):
            read_tensor(uri, None, OWN, 5)
