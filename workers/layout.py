"""Every storage key of a run, in one place (but for `attempts/`, which is the lease's: cluster/lease.py).

    config.resolved.yaml environment.json attempts/         whose run it is, with what, and who drove it
    prompts/summary.json prompts/rejected.jsonl             what was made of the prompt sources
    prompts/g0000/train/ prompts/g0000/train.plan.parquet   frozen prompts and the unit plan of a split
    targets/train/                                          a target store (workers/targets/FORMAT.md)
    students/medical/                                       one student: initial, checkpoints, snapshots, final
    tasks/asked.json tasks/*.json                           questions with known answers, as they are asked
    tasks/harness.json                                      which tasks of lm-evaluation-harness are asked
    scores/medical/                                         sums of a model's scores, by held-out unit; its answers
    exports/medical/ exports/medical.gguf/                  an exported student, by format
    report.{html,md,json} texts.json                        what a run is for
    events/0001/                                            what attempt 1 told while it worked
    trackers/ tensorboard/                                  how far trackers have read that; files of one of them
    ray_train/                                              what Ray Train keeps of its own
    generations/2/                                          the next generation: all of the above again

A *generation* is a run of its own inside the run, which goes on from the one before with new prompts or another
teacher; nothing of an older one is written again. `g0000` is a value that the plans, stores and cursors of each carry,
so that a student never resumes in others than it began in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

AT_CONTROL_TOKENS = "at_control_tokens"
"""Name of the snapshot that a specialist's control is compared with."""

FIRST_GENERATION = "g0000"
"""The generation of plans and stores that this version writes."""

CONFIG, ENVIRONMENT = "config.resolved.yaml", "environment.json"
REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"
REPORT_HTML = "report.html"
REPORT_TEXTS = "texts.json"
"""Held-out texts token by token, of the report."""
PROMPTS_SUMMARY, PROMPTS_REJECTED = "prompts/summary.json", "prompts/rejected.jsonl"
TASKS_ASKED, HARNESS_ASKED = "tasks/asked.json", "tasks/harness.json"
TARGETS, EVENTS = "targets", "events"
WALL = "wall.json"
"""In the events of an attempt: when it began, for how long it has worked, how far it is, and what it took."""
TENSORBOARD = "tensorboard"
"""Event files of TensorBoard, where the run's folder is local and no other one is named."""
RAY_TRAIN = "ray_train"
"""What Ray Train keeps of its own."""
GENERATIONS = "generations"
"""Of a run: its generations but the first, which is the run's folder itself."""


def generation_uri(run: str, number: int) -> str:
    """The folder of a generation of the run whose folder is `run`; 1 is that folder."""
    return run if number == 1 else f"{run}/{GENERATIONS}/{number}"


def split_generation(uri: str) -> tuple[str, int]:
    """Of a generation's folder that of its run, and its number: the inverse of `generation_uri`."""
    found = re.fullmatch(rf"(.+)/{GENERATIONS}/([0-9]+)", uri.rstrip("/"))
    return (found[1], int(found[2])) if found else (uri.rstrip("/"), 1)


def manifest_key(split: str, shard: int, generation: str = FIRST_GENERATION) -> str:
    """Where a shard of the frozen prompts of a split lies."""
    return f"prompts/{generation}/{split}/{shard:05d}.units"


def manifest_ids_key(split: str, shard: int, generation: str = FIRST_GENERATION) -> str:
    """Where the ids of the prompts of a manifest shard lie."""
    return f"prompts/{generation}/{split}/{shard:05d}.ids.parquet"


def plan_key(split: str, generation: str = FIRST_GENERATION) -> str:
    """Where the unit plan of a split lies."""
    return f"prompts/{generation}/{split}.plan.parquet"


def old_manifest_keys(split: str) -> tuple[str, str]:
    """Where runs from before manifests had shards keep the plan and the prompts of a split."""
    return f"prompts/{FIRST_GENERATION}/{split}.plan.json", f"prompts/{FIRST_GENERATION}/{split}.parquet"


def pieces_folder(generation: str = FIRST_GENERATION) -> str:
    """Where rows lie while prompts are frozen; it is gone when they are."""
    return f"prompts/{generation}/pieces"


def piece_key(number: int, generation: str = FIRST_GENERATION) -> str:
    """Rows of one shard of the sources."""
    return f"{pieces_folder(generation)}/{number:06d}.parquet"


def export_key(student: str, label: str = "") -> str:
    """The folder of an exported student; `label` tells a format from others, and is empty of plain safetensors."""
    return f"exports/{student}.{label}" if label else f"exports/{student}"


@dataclass(frozen=True)
class StoreLayout:
    """The keys of one target store."""

    split: str
    generation: str = FIRST_GENERATION

    @property
    def root(self) -> str:
        return f"{TARGETS}/{self.split}"

    @property
    def header(self) -> str:
        return f"{self.root}/store.json"

    @property
    def parts(self) -> str:
        return f"{self.root}/parts/{self.generation}"

    def head(self, teacher: str) -> str:
        """The LM head of a teacher whose hidden states the store holds."""
        return f"{self.root}/heads/{teacher}.safetensors"

    def part(self, unit: int, writer: str, role: str) -> str:
        """A part of a unit, named so that no two writers share it."""
        return f"{self.parts}/{unit:08d}-{writer}.{role}.parquet"


