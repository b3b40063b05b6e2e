"""Scoring models on the held-out store: the loop that turns exact teacher distributions into per-token numbers.

Legend: B texts, S tokens, T target positions, V the tokenizer's ids.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.storage import Storage, open_storage
from workers.channels.board import Reporter
from workers.channels.events import ModelScored
from workers.evaluation.exact import Exact, ExactTargets, stored
from workers.evaluation.job import EvaluationJob, ModelToScore, Results
from workers.evaluation.metrics import TokenScores
from workers.evaluation.single_expert import TEXTS, favourite_experts, single_expert_model
from workers.evaluation.truth import Truth, load_truth, truth_kls, unigram_excess
from workers.manifest import Manifest, read_plan
from workers.model_files import torch_dtype
from workers.splits import HELDOUT, PROBES
from workers.targets.reader import TargetRow, rows_of
from workers.targets.store import TargetStore


@torch.no_grad()
def score_models(job: EvaluationJob) -> Results:
    """Score every model on its domains of the held-out store, and rank the probes' answers."""
    torch.set_num_threads(job.threads)
    storage = open_storage(job.run_uri)
    report = Reporter(job.board)
    truth = load_truth(job.truth)
    heldout = _rows_by_domain(storage, HELDOUT)
    probes = _rows_by_domain(storage, PROBES)
    store = TargetStore(storage, HELDOUT)
    vocabulary, exact = store.header.vocabulary, ExactTargets(store, job.device)
    results = Results({}, {"teacher": {d: [_stored_rank(r) for r in rows] for d, rows in probes.items()}}, {})
    for item in job.models:
        results.scores[item.name], results.probes[item.name] = {}, {}
        for domain, model in _loaded(item, storage, heldout, job.device):
            report(ModelScored(model=item.name, domain=domain))
            rows = heldout.get(domain, [])
            results.scores[item.name][domain] = score(model, rows, vocabulary, job.batch_tokens, domain, truth, exact)
            results.probes[item.name][domain] = [
                answer_rank(model, row.tokens, row.start, vocabulary) for row in probes.get(domain, [])
            ]
    if truth is not None:
        results.unigram = {d: unigram_excess(storage, d, rows, truth, vocabulary, exact) for d, rows in heldout.items()}
    return results


def score(
    model: Any,
    rows: list[TargetRow],
    vocabulary: int,
    batch_tokens: int,
    domain: str,
    truth: Truth | None,
    exact: Exact = stored,
) -> TokenScores:
    """What a model does at each target position of held-out rows, whose distributions `exact` gives."""
    names = {p: i for i, p in enumerate(dict.fromkeys(r.prompt_uid for r in rows))}
    fields: dict[str, list[np.ndarray]] = {n: [] for n in TokenScores.__dataclass_fields__}
    for row, logits_TV in _logits(model, rows, vocabulary, batch_tokens):
        q_TV = logits_TV.float().log_softmax(-1)
        t_TV = exact(row).to(q_TV.device)
        top_T1 = q_TV.argmax(-1, keepdim=True)
        labels_T1 = torch.from_numpy(row.tokens[row.start :].astype(np.int64)).to(q_TV.device)[:, None]
        values = {
            "kl": (t_TV.exp() * (t_TV - q_TV)).sum(-1),
            "agree": (t_TV.argmax(-1, keepdim=True) == top_T1)[:, 0].float(),
            "nll": -q_TV.gather(1, labels_T1)[:, 0],
            "confidence": q_TV.gather(1, top_T1)[:, 0].exp(),
            "teacher_at_top": t_TV.gather(1, top_T1)[:, 0].exp(),
        }
        for name, value in values.items():
            fields[name].append(value.cpu().numpy().astype(np.float64))
        student, teacher = truth_kls(truth, domain, row, q_TV.cpu().numpy(), t_TV.cpu().numpy())
        fields["truth_kl"].append(student)
        fields["truth_teacher_kl"].append(teacher)
        fields["prompt"].append(np.full(row.targets, names[row.prompt_uid]))
    return TokenScores(**{n: np.concatenate(v) for n, v in fields.items()})


