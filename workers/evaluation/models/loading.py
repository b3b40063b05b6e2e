"""A model that is scored, from where it lies, or made of the teacher."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from cluster.storage import Storage, local_folder
from workers.evaluation.cost import RoundedWeights
from workers.evaluation.heldout.rows import CommittedRows
from workers.evaluation.heldout.truth import unigram_counts
from workers.evaluation.job import ModelToScore
from workers.evaluation.models.four_bit import round_to_4_bit
from workers.evaluation.models.single_expert import TEXTS, favourite_experts, single_expert_model
from workers.fetching.folder import model_folder
from workers.manifest import read_plan
from workers.model_files import torch_dtype
from workers.quantise.layers import round_weights
from workers.splits import HELDOUT
from workers.two_part_model import TwoPartModel


class Models:
    """Loads what is scored, one model at a time."""

    def __init__(self, storage: Storage, heldout: CommittedRows, device: Literal["cpu", "cuda"]) -> None:
        self._storage, self._heldout, self._device = storage, heldout, device
        self._kept: dict[str, dict[int, int]] | None = None
        self.rounded: RoundedWeights | None = None
        """Of the loaded model, where its weights were rounded."""

    def load(self, model: ModelToScore) -> Any:
        """A TwoPartModel; of a unigram its counts [V], of the teacher by its probes' store nothing."""
        if model.kind == "teacher":
            return None
        if model.kind == "unigram":
            return unigram_counts(self._storage, model.domains[0], self._heldout.store.header.vocabulary)
        device = self._device
        dtype = torch_dtype("auto", device)
        if model.kind in ("stored", "milestone", "ptq"):
            with local_folder(self._storage, model.source) as folder:
                whole = _from_folder(folder, dtype, device)
            if model.rounding is not None:
                round_weights(whole, model.rounding)
            return TwoPartModel(whole, device)
        if model.kind in ("folder", "whole_teacher", "teacher_4bit"):
            folder = model_folder(model.source, model.revision)
            whole = _from_folder(folder, dtype, device, trust_remote_code=model.trust_remote_code)
            self.rounded = round_to_4_bit(whole) if model.kind == "teacher_4bit" else None
            return TwoPartModel(whole, device)
        keep = self._favourites(model, dtype)[model.domains[0]]
        return TwoPartModel(single_expert_model(model.source, model.revision, keep, dtype, device), device)

    def _favourites(self, model: ModelToScore, dtype: torch.dtype) -> dict[str, dict[int, int]]:
        """The experts that each domain favours, of all domains at once: the teacher is read from end to end for it."""
        if self._kept is None:
            domains = read_plan(self._storage, HELDOUT).domains
            texts = {d: [row.tokens for row in islice(self._heldout.all_rows(d), TEXTS)] for d in domains}
            self._kept = favourite_experts(model.source, model.revision, texts, dtype, self._device)
        return self._kept


def _from_folder(folder: Path, dtype: torch.dtype, device: str, *, trust_remote_code: bool = False) -> Any:
    """A model in evaluation mode. Each tensor goes from its file right to the device."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map=device, trust_remote_code=trust_remote_code
    ).eval()
