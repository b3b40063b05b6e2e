"""One process that scores models: each task is a model and units, whose scores are committed unit by unit.

It holds one model, the teachers' heads and one unit, whatever the store holds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cluster.faults import pause_point
from cluster.storage import local_folder, open_storage
from workers.channels.board import Reporter
from workers.channels.events import Message, ModelScored
from workers.evaluation.bridges.comparing import compare_bridges
from workers.evaluation.bridges.finding import find_bridges
from workers.evaluation.bridges.texts import BridgeTexts
from workers.evaluation.bridges.writing import Question, Writer, questions_of
from workers.evaluation.harness.answers import answers_to_bytes as harness_to_bytes
from workers.evaluation.heldout.exact import ExactTargets
from workers.evaluation.heldout.rows import CommittedRows
from workers.evaluation.heldout.sums import TokenScores, from_bytes, sums_of, to_bytes
from workers.evaluation.heldout.token_by_token import show_texts
from workers.evaluation.heldout.token_scores import Logits, answer_rank, logits_of, score, stored_rank, unigram_logits
from workers.evaluation.heldout.truth import Truth, load_truth
from workers.evaluation.job import ModelToScore, ScoringJob, ScoringTask, UnitToScore, unscored
from workers.evaluation.metrics.domain_scores import by_domain
from workers.evaluation.models.loading import Models
from workers.evaluation.own_text import OwnTexts, compare_own, write_own
from workers.evaluation.shown_texts import chosen
from workers.evaluation.shown_texts import to_bytes as texts_to_bytes
from workers.evaluation.speed import measure
from workers.evaluation.tasks.answers import answers_to_bytes
from workers.evaluation.tasks.asked import AskedItems
from workers.evaluation.tasks.asking import ask
from workers.fetching.folder import model_folder
from workers.fetching.progress import tell_through
from workers.manifest import read_plan
from workers.model_files import stop_ids
from workers.splits import (
    BRIDGES,
    BRIDGES_COMPARED,
    HARNESS,
    HELDOUT,
    OLDER,
    OWN,
    OWN_COMPARED,
    PROBES,
    SHOWN,
    SPEED,
    TASKS,
    WEIGHTS,
)
from workers.targets.heads import head_of_folder
from workers.targets.reader import TargetRow
from workers.token_text import Pieces
from workers.two_part_model import TwoPartModel


class Scorer:
    """Scores tasks one after another. A model stays loaded until a task asks for another one."""

    def __init__(self, job: ScoringJob) -> None:
        torch.set_num_threads(job.threads)
        self._job = job
        self._storage = open_storage(job.run_uri)
        self._report = Reporter(job.board)
        if job.board:
            tell_through(lambda text: self._report(Message(text=text)))
        self._truth = load_truth(job.truth)
        self._heldout = CommittedRows(self._storage, HELDOUT)
        self._exact = ExactTargets(self._heldout.store, job.device)
        self._older: dict[str, tuple[CommittedRows, ExactTargets]] = {}
        self._loaded: tuple[ModelToScore | None, Any] = (None, None)
        self._models = Models(self._storage, self._heldout, job.device)

    def __call__(self, task: ScoringTask) -> int:
        """Score a model on units, but for those that are scored by now; returns how many it scored.

        Raises DamagedShard for a unit whose bytes are not those committed, after it is marked.
        """
        missing = unscored(self._storage, task)
        if missing and self._loaded[0] != task.model:
            self._loaded = None, None  # before the next one is loaded: two might not fit
            self._tell(task.model, 0, len(missing))
            self._loaded = task.model, self._models.load(task.model)
        for done, unit in enumerate(missing, start=1):
            make = {HELDOUT: self._sums, PROBES: self._ranks, TASKS: self._answers, SPEED: self._speed}
            make |= {OWN: self._own_text, OWN_COMPARED: self._own_compared, SHOWN: self._shown}
            make |= {BRIDGES: self._bridges, BRIDGES_COMPARED: self._bridges_compared}
            make |= {WEIGHTS: self._weights, HARNESS: self._harness, OLDER: self._older_sums}
            self._storage.create(unit.key, make[unit.split](task.model, unit))
            pause_point("unit-scored")
            self._tell(task.model, done, len(missing))
        return len(missing)

    def _tell(self, model: ModelToScore, done: int, units: int) -> None:
        self._report(ModelScored(model=model.name, domain=", ".join(model.domains), done=done, units=units))

    def _sums(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """A model's scores on a unit of held-out text, in the order of its rows."""
        return self._summed(self._heldout, self._exact, self._truth, unit.unit, model.domains)

    def _older_sums(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """The same on a unit of an older generation, of which the truth is not asked: it may be another one now."""
        heldout, exact = self._older_heldout(unit.run[1])
        return self._summed(heldout, exact, None, unit.unit, (model.older,))

    def _older_heldout(self, uri: str) -> tuple[CommittedRows, ExactTargets]:
        if uri not in self._older:
            heldout = CommittedRows(open_storage(uri), HELDOUT)
            self._older = {uri: (heldout, ExactTargets(heldout.store, self._job.device))}  # heads of one at a time
        return self._older[uri]

    def _summed(
        self, heldout: CommittedRows, exact: ExactTargets, truth: Truth | None, unit: int, domains_asked: Sequence[str]
    ) -> bytes:
        rows, logits = heldout.rows(unit, domains_asked), self._logits()
        found: dict[int, dict[str, TokenScores]] = {}
        for domains in sorted({domains for _, domains in rows}):
            mine, truths = [row for row, own in rows if own == domains], dict.fromkeys(domains, truth)
            for row, scores in score(logits, mine, self._vocabulary, exact, truths, self._job.device):
                found[id(row)] = scores  # in the order of batches
        ordered = [(row.prompt_uid, found[id(row)]) for row, _ in rows if id(row) in found]
        tables = [sums_of(d, [(uid, s[d]) for uid, s in ordered if d in s]) for d in domains_asked]
        return to_bytes(pa.concat_tables(tables))

    def _ranks(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """Where a model puts the answers of a unit of probes, by domain."""
        ranks: dict[str, list[dict[str, float]]] = {}
        for row, domains in self._probes.rows(unit.unit, model.domains):
            if model.kind == "teacher":
                rank = stored_rank(row)
            else:
                rank = answer_rank(self._loaded[1], row.tokens, row.start, self._vocabulary)
            for domain in domains:
                ranks.setdefault(domain, []).append(rank)
        return json.dumps(ranks).encode()

    def _answers(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """A model's answers to the items of a file that are of its domains, in their order."""
        asked = AskedItems.from_bytes(self._storage.read(unit.items)).of_domains(model.task_domains)
        two_parts: TwoPartModel = self._loaded[1]
        decode = partial(self._tokenizer.decode, skip_special_tokens=True)
        return answers_to_bytes(ask(two_parts, asked, self._vocabulary, self._job.batch_tokens, self._stop_ids, decode))

    def _harness(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """A model's answers to a task of lm-evaluation-harness."""
        from workers.evaluation.harness.asking import ask_harness
        from workers.evaluation.harness.loaded_model import LoadedModel

        job, name = self._job, unit.items
        assert job.harness is not None
        loaded = self._harness_tasks.load_as_found(name, dict(job.harness_digests)[name])
        asked = LoadedModel(self._loaded[1], self._tokenizer, job.batch_tokens, self._stop_ids)
        return harness_to_bytes(ask_harness(asked, name, loaded, job.harness, job.run_code, job.resamples))

    @cached_property
    def _harness_tasks(self) -> Any:
        from workers.evaluation.harness.loading import HarnessTasks

        assert self._job.harness is not None
        return HarnessTasks(self._job.harness, self._job.run_code)

    def _speed(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """How fast a model answers the first held-out prompts, the same for all models."""
        batch, new_tokens = self._job.speed
        domains = read_plan(self._storage, HELDOUT).domains
        prompts = [row.tokens[: max(row.start, 1)] for row, _ in self._heldout.rows(0, domains)]
        return measure(self._loaded[1], prompts[:batch], new_tokens).to_bytes()

    def _weights(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """What a model weighs whose weights were rounded."""
        assert self._models.rounded is not None
        return self._models.rounded.to_bytes()

    def _own_text(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """What a model writes behind the first held-out prompts of a domain."""
        texts, new_tokens = self._job.own_text
        rows = {row.prompt_uid: row for row in islice(self._heldout.all_rows(model.writes), 4 * texts)}  # by prompt
        two_parts: TwoPartModel = self._loaded[1]
        asked = (new_tokens, self._vocabulary, self._job.batch_tokens, self._stop_ids, self._job.seed)
        return write_own(two_parts, list(rows.values())[:texts], *asked).to_bytes()

    def _own_compared(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """The teacher beside what a student wrote."""
        assert unit.student is not None
        own = OwnTexts.from_bytes(self._storage.read(unit.items))
        with local_folder(self._storage, unit.student.source) as folder:
            head = head_of_folder(folder, "float32", self._vocabulary)
        compared = compare_own(self._loaded[1], own, head, self._vocabulary, self._job.batch_tokens)
        return to_bytes(sums_of(unit.student.writes, list(compared)))

    def _shown(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """A few texts token by token, chosen by scores that are there."""
        assert unit.shown is not None
        wanted, domain = unit.shown, unit.shown.domain
        sums = by_domain([from_bytes(self._storage.read(key)) for key in wanted.sums])
        prompts = chosen(sums[domain], wanted.worst, self._job.seed) if domain in sums else {}
        rows = dict[str, TargetRow]()
        for row in self._heldout.all_rows(domain) if prompts else ():
            if row.prompt_uid in prompts:
                rows.setdefault(row.prompt_uid, row)
            if len(rows) == len(prompts):
                break
        pairs = [(rows[uid], worst) for uid, worst in prompts.items()]
        job = self._job
        texts = show_texts(pairs, self._logits(), self._exact, self._vocabulary, job.device, self._pieces.after)
        return texts_to_bytes(texts)

    def _bridges(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """A teacher's right answers to items of a domain, with tokens of them changed."""
        assert self._job.bridges is not None
        return find_bridges(self._writer, self._questions(unit), self._job.bridges, self._job.seed).to_bytes()

    def _bridges_compared(self, model: ModelToScore, unit: UnitToScore) -> bytes:
        """What a model does there."""
        assert unit.teacher is not None
        texts, teacher, head = BridgeTexts.from_bytes(self._storage.read(unit.items)), unit.teacher, None
        if len(texts.text_n):
            folder, trusted = model_folder(teacher.source, teacher.revision), teacher.trust_remote_code
            head = head_of_folder(folder, "float32", self._vocabulary, trust_remote_code=trusted)
        by_name = {question.name: question for question in self._questions(unit)}
        return compare_bridges(self._writer, texts, by_name, head).to_bytes()

    def _questions(self, unit: UnitToScore) -> list[Question]:
        return questions_of([AskedItems.from_bytes(self._storage.read(key)) for key in unit.files], unit.domain)

    @property
    def _writer(self) -> Writer:
        decode = partial(self._tokenizer.decode, skip_special_tokens=True)
        return Writer(self._loaded[1], self._vocabulary, self._job.batch_tokens, self._stop_ids, decode)

    @property
    def _stop_ids(self) -> list[int]:
        """Ids that end an answer: those of the teachers and of the loaded model."""
        return sorted({*self._job.stop_ids, *stop_ids(self._tokenizer, self._loaded[1].model.config)})

    @cached_property
    def _tokenizer_folder(self) -> Path:
        return model_folder(self._job.tokenizer, self._job.tokenizer_revision, weights=False)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._tokenizer_folder, trust_remote_code=self._job.trust_remote_code)

    @cached_property
    def _pieces(self) -> Pieces:
        return Pieces(self._tokenizer_folder)

    @cached_property
    def _probes(self) -> CommittedRows:
        return CommittedRows(self._storage, PROBES)

    @property
    def _vocabulary(self) -> int:
        return self._heldout.store.header.vocabulary

    def _logits(self) -> Logits:
        model = self._loaded[1]
        if isinstance(model, np.ndarray):
            return unigram_logits(model, self._job.device)
        return logits_of(model, self._job.batch_tokens)
