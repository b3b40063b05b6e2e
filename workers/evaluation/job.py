"""What is asked of those who score: records that cross between processes. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster.storage import Storage
from workers.evaluation.bridges.config import BridgesConfig
from workers.evaluation.harness.config import HarnessConfig
from workers.layout import scores_folder
from workers.quantise.config import RoundingConfig


@dataclass(frozen=True)
class ModelToScore:
    """A model and the domains that it is scored on. `kind` says what `source` is."""

    name: str
    kind: Literal[
        "stored", "milestone", "ptq", "folder", "single_expert", "unigram", "teacher", "whole_teacher", "teacher_4bit"
    ]
    """`stored`: a model's folder below the run. `milestone`: such a one that is scored for its KL alone. `ptq`: such a
    one whose weights are rounded as it is loaded. `folder`: any model's, as settings name it. `single_expert`: the
    teacher at `source`, cut down for its one domain. `unigram`: how often each token occurs in the training targets of
    its one domain. `teacher`: what the probes' store says. The last two have no source. `whole_teacher`: the teacher at
    `source`, asked the items of tasks. `teacher_4bit`: it, with its weights rounded to 4 bit."""
    source: str
    domains: tuple[str, ...]
    revision: str | None = None
    """Of a model on the Hugging Face Hub."""
    trust_remote_code: bool = False
    """Whether code that comes with the model is run."""
    writes: str = ""
    """The domain behind whose held-out prompts it writes text of its own; empty: it writes none."""
    timed: bool = False
    """Whether it is measured how fast it answers."""
    task_domains: tuple[str, ...] = ()
    """Of the items of tasks, those that it is asked."""
    harness: bool = False
    """Whether it is asked the tasks of lm-evaluation-harness."""
    teacher: str = ""
    """Of kind `whole_teacher`: its name in the settings."""
    rounding: RoundingConfig | None = None
    """Of kind `ptq`: what is rounded, and to what."""
    older: str = ""
    """The domain on whose held-out text of older generations it is scored too; empty: on none."""


@dataclass(frozen=True)
class TextsToShow:
    """A few held-out texts of a domain that are shown token by token."""

    domain: str
    sums: tuple[str, ...]
    """Keys of the scores of the model that they are chosen by."""
    worst: int
    """Prompts on which it does worst; as many others are drawn."""


@dataclass(frozen=True)
class UnitToScore:
    """A committed unit of a store, or a file of items, and the key that holds what a model did on it once it is
    made."""

    split: str
    unit: int
    key: str
    items: str = ""
    """Of split TASKS: the key of the file of items. Of OWN_COMPARED: that of the student's text. Of BRIDGES_COMPARED:
    that of the teacher's. Of HARNESS: the name of the task."""
    student: ModelToScore | None = None
    """Of split OWN_COMPARED: who wrote it."""
    teacher: ModelToScore | None = None
    """Of split BRIDGES_COMPARED: who wrote it."""
    domain: str = ""
    """Of splits BRIDGES and BRIDGES_COMPARED: that of the items."""
    files: tuple[str, ...] = ()
    """Of the same: keys of the files of items that have such."""
    shown: TextsToShow | None = None
    """Of split SHOWN: which texts."""
    run: tuple[str, str] = ("", "")
    """Of split OLDER: the name of the generation, and the URI of its folder."""


@dataclass(frozen=True)
class ScoringTask:
    """One model and units that it is to be scored on: what a scorer loads a model for."""

    model: ModelToScore
    units: tuple[UnitToScore, ...]
    after: bool = False
    """Whether it needs what the others leave."""


def unscored(storage: Storage, task: ScoringTask) -> tuple[UnitToScore, ...]:
    """Units of a task whose scores are not there yet; one listing."""
    there = set(storage.keys(scores_folder(task.model.name)))
    return tuple(unit for unit in task.units if unit.key not in there)


@dataclass(frozen=True)
class ScoringJob:
    """What is the same for all tasks of an evaluation."""

    run_uri: str
    truth: str | None
    batch_tokens: int
    threads: int
    device: Literal["cpu", "cuda"]
    board: str
    tokenizer: str = ""
    """A model whose tokenizer makes text of what models write; the run's models share it."""
    tokenizer_revision: str | None = None
    trust_remote_code: bool = False
    """Whether code that comes with the tokenizer is run."""
    speed: tuple[int, int] = (1, 2)
    """Of models that are timed: texts at once, and tokens of each answer."""
    own_text: tuple[int, int] = (0, 0)
    """Of models that write: how many texts, and tokens of each at most."""
    bridges: BridgesConfig | None = None
    """Of teachers' answers: how many, and which tokens of them are changed."""
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    """Ids that end an answer, by the teachers."""
    harness: HarnessConfig | None = None
    """Tasks of lm-evaluation-harness."""
    harness_digests: tuple[tuple[str, str], ...] = ()
    """Of what each of them was when it was found, by name."""
    run_code: bool = False
    """Whether programs that models write for them are run."""
    resamples: int = 1000
    """For standard errors that have no formula."""
