"""An exported file measured in the program that people run it with, beside the model that it was written of.

The model is held once, in float32: first as it is, then rounded in place to what the file should hold. The file runs
twice, in a process of its own, and logits are compared some positions at a time.

Legend: T target positions of a text, n some of them, H hidden size, V ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.evaluation.heldout.exact import Exact
from workers.export.artefact import Artefact
from workers.export.config import ExportConfig
from workers.export.formats import NO_TOKENIZER, RUNTIMES, differing_weights, stored_weights
from workers.export.running.runner import Runner
from workers.targets.reader import TargetRow
from workers.two_part_model import TwoPartModel

_PROMPT_TOKENS = 64
"""Of the beginning of the longest text, which speed is measured with; at most."""


@dataclass(frozen=True)
class Texts:
    """What a file is measured on."""

    rows: Sequence[TargetRow]
    """Held-out texts; what is compared are their target positions."""
    exact: Exact | None = None
    """The teacher's distributions at these positions, where there are any."""
    vocabulary: int | None = None
    """The tokenizer's ids; None: all that the model has."""


@torch.no_grad()
def measure(
    artefact: Artefact, path: Path, model: Path, tokenizer: Path, export: ExportConfig, texts: Texts
) -> Artefact:
    """An artefact with all that is measured of the file at `path`, which was written of a model folder.

    Raises ValueError if the runtime is not there, cannot load the file, or reads text as other ids than transformers
    does; RuntimeError if the file's weights are not the lattice's, or the runtime ends.
    """
    differing = differing_weights(export, model, path)
    if differing:
        raise RuntimeError(f"export: {differing:,} weights of {path.name} are not those of the model on its lattice")
    longest = max(len(row.tokens) for row in texts.rows)
    with Runner(RUNTIMES[export.format], path, threads=2, context=_context(longest)) as runner:
        same_ids = _require_same_ids(runner, tokenizer, export, texts)
        prompt_T = max((row.tokens for row in texts.rows), key=len)[:_PROMPT_TOKENS]
        timed = runner.speed(prompt_T)
        peak_mb = runner.peak_mb()
        loaded = _load(model)
        before = _compared(runner, loaded, texts, teacher=True)
        if export.copied:  # nothing is rounded
            after = before
        else:
            _round(loaded.model, export, model)
            after = _compared(runner, loaded, texts, teacher=False)
    tokens = sum(row.targets for row in texts.rows)
    return replace(
        artefact,
        weights_differing=differing,
        kl_teacher=before["teacher"] / tokens if texts.exact is not None else None,
        kl_float=before["kl"] / tokens,
        kl_fake_quant=after["kl"] / tokens,
        overconfidence=before["surer"] / tokens if texts.exact is not None else None,
        top1_agreement=before["agree"] / tokens,
        perplexity=float(np.exp(before["nll"] / tokens)),
        texts=len(texts.rows),
        tokens=tokens,
        peak_mb=peak_mb,
        same_ids=same_ids,
        first_token_ms=timed["first_token_ms"],
        tokens_per_s=timed["tokens_per_s"],
    )


def _context(longest: int) -> int:
    return -(-max(longest, _PROMPT_TOKENS + 64) // 256) * 256


def _load(model: Path) -> TwoPartModel:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True).eval()
    return TwoPartModel(loaded, "cpu")


def _round(loaded: Any, export: ExportConfig, model: Path) -> None:
    """Put what the file should hold in the place of a loaded model's weights."""
    own = dict(loaded.named_parameters())
    for name, weight in stored_weights(export, model):
        if name in own:
            own[name].copy_(weight)


def _compared(runner: Runner, loaded: TwoPartModel, texts: Texts, *, teacher: bool) -> dict[str, float]:
    """Sums over all target positions: KL(model || file), KL(teacher || file), agreement, -log q of the text, and by how
    much the file is surer of its likeliest token than the teacher."""
    total = dict.fromkeys(("kl", "teacher", "agree", "nll", "surer"), 0.0)
    for row in texts.rows:
        ids_1S = torch.from_numpy(row.tokens.astype(np.int64))[None]
        hidden_SH = loaded.body(ids_1S, torch.ones_like(ids_1S))[0]
        for positions, file_nV in _positions(runner, row):
            at = slice(positions.start + row.start - 1, positions.stop + row.start - 1)
            logq_nV = file_nV[:, : texts.vocabulary].log_softmax(-1)
            logp_nV = loaded.head(hidden_SH[at])[:, : texts.vocabulary].float().log_softmax(-1)
            labels_n1 = ids_1S[0, at.start + 1 : at.stop + 1, None]
            total["kl"] += _kl(logp_nV, logq_nV)
            total["agree"] += float((logp_nV.argmax(-1) == logq_nV.argmax(-1)).sum())
            total["nll"] -= float(logq_nV.gather(1, labels_n1).sum())
            if teacher and texts.exact is not None:
                teacher_nV = texts.exact(row, positions)
                total["teacher"] += _kl(teacher_nV, logq_nV)
                top_n1 = logq_nV.argmax(-1, keepdim=True)
                total["surer"] += float((logq_nV.gather(1, top_n1).exp() - teacher_nV.gather(1, top_n1).exp()).sum())
    return total


def _positions(runner: Runner, row: TargetRow) -> Iterator[tuple[slice, Tensor]]:
    """Target positions of a text that are known at once, from 0, and the file's logits [n, V] at them."""
    for place, logits in runner.pieces(row.tokens[:-1]):
        first = max(place.start, row.start - 1)
        if first < place.stop:
            at = slice(first - row.start + 1, place.stop - row.start + 1)
            yield at, torch.from_numpy(logits[first - place.start :])


def _kl(logp_nV: Tensor, logq_nV: Tensor) -> float:
    """Summed KL(p || q) over positions; ids that p excludes add nothing."""
    p_nV = logp_nV.exp()
    return float(torch.where(p_nV > 0, p_nV * (logp_nV - logq_nV), 0.0).sum(dtype=torch.float64))


def _require_same_ids(runner: Runner, tokenizer: Path, export: ExportConfig, texts: Texts) -> bool | None:
    """Whether a file reads text as transformers does; None where it holds no tokenizer. Raises ValueError if not."""
    if export.format != "gguf" or export.tokenizer == "none":
        return None
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    written = [own.decode(row.tokens) for row in texts.rows]
    for text, found in zip(written, runner.tokens(written), strict=True):
        if found != own(text)["input_ids"]:
            raise ValueError(
                f"export: gguf: llama.cpp reads a held-out text as other ids than transformers: {text[:80]!r}. "
                f"{NO_TOKENIZER}"
            )
    return True
