"""Models of the Hub, at a server on this machine: what they are told by, and that their weights are fetched once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from support.servers.hub import Hub, commit_of, hub_server, program_at, ran

TOKEN = "hf_planted0secret0of0this0test"
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",  # blobs that are equal are fetched once
    "model.safetensors": save({"w": torch.ones(20_000)}),
    "pytorch_model.bin": b"b" * 70_000,
    "original/model.safetensors": b"o" * 70_000,
    "README.md": b"read me",
}


FIRST = commit_of(FILES)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_server(Hub("acme/tiny")) as made:
        assert made.commit(FILES, "main", "v1") == FIRST
        yield made


PRELUDE = """
import json
from workers.fetching.folder import model_folder
from workers.fingerprint import fingerprint_like, model_fingerprint
def told(work):
    try:
        return str(work())
    except ValueError as error:
        return "refused " + str(error)
"""


BOTH = """
print(json.dumps([told(lambda: model_folder('acme/tiny')), told(lambda: model_fingerprint('acme/tiny'))]))
"""


def start(hub: Hub, home: Path, script: str, **more: str) -> subprocess.Popen[str]:
    return program_at(hub, home, PRELUDE + script, **more)


def test_a_model_is_told_by_its_commit_and_no_weights_are_fetched_for_that(hub: Hub, tmp_path: Path) -> None:
    script = f"print(json.dumps([model_fingerprint('acme/tiny', r) for r in (None, 'main', 'v1', '{FIRST}')]))"
    same, _ = ran(start(hub, tmp_path, script + "; model_folder('acme/tiny', weights=False)"))
    assert set(same) == {f"hub:{FIRST}"}
    assert not hub.fetched("model.safetensors") and hub.fetched("config.json") == 1
    moved = hub.commit(FILES | {"model.safetensors": save({"w": torch.zeros(20_000)})}, "main")
    after, _ = ran(start(hub, tmp_path, script))
    assert after == [f"hub:{moved}", f"hub:{moved}", same[2], same[3]]


def test_two_processes_of_a_node_fetch_weights_once_and_only_those_that_are_loaded(hub: Hub, tmp_path: Path) -> None:
    script = "print(json.dumps(str(model_folder('acme/tiny', 'v1'))))"
    found = [ran(program) for program in [start(hub, tmp_path, script) for _ in range(2)]]
    assert len({folder for folder, _ in found}) == 1
    assert (Path(found[0][0]) / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert hub.fetched("model.safetensors") == 1
    assert not hub.fetched("pytorch_model.bin") and not hub.fetched("original/model.safetensors")
    assert sum("fetched acme/tiny" in said for _, said in found) == 1


def test_weights_in_several_files_are_fetched_and_older_ones_left(hub: Hub, tmp_path: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    shards = {name: save({f"w.{name}": torch.full((20_000,), float(i))}) for i, name in enumerate(names)}
    index = json.dumps({"weight_map": {f"w.{name}": name for name in names}}).encode()
    files = {name: data for name, data in FILES.items() if name != "model.safetensors"}
    hub.commit(files | shards | {"model.safetensors.index.json": index}, "parts")
    folder, _ = ran(start(hub, tmp_path, "print(json.dumps(str(model_folder('acme/tiny', 'parts'))))"))
    assert {name: (Path(folder) / name).read_bytes() for name in names} == shards
    assert not hub.fetched("pytorch_model.bin")


def test_without_a_network_the_cache_decides_and_nothing_is_asked(hub: Hub, tmp_path: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1"}
    (folder, fingerprint), _ = ran(start(hub, tmp_path, BOTH, **offline))
    assert folder.startswith("refused model: 'acme/tiny'") and "hf download acme/tiny" in folder
    assert fingerprint.startswith("refused") and not hub.asked
    settings = "model_folder('acme/tiny', weights=False); print(json.dumps(0))"
    ran(start(hub, tmp_path, settings))
    asked = len(hub.asked)  # nothing is without a network
    (folder, fingerprint), _ = ran(start(hub, tmp_path, BOTH, **offline))
    assert "lacks some of its files" in folder and fingerprint == f"hub:{FIRST}"
    assert len(hub.asked) == asked
    ran(start(hub, tmp_path, BOTH))
    (folder, _), _ = ran(start(hub, tmp_path, BOTH, **offline))
    assert (Path(folder) / "model.safetensors").is_file()


def test_a_token_opens_a_gated_model_and_is_never_said(hub: Hub, tmp_path: Path) -> None:
    hub.token = TOKEN
    (folder, fingerprint), said = ran(start(hub, tmp_path / "a", BOTH, HF_TOKEN=f"{TOKEN}x"))
    assert "access to 'acme/tiny' is denied (HTTP 403)" in folder and "HF_TOKEN_PATH" in folder
    assert fingerprint.startswith("refused") and TOKEN not in said
    file = tmp_path / "token"
    file.write_text(TOKEN)
    (folder, _), said = ran(start(hub, tmp_path / "b", BOTH, HF_TOKEN_PATH=str(file)))
    assert (Path(folder) / "model.safetensors").is_file() and TOKEN not in said


def test_a_fingerprint_of_a_run_of_yesterday_is_made_again_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    """Then all models were told by the bytes of their weights."""
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("config.json", "model.safetensors"):
        (plain / name).write_bytes(FILES[name])
    begun = f"model_fingerprint({str(plain)!r})"
    script = f"print(json.dumps([{begun}, told(lambda: fingerprint_like({begun}, 'acme/tiny', 'v1'))]))"
    (_, refused), _ = ran(start(hub, tmp_path, script))
    assert "hf download acme/tiny --revision v1" in refused and not hub.fetched("model.safetensors")
    (recorded, again), _ = ran(start(hub, tmp_path, "model_folder('acme/tiny', 'v1');" + script))
    assert recorded == again
