"""One stored text with the distribution at each of its positions: as it is stored, and from the teacher itself.

Legend (see workers/targets/encoding/schema.py): S tokens, T target positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.model_cache import use_model_cache
from orchestrator.stores.choice import choose_text
from orchestrator.stores.opening import OpenTargets
from workers.fetching.folder import model_folder
from workers.fingerprint import fingerprint_like, tokenizer_fingerprint
from workers.targets.encoding.arrays import UnitTargets
from workers.targets.encoding.schema import StoreHeader
from workers.targets.reader import rows_of
from workers.teacher.config import TeacherConfig
from workers.token_text import Pieces


@dataclass(frozen=True)
class Question:
    """What `targets show` is asked."""

    unit: int | None = None
    prompt: str | None = None
    sample: int | None = None
    limit: int = 24
    """Target positions at most."""
    exact: bool = False
    temperature: float | None = None
    """Of exact distributions; None is that of the capture."""
    top: int = 8


def show_text(source: OpenTargets, question: Question) -> dict[str, Any]:
    """A text and its positions as plain data. Raises ValueError for a question that has no honest answer."""
    header = source.store.header
    text = choose_text(source, question.unit, question.prompt, question.sample)
    _check_temperature(question, header, text.targets.temperature)
    config = source.run.located_config()
    use_model_cache(config.cluster.model_cache)
    targets, teacher = text.targets, config.teachers[text.entry.teacher]
    folder = model_folder(teacher.model, teacher.revision, weights=question.exact and header.sampled)
    if tokenizer_fingerprint(folder) != header.tokenizer:
        raise ValueError(f"targets: the tokenizer of {teacher.model!r} is not the one that made these targets")
    pieces = Pieces(folder)
    start, length = int(targets.starts[0]), int(targets.lengths[0])
    shown = range(start, min(length, start + question.limit))
    temperature = question.temperature or targets.temperature
    if header.sampled:
        stored = _sampled(targets, header, len(shown), pieces)
    else:
        logits_TV = _exact_logprobs(source, targets, text.entry.teacher, len(shown))
        stored = _dense(logits_TV, targets.temperature / temperature, targets, question.top, pieces)
    notes, exact = [], []
    if question.exact and header.sampled:
        begun = str(header.teachers[text.entry.teacher]["fingerprint"])
        if fingerprint_like(begun, teacher.model, teacher.revision) != begun:
            notes.append(f"the teacher at {folder} has changed since: what it says now is not what was sampled")
        logits_TV = teacher_logits(teacher, targets.tokens[: shown.stop], start, header.vocabulary)
        exact = _dense(logits_TV, 1 / temperature, targets, question.top, pieces)
    positions = []
    for t, position in enumerate(shown):
        token = int(targets.tokens[position])
        behind = pieces.after(int(targets.tokens[position - 1]), token)
        own = {"position": position, "token": [token, pieces.text(token)], "behind": behind, "stored": stored[t]}
        positions.append(own | ({"exact": exact[t]} if exact else {}))
    return {
        **source.facts(),
        "unit": text.entry.unit,
        "domains": source.domains_of(text.entry.unit),
        "teacher": text.entry.teacher,
        "prompt_uid": targets.prompt_uids[0],
        "sample": int(targets.samples[0]),
        "text": targets.texts[0],
        "target_byte": int(targets.ends[start - 1]),
        "tokens": length,
        "start": start,
        "scheme": header.scheme,
        "always": [pieces.text(i) for i in header.always],
        "sampled": header.sampled,
        "temperature": temperature,
        "positions": positions,
        "top": question.top,
        "notes": notes,
    }


def _exact_logprobs(source: OpenTargets, targets: UnitTargets, teacher: str, positions: int) -> np.ndarray:
    """Log-probabilities [T, V] of the first positions, of a `full` store or a `hidden` one."""
    header = source.store.header
    if header.scheme == "full":
        return targets.logprobs.reshape(-1, header.vocabulary)[:positions]
    from workers.targets.heads import TeacherHead

    [row] = rows_of(targets, header)
    assert row.hidden is not None
    head = TeacherHead.from_bytes(source.run.storage.read(source.store.head_key(teacher))).on("cpu")
    return head.log_probabilities(row.hidden[:positions], header.precision, targets.temperature).numpy()


def teacher_logits(teacher: TeacherConfig, tokens_S: np.ndarray, start: int, vocabulary: int) -> np.ndarray:
    """The teacher's own logits [T, V], float32, at the tokens from `start` on; loads it in this process."""
    import torch
    from transformers.utils import logging

    from workers.teacher.engines.loading import load_teacher

    logging.disable_progress_bar()
    model = load_teacher(teacher)
    with torch.no_grad():
        ids_1S = torch.from_numpy(tokens_S.astype(np.int64))[None]
        logits_SV = model(input_ids=ids_1S, use_cache=False).logits[0]
    return logits_SV[start - 1 : len(tokens_S) - 1, :vocabulary].float().numpy()


def _check_temperature(question: Question, header: StoreHeader, captured: float) -> None:
    if question.temperature is None:
        return
    if question.temperature <= 0:
        raise ValueError(f"--temperature {question.temperature:g}: must be more than 0")
    if header.sampled and not question.exact:
        raise ValueError(
            f"--temperature {question.temperature:g}: the stored weights are a sample at temperature {captured:g}, "
            "and biased at any other: a tail that is not kept cannot be made heavier. Add --exact to ask the teacher"
        )


def _sampled(targets: UnitTargets, header: StoreHeader, positions: int, pieces: Pieces) -> list[dict[str, Any]]:
    """Every kept id of the first positions with its weight, heaviest first."""
    [row] = rows_of(targets, header)
    ends_T, found = np.cumsum(row.num_kept.astype(np.int64)), []
    for t in range(positions):
        span = slice(int(ends_T[t]) - int(row.num_kept[t]), int(ends_T[t]))
        ids, weights = row.ids[span], row.weights[span]
        order = np.lexsort((ids, -weights))
        own = {
            "entropy": float(row.entropy[t]),
            "token_logprob": float(row.token_logprob[t]),
            "ids": [[int(ids[i]), pieces.text(int(ids[i])), float(weights[i])] for i in order],
        }
        found.append(own | ({"tail": float(row.tail[t])} if len(row.tail) else {}))
    return found


def _dense(
    logits_TV: np.ndarray, factor: float, targets: UnitTargets, top: int, pieces: Pieces
) -> list[dict[str, Any]]:
    """The most probable ids of the first positions, from logits (or log-probabilities) times a factor."""
    tokens, found = targets.tokens[int(targets.starts[0]) :], []
    for t, logits_V in enumerate(logits_TV):
        z_V = logits_V.astype(np.float64) * factor
        logp_V = z_V - z_V.max()
        logp_V -= np.log(np.exp(logp_V).sum())
        p_V = np.exp(logp_V)
        best = np.argsort(-p_V, kind="stable")[:top]
        found.append(
            {
                "entropy": float(-(p_V[p_V > 0] * logp_V[p_V > 0]).sum()),
                "token_logprob": float(logp_V[tokens[t]]),
                "ids": [[int(i), pieces.text(int(i)), float(p_V[i])] for i in best],
            }
        )
    return found
