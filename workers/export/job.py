"""One export: what its process is given, and what it does.

A file is written below a temporary folder of this machine, measured there, and only then put where it belongs; a
plain copy of a run's model is made by the store, and measured where it lies. The list of the files goes last, so that a
killed export leaves nothing that looks whole.
"""

from __future__ import annotations

import hashlib
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
from workers.export.artefact import CARD, RECORD, SUMS, Artefact, card_of, digest_of, seal_of, weight_bytes
from workers.export.config import ExportConfig
from workers.export.formats import RUNTIMES, Named, why_not, why_not_here, write
from workers.export.safetensors_folder import copy_model
from workers.fetching.folder import model_folder
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
    """The model whose tokenizer it has: a folder, a Hugging Face id, or s3://bucket/folder."""
    name: str
    export: dict[str, Any]
    """Settings, as JSON values."""
    card: str
    base: str | None = None
    """Name of the model that its weights began as."""
    licence: str | None = None
    """That is passed on, where one is known."""
    domain: str | None = None
    """Domain of the run at `store` whose held-out texts it is measured on; None: of `texts`."""
    texts: str | None = None
    """A file of this machine with text to measure on."""
    version: str = ""
    """What tells this model from others that were exported before."""
    tokenizer_revision: str | None = None
    """Of a Hugging Face id."""

    @property
    def stamp(self) -> str:
        """What an export that is there already must have been made with."""
        other = ("store", "tokenizer", "tokenizer_revision", "card", "texts")
        return str(hash_json({k: v for k, v in asdict(self).items() if k not in other}))


def done(storage: Storage, job: ExportJob) -> Artefact | None:
    """What is known of the export if it is there already, whole and of the same model. Its card becomes the job's."""
    found = artefact_at(storage, job.target)
    if found is None or found.stamp != job.stamp:
        return None
    _renew_card(storage, job, found)
    return found


def _renew_card(storage: Storage, job: ExportJob, found: Artefact) -> None:
    """A card with newer scores is put in the place of an earlier one, and its digest into the list."""
    card, at = card_of(found, job.card), f"{job.target}/{CARD}"
    if storage.exists(at) and storage.read(at) == card:
        return
    sums = f"{job.target}/{SUMS}"
    lines = storage.read(sums).decode().splitlines()
    storage.delete(sums)  # between card and list nothing is whole
    storage.write(at, card)
    digest = hashlib.sha256(card).hexdigest()
    renewed = [f"{digest}  {CARD}" if line.endswith(f"  {CARD}") else line for line in lines]
    storage.write(sums, "".join(f"{line}\n" for line in renewed).encode())


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
    return artefact_of(json.loads(lines[-1]))


def run(job: ExportJob) -> Artefact:
    """Write, measure and put away one export."""
    storage, export = open_storage(job.store), ExportConfig.model_validate(job.export)
    if not storage.exists(f"{job.source}/config.json"):
        raise ValueError(f"export: there is no model at {job.store}/{job.source}")
    if (reason := why_not_here(export)) is not None:
        raise ValueError(f"export: {export.format}: {reason}")
    tokenizer = model_folder(job.tokenizer, job.tokenizer_revision, weights=False)
    return (_copy if export.copied and job.domain is not None else _convert)(storage, job, export, tokenizer)


def _convert(storage: Storage, job: ExportJob, export: ExportConfig, tokenizer: Path) -> Artefact:
    with ExitStack() as stack:
        model = stack.enter_context(local_folder(storage, job.source))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stillhouse-export-")))
        export = export.of_model(QuantisedWeights.of_folder(model))
        if (reason := why_not(export, read_model_config(model), tokenizer)) is not None:
            raise ValueError(f"export: {export.format}: {reason}")
        path = write(export, model, tokenizer, folder, Named(job.name, job.licence, job.base))
        artefact = _measured(_written(job, export, path), path, model, tokenizer, export, job)
        *made, (_, sums) = seal_of(folder, artefact, job.card).items()
        for name, data in made:
            (folder / name).write_bytes(data)
        storage.delete(job.target)
        storage.upload_folder(folder, job.target)
        storage.write(f"{job.target}/{SUMS}", sums)
    return artefact


def _copy(storage: Storage, job: ExportJob, export: ExportConfig, tokenizer: Path) -> Artefact:
    storage.delete(job.target)
    copy_model(storage, job.source, job.target, tokenizer)
    with ExitStack() as stack:
        path = stack.enter_context(local_folder(storage, job.target))
        model = stack.enter_context(local_folder(storage, job.source)) if export.measure else path
        artefact = _measured(_written(job, export, path), path, model, tokenizer, export, job)
        sealed = seal_of(path, artefact, job.card)
    for name, data in sealed.items():
        storage.write(f"{job.target}/{name}", data)
    return artefact


def _written(job: ExportJob, export: ExportConfig, path: Path) -> Artefact:
    """What is known of a file, or a folder, before it is measured."""
    return Artefact(
        format=_format(export, path),
        path=job.target if path.is_dir() else f"{job.target}/{path.name}",
        bytes=weight_bytes(path),
        sha256=digest_of(path),
        runtime=RUNTIMES[export.format],
        stamp=job.stamp,
    )


def _measured(
    artefact: Artefact, path: Path, model: Path, tokenizer: Path, export: ExportConfig, job: ExportJob
) -> Artefact:
    """With all that is measured of it. A plain copy is right without held-out texts too, and is then not measured."""
    if not export.measure or (job.domain is None and job.texts is None):
        return artefact
    from workers.export.measuring import measure
    from workers.export.texts import NoTexts, heldout_texts, texts_of_file

    try:
        if job.domain is not None:
            texts = heldout_texts(open_storage(job.store), HELDOUT, job.domain, export.measure)
        else:
            texts = texts_of_file(Path(str(job.texts)), tokenizer, export.measure)
    except NoTexts:
        if export.copied:
            return artefact
        raise
    return measure(artefact, path, model, tokenizer, export, texts)


def _format(export: ExportConfig, path: Path) -> str:
    if export.format == "gguf":
        return f"gguf {export.linear_type}"
    if export.format == "safetensors":
        return f"safetensors {export.dtype or read_model_config(path).get('dtype')}"
    return "compressed-tensors w4a16"


def answer(job: ExportJob) -> dict[str, Any]:
    """What becomes of an export, as JSON values that any process can read: an artefact's, or an `error` and whether the
    request was `wrong`."""
    try:
        return run(job).to_dict()
    except (ValueError, RuntimeError) as error:
        return {"error": str(error), "wrong": isinstance(error, ValueError)}


def artefact_of(said: dict[str, Any]) -> Artefact:
    """The artefact of an answer. Raises ValueError for what was wrong, RuntimeError for an export that failed."""
    if "error" in said:
        raise (ValueError if said["wrong"] else RuntimeError)(said["error"])
    return Artefact.from_dict(said)


def main() -> None:
    """The process: a job comes in, an answer goes out, as JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(answer(ExportJob(**json.load(sys.stdin)))), file=out, flush=True)


if __name__ == "__main__":
    main()
