"""One export: what its process is given, and what it does.

A file is written below a temporary folder of this machine, measured there, and only then put where it belongs; the list
of its files goes last, so that a killed export leaves nothing that looks whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.storage import Storage, local_folder, open_storage
from workers.export.artefact import RECORD, SUMS, Artefact, digest_of, seal, weight_bytes
from workers.export.config import ExportConfig
from workers.export.formats import RUNTIMES, Named, why_not, write
from workers.fingerprint import hash_json
from workers.model_files import read_model_config
from workers.quantise.config import QuantisedWeights
from workers.splits import HELDOUT


@dataclass(frozen=True)
class ExportJob:
    """A model to be written in one format. Folders of a store are its URI and a key."""

    store: str
    source: str
    """Key of the model's folder."""
    target: str
    """Key of the folder that is written."""
    tokenizer: str
    """Folder of this machine with the tokenizer's files."""
    name: str
    export: dict[str, Any]
    """Settings, as JSON values."""
    card: str
    base: str | None = None
    """Name of the model that its weights began as."""
    licence: str | None = None
    """Of that model, where its card states one."""
    domain: str | None = None
    """Domain of the run at `store` whose held-out texts it is measured on; None: of `texts`."""
    texts: str | None = None
    """A file of this machine with text to measure on."""
    version: str = ""
    """What tells this model from others that were exported before."""

    @property
    def stamp(self) -> str:
        """What an export that is there already must have been made with."""
        kept = {k: v for k, v in asdict(self).items() if k not in ("store", "tokenizer", "card", "texts")}
        return str(hash_json(kept))


def done(storage: Storage, job: ExportJob) -> Artefact | None:
    """What is known of the export if it is there already, whole and of the same model."""
    found = artefact_at(storage, job.target)
    return found if found is not None and found.stamp == job.stamp else None


def artefact_at(storage: Storage, key: str) -> Artefact | None:
    """What is known of the export in a folder of a store; None where there is no whole one."""
    if not (storage.exists(f"{key}/{SUMS}") and storage.exists(f"{key}/{RECORD}")):
        return None
    return Artefact.from_dict(json.loads(storage.read(f"{key}/{RECORD}")))


def run_apart(job: ExportJob) -> Artefact:
    """Export in a process of its own, whose memory and libraries are gone with it.

    Raises ValueError for what the format or the runtime cannot do, RuntimeError for an export that failed.
    """
    finished = subprocess.run(
        [sys.executable, "-P", "-m", "workers.export.job"],
        input=json.dumps(asdict(job)).encode(),
        stdout=subprocess.PIPE,
        env={**os.environ, "TQDM_DISABLE": "1"},  # bars of loading
    )
    lines = finished.stdout.decode().splitlines()
    if finished.returncode or not lines:
        raise RuntimeError(f"export: the process that writes {job.target} ended ({finished.returncode})")
    said = json.loads(lines[-1])
    if "error" in said:
        raise (ValueError if said["wrong"] else RuntimeError)(said["error"])
    return Artefact.from_dict(said)


def run(job: ExportJob) -> Artefact:
    """Write, measure and put away one export."""
    storage = open_storage(job.store)
    with ExitStack() as stack:
        model = stack.enter_context(local_folder(storage, job.source))
        if not (model / "config.json").exists():
            raise ValueError(f"export: there is no model at {job.store}/{job.source}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stillhouse-export-")))
        export = ExportConfig.model_validate(job.export).of_model(QuantisedWeights.of_folder(model))
        tokenizer = Path(job.tokenizer)
        if (reason := why_not(export, read_model_config(model), tokenizer)) is not None:
            raise ValueError(f"export: {export.format}: {reason}")
        path = write(export, model, tokenizer, folder, Named(job.name, job.licence, job.base))
        artefact = Artefact(
            format=_format(export, model),
            path=job.target if path == folder else f"{job.target}/{path.name}",
            bytes=weight_bytes(path),
            sha256=digest_of(path),
            runtime=RUNTIMES[export.format],
            stamp=job.stamp,
        )
        if export.measure and (job.domain is not None or job.texts is not None):
            artefact = _measured(artefact, path, model, tokenizer, export, job)
        seal(folder, artefact, job.card)
        _put(storage, folder, job.target)
    return artefact


def _measured(
    artefact: Artefact, path: Path, model: Path, tokenizer: Path, export: ExportConfig, job: ExportJob
) -> Artefact:
    from workers.export.measuring import measure
    from workers.export.texts import heldout_texts, texts_of_file

    if job.domain is not None:
        texts = heldout_texts(open_storage(job.store), HELDOUT, job.domain, export.measure)
    else:
        texts = texts_of_file(Path(str(job.texts)), tokenizer, export.measure)
    return measure(artefact, path, model, tokenizer, export, texts)


def _format(export: ExportConfig, model: Path) -> str:
    if export.format == "gguf":
        return f"gguf {export.linear_type}"
    if export.format == "safetensors":
        return f"safetensors {export.dtype or read_model_config(model).get('dtype')}"
    return "compressed-tensors w4a16"


def _put(storage: Storage, folder: Path, target: str) -> None:
    """A folder in the place of what was there; the list of its files is written last."""
    sums = (folder / SUMS).read_bytes()
    (folder / SUMS).unlink()
    storage.delete(target)
    storage.upload_folder(folder, target)
    storage.write(f"{target}/{SUMS}", sums)


def main() -> None:
    """The process: a job comes in, an artefact or an error goes out, as JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        said = run(ExportJob(**json.load(sys.stdin))).to_dict()
    except (ValueError, RuntimeError) as error:
        said = {"error": str(error), "wrong": isinstance(error, ValueError)}
    print(json.dumps(said), file=out, flush=True)


if __name__ == "__main__":
    main()