def answer_rank(model: Any, tokens: np.ndarray, start: int, vocabulary: int) -> dict[str, float]:
    """Rank (1 is the most probable) and probability that a model gives the token at `start`."""
    ids_1S = torch.from_numpy(tokens[:start].astype(np.int64))[None].to(model.device)
    q_V = model(input_ids=ids_1S, use_cache=False).logits[0, -1, :vocabulary].float().softmax(-1)
    answer = int(tokens[start])
    return {"rank": int((q_V > q_V[answer]).sum()) + 1, "probability": float(q_V[answer])}


def _stored_rank(row: TargetRow) -> dict[str, float]:
    """Rank and probability that the teacher itself gives a probe's answer."""
    assert row.logprobs is not None
    logp_V, answer = row.logprobs[0], int(row.tokens[row.start])
    return {"rank": int((logp_V > logp_V[answer]).sum()) + 1, "probability": float(np.exp(logp_V[answer]))}


def _logits(
    model: Any, rows: list[TargetRow], vocabulary: int, batch_tokens: int
) -> Iterator[tuple[TargetRow, torch.Tensor]]:
    """Each row with its logits at target positions [T, V], batched by length; in the order of the rows' batches."""
    ordered = sorted(rows, key=lambda r: (-len(r.tokens), r.prompt_uid))
    while ordered:
        n = max(1, min(len(ordered), batch_tokens // len(ordered[0].tokens)))
        batch, ordered = ordered[:n], ordered[n:]
        S = len(batch[0].tokens)
        ids_BS, mask_BS = np.zeros((n, S), np.int64), np.zeros((n, S), np.int64)
        for b, row in enumerate(batch):
            ids_BS[b, : len(row.tokens)], mask_BS[b, : len(row.tokens)] = row.tokens, 1
        out = model(
            input_ids=torch.from_numpy(ids_BS).to(model.device),
            attention_mask=torch.from_numpy(mask_BS).to(model.device),
            use_cache=False,
        )
        for b, row in enumerate(batch):
            yield row, out.logits[b, row.start - 1 : len(row.tokens) - 1, :vocabulary]


def _rows_by_domain(storage: Storage, split: str) -> dict[str, list[TargetRow]]:
    """All committed rows of a split by domain (a row of two domains is in both); empty where there is no such split."""
    try:
        plan = read_plan(storage, split)
    except FileNotFoundError:
        return {}
    store, manifest = TargetStore(storage, split), Manifest(storage, split)
    rows: dict[str, list[TargetRow]] = {}
    for unit in plan.units:
        entry = store.log.entry(unit.index)
        if entry is None:
            raise ValueError(
                f"evaluate: unit {unit.index} of the {split} store is not captured yet; run `stillhouse capture` first"
            )
        domains = {p.id: p.domains for p in manifest.prompts(unit.index)}
        for row in rows_of(
            store.read_or_mark(entry, "evaluate", "stillhouse evaluate CONFIG"), store.header, entry.teacher
        ):
            for domain in domains[row.prompt_uid]:
                rows.setdefault(domain, []).append(row)
    return rows


def _loaded(
    item: ModelToScore, storage: Storage, heldout: dict[str, list[TargetRow]], device: str
) -> Iterator[tuple[str, Any]]:
    """(domain, model) pairs: one model for all domains, or a single-expert teacher for each."""
    from transformers import AutoModelForCausalLM

    dtype = torch_dtype("auto", device)
    if item.kind == "stored":
        with _local_folder(storage, item.source) as folder:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        for domain in item.domains:
            yield domain, model
        return
    texts = {domain: [row.tokens for row in heldout.get(domain, [])[:TEXTS]] for domain in item.domains}
    for domain, keep in favourite_experts(item.source, item.revision, texts, dtype, device).items():
        yield domain, single_expert_model(item.source, item.revision, keep, dtype, device)


@contextmanager
def _local_folder(storage: Storage, key: str) -> Iterator[Path]:
    local = storage.local_path(key)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        storage.download_folder(key, Path(folder))
        yield Path(folder)