@dataclass(frozen=True)
class LogLayout:
    """The keys of a store's log, below the store's root."""

    store: str
    generation: str = FIRST_GENERATION

    @property
    def root(self) -> str:
        """Folder of the entries of units as they were first captured."""
        return f"{self.store}/log/{self.generation}"

    @property
    def repairs(self) -> str:
        """Folder of the entries of units that were recomputed."""
        return f"{self.root}/repairs"

    def entry(self, unit: int, revision: int) -> str:
        """The entry of a revision of a unit; 0 is the first."""
        return f"{self.repairs}/{unit:08d}.r{revision}.json" if revision else f"{self.root}/{unit:08d}.json"

    @property
    def digests(self) -> str:
        """Folder of the digests of entries."""
        return f"{self.root}/digests"

    def digest(self, first: int, last: int, rows: int, sha256: str) -> str:
        """A digest of so many entries of the units `first` ... `last`, by the beginning of its hash."""
        return f"{self.digests}/{first:08d}-{last:08d}-{rows}-{sha256}.parquet"

    @staticmethod
    def digest_of(key: str) -> tuple[int, int, int, str]:
        """First unit, last unit, rows and hash of a digest's key."""
        first, last, rows, sha256 = key.rsplit("/", 1)[1].removesuffix(".parquet").split("-")
        return int(first), int(last), int(rows), sha256

    @staticmethod
    def unit_of(key: str) -> tuple[int, int]:
        """Unit and revision of an entry's key."""
        unit, _, revision = key.rsplit("/", 1)[1].removesuffix(".json").partition(".r")
        return int(unit), int(revision or 0)


def damage_folder(store: str) -> str:
    """Where the marks of damaged units lie."""
    return f"{store}/damaged"


def damage_key(store: str, unit: int, revision: int) -> str:
    """The mark of a damaged revision of a unit."""
    return f"{damage_folder(store)}/{unit:08d}.r{revision}.json"


def vocab_order_keys(store: str) -> tuple[str, str]:
    """The two files of a store's vocabulary order."""
    return f"{store}/vocab_order.parquet", f"{store}/vocab_order.copy.parquet"


@dataclass(frozen=True)
class StudentLayout:
    """The keys of one student."""

    name: str

    @property
    def root(self) -> str:
        return f"students/{self.name}"

    @property
    def initial(self) -> str:
        """Folder of the weights that it starts from."""
        return f"{self.root}/initial"

    @property
    def initial_facts(self) -> str:
        return f"{self.initial}.json"

    @property
    def final(self) -> str:
        """Folder of the trained model."""
        return f"{self.root}/final"

    def snapshot(self, name: str) -> str:
        """Folder of the model as it was at some moment."""
        return f"{self.root}/{name}"

    def snapshot_facts(self, name: str) -> str:
        """The mark that it is whole: after which step, and how many target tokens."""
        return f"{self.snapshot(name)}.json"

    @property
    def at_control_tokens(self) -> str:
        """Folder of the model as it was when it had seen as many target tokens as its control has in all."""
        return self.snapshot(AT_CONTROL_TOKENS)

    @property
    def at_control_tokens_facts(self) -> str:
        return self.snapshot_facts(AT_CONTROL_TOKENS)

    @staticmethod
    def milestone(tokens: int) -> str:
        """The name of a snapshot after so many target tokens, in order."""
        return f"after-{tokens:012d}"

    @property
    def adapter(self) -> str:
        """Folder of the adapter of a model that was trained with LoRA."""
        return f"{self.root}/adapter"

    @property
    def done(self) -> str:
        """What it left when its training ended."""
        return f"{self.root}/done.json"

    @property
    def pointers(self) -> str:
        """Folder of the pointers to complete checkpoints."""
        return f"{self.root}/log"

    def pointer(self, step: int) -> str:
        """The pointer to the checkpoint of a step."""
        return f"{self.pointers}/{step:08d}.json"

    @property
    def checkpoints(self) -> str:
        return f"{self.root}/checkpoints"

    def checkpoint(self, step: int, save: str) -> str:
        """Folder of one save of a step."""
        return f"{self.checkpoints}/step-{step:08d}-{save}"

    @property
    def groups(self) -> str:
        """Folder of the marks that say which group of workers trains it now."""
        return f"{self.root}/groups"

    def group(self, number: int) -> str:
        """The mark of one group of workers."""
        return f"{self.groups}/{number:06d}"

    def failed_step(self, step: int) -> str:
        """The ids of the texts of a step that failed."""
        return f"{self.root}/failed-step-{step}.json"


def task_items_key(digest: str) -> str:
    """Some items of a task, by the beginning of the hash of what is there."""
    return f"tasks/{digest}.json"


def scores_folder(model: str) -> str:
    """Where the scores of a model lie, a file for each unit."""
    return f"scores/{model}"


def score_key(model: str, split: str, unit: int, digest: str) -> str:
    """A model's scores on a unit; the digest is of all that they depend on."""
    return f"{scores_folder(model)}/{split}-{unit:08d}-{digest}.parquet"


@dataclass(frozen=True)
class EventsLayout:
    """The keys of what one attempt told."""

    attempt: int

    @property
    def root(self) -> str:
        return f"{EVENTS}/{self.attempt:04d}"

    def segment(self, number: int) -> str:
        """A segment of the event log; written once."""
        return f"{self.root}/{number:06d}.jsonl"

    @property
    def wall(self) -> str:
        """When the attempt began, for how long it has worked, how far it is, and what it took."""
        return f"{self.root}/{WALL}"

    @staticmethod
    def segment_of(key: str) -> tuple[int, int] | None:
        """Attempt and number of a segment's key; None for another key."""
        match = re.fullmatch(rf"{EVENTS}/(\d+)/(\d+)\.jsonl", key)
        return (int(match[1]), int(match[2])) if match else None


def tracker_key(tracker: str, where: str) -> str:
    """How far a tracker has read the events; `where` is the beginning of the hash of what it sends to."""
    return f"trackers/{tracker}-{where}.json"
