"""The models that a training leaves, as safetensors folders: the trained one, and one of a moment before."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.faults import pause_point
from cluster.storage import Storage
from workers.quantise.config import QUANTISED_FILE, QuantisedWeights
from workers.student.checkpoints.checkpoint import Checkpoints
from workers.student.config import LoraConfig
from workers.student.training.engine import whole_weights
from workers.student.training.job import SpecialistJob


class TrainedModels:
    """Writes a student's models, whole and from rank 0, whatever ZeRO stage and number of workers trains it."""

    def __init__(self, storage: Storage, job: SpecialistJob, lora: LoraConfig | None, checkpoints: Checkpoints) -> None:
        self._storage, self._job, self._lora, self._checkpoints = storage, job, lora, checkpoints

    def write_final(self, engine: Any, quantised: QuantisedWeights | None = None) -> None:
        """The trained model; with LoRA the adapter beside it. `quantised` are its weights that are on a lattice. A
        collective. Raises LeaseLost."""
        if state := whole_weights(engine):
            self._write(engine, state, self._job.layout.final, quantised, adapter=True)

    def write_snapshots(
        self, engine: Any, quantised: QuantisedWeights | None, step: int, tokens: int, kept: Sequence[str]
    ) -> None:
        """The model as it is after `step`, when it has seen `tokens`, in folders of these names: once, however often
        workers that were killed come to that step again. A collective, to be called before the step's checkpoint, so
        that a training that goes on from there has it. Raises LeaseLost."""
        layout = self._job.layout
        self._checkpoints.check()
        state = whole_weights(engine)
        for name in kept if state else ():
            if self._storage.exists(layout.snapshot_facts(name)):
                continue
            self._write(engine, state, layout.snapshot(name), quantised, adapter=False)
            pause_point("snapshot-files")
            self._checkpoints.check()
            self._storage.write(layout.snapshot_facts(name), json.dumps({"step": step, "tokens": tokens}).encode())
            pause_point("snapshot-facts")

    def _write(
        self, engine: Any, state: dict[str, Any], key: str, quantised: QuantisedWeights | None, *, adapter: bool
    ) -> None:
        """A model's folder at a key."""
        if self._lora is not None:
            state = self._merged(state, self._lora, adapter=adapter)
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
            engine.module.causal_lm.save_pretrained(folder, state_dict=state)
            if quantised is not None:
                Path(folder, QUANTISED_FILE).write_bytes(quantised.to_bytes())
            self._checkpoints.check()
            self._storage.delete(key)  # what a killed upload has left
            self._storage.upload_folder(Path(folder), key)

    def _merged(self, state: dict[str, Any], lora: LoraConfig, *, adapter: bool) -> dict[str, Any]:
        """The weights with the adapter in them; `adapter`: it is written by itself too."""
        from workers.student.models.lora import merge_adapters, save_adapter

        if adapter:
            with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
                save_adapter(state, lora, self._job.initial, Path(folder))
                self._checkpoints.check()
                self._storage.upload_folder(Path(folder), self._job.layout.adapter)
        return merge_adapters(state, lora)
