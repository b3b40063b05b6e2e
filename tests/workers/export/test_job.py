"""An export in its process: what a kill leaves, and what is told of a wrong one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.servers.s3_servers import reached_at

from cluster.storage import join, open_storage
from workers.export.artefact import SUMS, Artefact, sha256_of
from workers.export.job import ExportJob, artefact_at, done, run, run_apart
from workers.quantise.config import QUANTISED_FILE, QuantisedWeights
from workers.quantise.lattice import on_lattice


@pytest.fixture
def job(exported_model: Callable[[str], Path], tmp_path: Path) -> ExportJob:
    pytest.importorskip("gguf")
    settings = {"format": "gguf", "tokenizer": "none", "measure": 0}
    source = str(exported_model("llama"))
    return ExportJob(str(tmp_path), source, "out", source, "small", settings, "# A card\n", "its base", "mit")


def test_a_killed_export_leaves_nothing_that_looks_whole(job: ExportJob, tmp_path: Path) -> None:
    storage, marks = open_storage(job.store), tmp_path / "marks"
    marks.mkdir()
    asked = {"STILLHOUSE_PAUSE_AT": "file-uploaded:2", "STILLHOUSE_PAUSE_DIR": str(marks)}
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.export.job"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **asked},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(job)).encode())
    process.stdin.close()
    deadline = time.monotonic() + 120
    while not list(marks.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(list((tmp_path / "out").iterdir())) >= 2, "some files are there"
    assert artefact_at(storage, "out") is None and done(storage, job) is None
    artefact = run_apart(job)
    assert artefact_at(storage, "out") == done(storage, job) == artefact
    assert done(storage, replace(job, version="another")) is None
    assert done(storage, replace(job, card="another")) == artefact, "a card is no reason to write weights again"


def test_what_is_put_away(job: ExportJob, tmp_path: Path) -> None:
    artefact = run_apart(job)
    folder = tmp_path / "out"
    assert artefact == Artefact.from_dict(json.loads((folder / "artefact.json").read_text()))
    assert artefact.path == "out/small-q4_0.gguf" and artefact.runtime == "llama.cpp" and artefact.within_gate is None
    assert artefact.sha256 == sha256_of(folder / "small-q4_0.gguf")
    card = (folder / "README.md").read_text()
    assert card.startswith("# A card\n") and artefact.sha256 in card and "It was not measured." in card
    listed = dict(reversed(line.split("  ")) for line in (folder / SUMS).read_text().splitlines())
    assert listed == {p.name: sha256_of(p) for p in folder.iterdir() if p.name != SUMS}
    again = run_apart(replace(job, target="second"))
    assert again.sha256 == artefact.sha256, "the same model makes the same file"


def test_errors_come_out_of_the_process(job: ExportJob, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no model at"):
        run_apart(replace(job, source=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="tokenizer"):
        run_apart(replace(job, export={"format": "gguf", "measure": 0}))
    assert not (tmp_path / "out").exists()


def test_a_file_of_text_is_measured_on(job: ExportJob, exported_model: Callable[[str], Path], tmp_path: Path) -> None:
    """In transformers, whose own folder it is: what the runtime adds is nothing, what bfloat16 costs is little."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(320)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(tmp_path / "tokenizer")
    ids = np.random.default_rng(0).integers(1, 320, 300)
    (tmp_path / "text").write_text(" ".join(f"w{i}" for i in ids))
    settings = {"format": "safetensors", "dtype": "bfloat16", "measure": 1}
    texts = str(tmp_path / "text")
    artefact = run_apart(replace(job, export=settings, tokenizer=str(tmp_path / "tokenizer"), texts=texts))
    assert (artefact.texts, artefact.tokens, artefact.weights_differing) == (1, 255, 0)
    assert artefact.kl_teacher is artefact.overconfidence is None
    assert artefact.kl_float is not None and artefact.kl_fake_quant is not None
    assert artefact.kl_fake_quant < 1e-6 < artefact.kl_float and artefact.within_gate
    assert artefact.perplexity is not None and artefact.perplexity > 100
    card = (tmp_path / "out" / "README.md").read_text()
    assert "on 255 positions of 1 held-out texts" in card and "| weights that differ" in card


def test_a_model_that_was_trained_on_a_lattice_is_written_as_it_is(
    job: ExportJob, exported_model: Callable[[str], Path], tmp_path: Path
) -> None:
    """Nothing is rounded once more: no weight of the file differs from the model's own."""
    gguf = pytest.importorskip("gguf")
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(exported_model("qwen3"), tmp_path / "trained")
    weights = load_file(folder / "model.safetensors")
    on = {name: "q8_0" for name, weight in weights.items() if weight.dim() == 2 and "embed" not in name}
    on = {name: form for name, form in on.items() if "lm_head" not in name and "down_proj" not in name}
    save_file(
        {n: on_lattice(w, "q8_0") if n in on else w for n, w in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    (folder / QUANTISED_FILE).write_bytes(QuantisedWeights("q8_0", None, ("down_proj",), on).to_bytes())
    settings = {"format": "gguf", "tokenizer": "none", "measure": 0}
    artefact = run_apart(replace(job, source=str(folder), export=settings))
    assert artefact.format == "gguf q8_0" and artefact.path == "out/small-q8_0.gguf"
    written = {
        t.name: torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).copy()).reshape(*reversed(t.shape.tolist()))
        for t in gguf.GGUFReader(tmp_path / artefact.path).tensors
    }
    trained = load_file(folder / "model.safetensors")
    for i, layer in ((i, f"model.layers.{i}.") for i in range(2)):
        assert torch.equal(written[f"blk.{i}.attn_q.weight"], trained[f"{layer}self_attn.q_proj.weight"])
        assert torch.equal(written[f"blk.{i}.ffn_down.weight"], trained[f"{layer}mlp.down_proj.weight"])
    assert torch.equal(written["token_embd.weight"], trained["model.embed_tokens.weight"].half().float())


def test_an_export_of_a_store_on_s3(
    job: ExportJob, exported_model: Callable[[str], Path], moto_endpoint: str, tmp_path: Path
) -> None:
    """The model comes down, the files go up, and those of an earlier export are gone."""
    with reached_at(moto_endpoint) as bucket:
        uri = join(bucket, uuid.uuid4().hex)
        storage = open_storage(uri)
        storage.upload_folder(exported_model("llama"), "students/a/final")
        storage.write("exports/a.gguf/old.gguf", b"of an earlier export")
        artefact = run(replace(job, store=uri, source="students/a/final", target="exports/a.gguf"))
        assert artefact_at(storage, "exports/a.gguf") == artefact
        names = ("README.md", SUMS, "artefact.json", "small-q4_0.gguf")
        assert storage.keys("exports/a.gguf") == sorted(f"exports/a.gguf/{name}" for name in names)
        assert storage.size(artefact.path) == artefact.bytes
        plain = {"format": "safetensors", "measure": 0}
        asked = replace(job, store=uri, source="students/a/final", target="exports/a", export=plain, domain="medical")
        storage.write("exports/a/old.safetensors", b"of an earlier export")
        copied = run(asked)
        assert copied == artefact_at(storage, "exports/a") == done(storage, asked)
        assert storage.read("exports/a/model.safetensors") == storage.read("students/a/final/model.safetensors")
        listed = [line.split("  ")[1] for line in storage.read(f"exports/a/{SUMS}").decode().splitlines()]
        assert sorted([*(f"exports/a/{name}" for name in listed), f"exports/a/{SUMS}"]) == storage.keys("exports/a")
