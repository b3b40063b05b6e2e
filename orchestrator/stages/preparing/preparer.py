"""One short-lived actor before the run: freeze the prompts and make the students' initial weights, in one process
that loads torch once."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from cluster.placement import this_node
from cluster.storage import open_storage
from orchestrator.config.python_function import load_functions
from orchestrator.config.schema import RunConfig
from orchestrator.prompts.freezing.freeze import freeze
from orchestrator.prompts.freezing.work import teacher_tokenizers
from orchestrator.prompts.sources import Screened
from orchestrator.prompts.tokenizing import TeacherTokenizer
from orchestrator.stages.capture import write_heads
from orchestrator.stages.preparing.freezing_pool import pool_led_on
from workers.channels.board import Reporter
from workers.channels.events import Message
from workers.fetching.progress import tell_through
from workers.layout import StudentLayout
from workers.manifest import Manifest, read_plan
from workers.splits import TRAIN
from workers.student.config import InitialConfig, ModelConfig
from workers.student.models.positions import Positions
from workers.student.models.resources import SAMPLE_TEXTS, SAMPLE_TOKENS


@dataclass(frozen=True)
class Start:
    """A student whose initial weights are to be made; they are measured on texts of `domain`."""

    name: str
    model: ModelConfig
    domain: str
    seed: int


@ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"progress": 1})
class Preparer:
    """Makes prompts and initial weights. What is there already is not asked of it (preparation.py)."""

    def __init__(self, board: str = "", home: str = "") -> None:
        """`home`: id of the node that the run's driver is on, which stays; this one's may not."""
        self._home = home or this_node()
        if board:
            report = Reporter(board)
            tell_through(lambda text: report(Message(text=text)))
        self._tokenizers: dict[str, TeacherTokenizer] | None = None
        self._positions: dict[str, Positions] = {}
        """Of students that were tried."""
        self._frozen = ""
        """How far freezing is, in words."""

    def try_out(self, config: RunConfig, names: list[str]) -> None:
        """Load the user's functions, build specialists without weights and run one micro-batch of each. Raises
        ValueError."""
        load_functions(config.answers.filter, config.evaluate.truth)
        if not names:
            return
        from workers.student.trial.trying import try_students

        self._tokenizers = teacher_tokenizers(config)
        vocabulary = self._tokenizers[config.first_teacher()].vocabulary
        tried = try_students({n: config.specialists[n] for n in names}, config.targets.scheme, vocabulary)
        self._positions = {name: t.positions for name, t in tried.items() if t.positions is not None}

    def freeze_prompts(self, config: RunConfig, run_uri: str, screened: Screened | None) -> dict[str, Any]:
        """Freeze the prompts; returns their summary. Raises ValueError."""
        return freeze(
            config,
            run_uri,
            screened,
            tokenizers=self._tokenizers,
            positions=self._positions,
            spread=pool_led_on(self._home),
            tell=partial(setattr, self, "_frozen"),
        )

    @ray.method(concurrency_group="progress")
    def frozen(self) -> str:
        """How far freezing the prompts is, in words; nothing before it began."""
        return self._frozen

    def write_heads(self, config: RunConfig, run_uri: str, missing: dict[str, list[str]]) -> None:
        """Put teachers' heads into the stores of some splits. Raises ValueError."""
        write_heads(run_uri, config, missing)

    def make_initials(
        self, run_uri: str, starts: list[Start], vocabulary: int, settings: InitialConfig
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Write students' initial weights; yields the name of each that is done, and facts about them."""
        import torch

        from workers.student.models.initial import Asked, make_initials

        storage = open_storage(run_uri)
        torch.set_num_threads(settings.threads or os.cpu_count() or 1)
        asked = [Asked(s.name, s.model, s.seed, *samples(run_uri, s.domain, s.model)) for s in starts]
        with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
            for made in make_initials(asked, Path(folder), vocabulary=vocabulary, memory=settings.memory):
                storage.upload_folder(made.folder, StudentLayout(made.name).initial)
                storage.write(StudentLayout(made.name).initial_facts, json.dumps(made.facts).encode())
                yield made.name, made.facts


def samples(run_uri: str, domain: str, model: ModelConfig) -> tuple[list[list[int]], list[list[int]]]:
    """Texts of a domain to measure layers or experts on, and prompts that a mixture of experts is to answer first."""
    if model.merge_experts is not None:
        return sample_texts(run_uri, domain)
    if model.drop_layers:
        answered, prompts = sample_texts(run_uri, domain)
        return answered + prompts, []
    return [], []


def sample_texts(run_uri: str, domain: str) -> tuple[list[list[int]], list[list[int]]]:
    """The beginnings of some training texts of a domain: those whose answer is given, and prompts without one."""
    storage = open_storage(run_uri)
    plan, manifest = read_plan(storage, TRAIN), Manifest(storage, TRAIN)
    prompts = itertools.chain.from_iterable(manifest.prompts(unit) for unit in plan.of_domain(domain))
    answered: list[list[int]] = []
    asked: list[list[int]] = []
    for prompt in itertools.islice(prompts, SAMPLE_TEXTS):
        into = asked if prompt.answer_token_ids is None else answered
        into.append((prompt.prompt_token_ids + (prompt.answer_token_ids or []))[:SAMPLE_TOKENS])
    return answered, asked
