"""What is measured, on what, against what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from cluster.settings import Count, CountOrShare, Settings, Share
from workers.evaluation.bridges.config import BridgesConfig
from workers.evaluation.harness.config import HarnessConfig
from workers.evaluation.tasks.config import GateConfig, TaskConfig
from workers.first_kl import FirstKlConfig

CHUNK_NUMBERS = {"cpu": 1 << 24, "cuda": 1 << 27}
"""Logits of a model that exist at once while it is scored, by device."""

LOGITS_HELD = 6
"""Arrays of that size that scoring works with: both distributions, in logarithms and not, and what they are made of."""


NO_CODE = (
    "has tests, which run what models write, and evaluate.run_code is off; set it to true where that may happen, or "
    "take them out"
)


Baseline = Literal["initial", "hard_labels", "given_answers", "generalist", "single_expert", "teacher_4bit"]
"""Names of what may stand beside specialists."""


class HeldoutConfig(Settings):
    """Which prompts of each domain are held out: those with the smallest hashes of their ids, up to a share and to
    caps. What is past a cap trains. A plain share means `share`."""

    share: Share = Field(default=0.05, gt=0, lt=1)
    """Part of the prompts of each domain that is held out where a cap does not come first. A source with rows that say
    `split: heldout` holds out just those; past a cap they are rejected, and never train. Where nothing
    trains, all are held out."""

    max_texts: Count | None = Field(default=500, ge=1)
    """Most held-out prompts of a domain. Null: any number. The 95 % interval of a domain's KL narrows with the square
    root of its prompts: 2 % take 230 to 550 answers of 96 tokens, 400 to 1,130 of 48
    (tests/benchmarks/intervals.py)."""

    max_tokens: Count | None = Field(default=256_000, ge=1)
    """Most target tokens that the held-out answers of a domain may have. What the teacher answers counts with
    `max_new_tokens` for each of `evaluate.samples`, a given answer with a token for every four bytes and its end (an
    estimate: nothing is tokenized yet). Null: any number."""

    prompts_per_unit: int = Field(default=32, ge=1)
    """Held-out prompts in one unit: the grain in which they are answered, committed and read back. By default as many
    as a rank on a CPU has slots (`teacher.batch`), and few enough that a model on one unit is a small piece of work; on
    GPUs several are made together (`teacher.units_at_once`)."""


def _short_form(value: Any) -> Any:
    return value if isinstance(value, dict | HeldoutConfig) else {"share": value}


Heldout = Annotated[HeldoutConfig, BeforeValidator(_short_form)]
"""A HeldoutConfig that may be written as its share."""


class MeasuredModel(Settings):
    """A model that was not trained here. A plain string means `model`."""

    model: str
    """Hugging Face id, a folder (relative to the configuration file), or s3://bucket/folder, with the tokenizer of the
    teacher."""

    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id. Null is its default branch."""


def _named(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


Measured = Annotated[MeasuredModel, BeforeValidator(_named)]
"""A MeasuredModel that may be written as its name."""


class CostConfig(Settings):
    """What models cost to run: their size, what they compute for a token, and how fast they answer where they are
    scored. Beside other work on the same machine they are slower."""

    measure: bool = True
    """Whether specialists and `evaluate.models` are timed, each for a few seconds."""

    teacher: bool | None = None
    """Whether the teacher is timed too, for which it is loaded whole into one process. Null: where it is loaded for
    `evaluate.tasks` or `evaluate.harness` anyway."""

    batch: int = Field(default=8, ge=1)
    """Held-out prompts that are answered at once for the tokens a second."""

    new_tokens: int = Field(default=32, ge=2)
    """Tokens of each answer."""

    dollars_per_hour: dict[str, float] = {}
    """Price of a machine by the name of its device, or a part of that in any case: {H100: 2.5, cpu: 0.1}. Of the keys
    that fit the longest counts. Without one there are no dollars in the report."""

    target: float = Field(default=10, gt=1)
    """How many times cheaper than its teacher a specialist is meant to be, for the report's sentence."""


class OwnTextConfig(Settings):
    """Text that specialists write themselves, on which they and their teacher are compared."""

    texts: int = Field(default=64, ge=1)
    """Held-out prompts of its own domain that a specialist answers, one answer each."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Tokens of an answer, at most."""


class FloorConfig(Settings):
    """Models that students keep on the way, to see where their KL tends: K_inf + b D^-g over target tokens D."""

    points: int = Field(default=6, ge=4, le=20)
    """Models of each specialist, and of the generalist, that are kept and scored on held-out text: evenly apart in the
    logarithm of their tokens, up to where the rate begins to fall (`wsd`), else to the end."""

    first: Share = Field(default=0.15, gt=0, lt=0.5)
    """Part of `train.tokens` at the first of them: past the first, fast part of learning, which no power describes."""

    bound: Share = Field(default=0.3, gt=0, lt=1)
    """Floors above this part of the KL that a student begins with are held to be its capacity's, below it the data's;
    where the 95 % interval holds it, neither."""


class EvaluateConfig(Settings):
    """Held-out scores of every specialist and of what stands beside it."""

    heldout: Heldout = HeldoutConfig()
    """How many prompts of each domain are held out: a share, or {share, max_texts, max_tokens, prompts_per_unit}."""

    text: Literal["sampled", "given"] = "sampled"
    """Held-out texts: sampled by the teacher at temperature 1 and top-p 1 (given answers are ignored), or the given
    answers where there are any."""

    samples: int = Field(default=1, ge=1)
    """Answers per held-out prompt."""

    targets: Literal["auto", "full", "hidden"] = "auto"
    """How the teacher's exact distributions on held-out text are kept. `full`: every log-probability, vocabulary x 2 or
    4 bytes a token. `hidden`: what the teacher's LM head is given, hidden size x 2 or 4 bytes a token, and the head
    once; the evaluator makes the distributions of both, and holds the head in float32. Engine transformers only.
    `auto`: the smaller of both at the run's held-out tokens, `full` where hidden states cannot be had; a run that has
    a held-out store goes on as that is."""

    precision: Literal["float16", "float32"] = "float32"
    """Precision of the log-probabilities of `targets: full`. Hidden states are kept in the type that they have."""

    baselines: list[Baseline] = ["initial", "hard_labels"]
    """What stands beside each specialist. `initial`: its weights before training. `hard_labels`: the same student on
    the same tokens with cross-entropy. `given_answers`: the same once more, on nothing but texts whose answers came
    with the prompts, which is what fine-tuning without a teacher comes to; each domain of a specialist's mix must have
    some, and where all of its answers are given, this is `hard_labels` under another name. `generalist`: a student of
    the first specialist's model on all domains equally. `single_expert`: the teacher with one expert per layer kept and
    its router removed. `teacher_4bit`: the teacher with its linear weights rounded to 4 bit, to the nearest in groups
    of 32, as GGUF's Q4_0 has them; loaded whole in one process and not timed, for the rounding is simulated. Of several
    teachers, these two are the first one's."""

    beside: dict[str, list[str]] = {}
    """By specialist, what else it is compared with on its own domain, in paired differences: names of other specialists
    and of `models`. A larger model from scratch is another specialist: with a `model.config` of its own, the same
    `mix`, and `loss: {kl: 0, ce: 1}`; it has no `hard_labels` control, for it is one."""

    models: dict[str, Measured] = {}
    """Further models that are measured on all held-out text, by name: another tool's student, a quantised folder, a
    smaller model of the teacher's family. Only models whose tokenizer is the teacher's."""

    control_tokens: CountOrShare | None = None
    """Target tokens that each control (`hard_labels`, `given_answers`) trains on: a number, or a share of its
    specialist's `train.tokens` such as 10%. It takes the specialist's batches and learning rates up to there; the
    specialist keeps its weights of that moment, which are what the control is compared with. Null: 10% where the
    specialist trains on GPUs, all on CPUs; for a run that exists, what it was begun with."""

    bootstrap: int = Field(default=1000, ge=100)
    """Resamples over prompts for the 95 % intervals."""

    truth: str | None = None
    """`file.py:function` that knows the true next-token distribution of a generated language: function(domain,
    token_ids, start) -> array [len(token_ids) - start, V]; rows of NaN are skipped. Null where nobody knows it."""

    probes: str | None = None
    """JSONL of {domain, prompt, answer}: the report says at which rank each model puts the answer's first token."""

    tasks: dict[str, TaskConfig] = {}
    """Questions with known answers, by task: what the teacher, specialists and what stands beside them are asked, for
    the part of its teacher's score that a specialist keeps. The teacher is loaded whole in one process for it."""

    harness: HarnessConfig | None = None
    """Tasks of lm-evaluation-harness that the same models are asked, as wholes and whatever their domains. The teacher
    is loaded whole in one process for it. Null: none."""

    run_code: bool = False
    """Whether programs that models write are run, for tasks with `tests`: each in a process of its own with limits of
    time, memory and files, which stops accidents and no attacker. Off, such a task is refused, and one of
    `harness` that is marked as unsafe too; lm-evaluation-harness sets no limits."""

    shown_texts: int = Field(default=4, ge=0, le=50)
    """Held-out texts of each specialist and further model that are kept token by token with what teacher, model and
    control hold likely there: so many of those on which it does worst, and as many others. 0 keeps none."""

    own_text: OwnTextConfig | None = None
    """How far specialists are from their teacher on text of their own: exposure bias, the KL on their own prefixes less
    that on their teacher's. The teacher is loaded whole into one process for it. Null: not measured."""

    bridges: BridgesConfig | None = None
    """How specialists do at bridges, which are tokens that their teacher's answers to `tasks` hang on, and whether its
    token there repairs their wrong answers. The teacher writes texts x positions answers more in each domain. Null:
    not measured."""

    floor: FloorConfig | None = None
    """Where students tend to: models kept on the way. They take points x the model's size of the storage and are scored
    on their own domain. Null: none are kept."""

    first_kl: FirstKlConfig = FirstKlConfig()
    """From which KL before training a student counts as near its teacher, and as far."""

    cost: CostConfig = CostConfig()
    """What models cost to run."""

    gate: GateConfig | None = None
    """What each specialist must reach. Null: nothing."""

    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens, padding included, that a model scores at once."""

    workers: int = Field(default=1, ge=1)
    """Processes that score models at once, at most; models and held-out units are shared out among them. Fewer work
    where the cluster has no room for all. So many exports are made at once, too."""

    cpus: float = Field(default=1, gt=0)
    """CPUs that Ray reserves for each of them, and for a process that exports."""

    gpus: float = Field(default=0, ge=0)
    """GPUs that Ray reserves for each of them."""

    label_selector: dict[str, str] = {}
    """Ray labels that the node of each of them must have, for example {stillhouse-role: student}; a process that
    exports goes to any. Empty: any node."""

    threads: int = Field(default=2, ge=1)
    """Threads of each of them on a CPU."""

    @property
    def loads_teacher(self) -> bool:
        """Whether a process that scores loads a whole teacher."""
        asked = self.tasks or self.harness or self.own_text
        return bool(asked or self.cost.teacher or "teacher_4bit" in self.baselines)

    @field_validator("tasks", mode="before")
    @classmethod
    def _short_tasks(cls, value: Any) -> Any:
        return (
            {k: {"path": v} if isinstance(v, str) else v for k, v in value.items()}
            if isinstance(value, dict)
            else value
        )

    @model_validator(mode="after")
    def _can_be_judged(self) -> EvaluateConfig:
        if self.gate is not None and not self.tasks:
            raise ValueError(
                f"gate: retention {self.gate.retention:g} is of scores on tasks, and there are none; give "
                "evaluate.tasks, or leave the gate out"
            )
        if self.bridges is not None and not self.tasks:
            raise ValueError(
                "bridges: are tokens of answers to tasks, and there are none; give evaluate.tasks, or leave bridges out"
            )
        for name, task in self.tasks.items():
            if task.marking == "tests" and not self.run_code:
                raise ValueError(f"tasks.{name}: {NO_CODE}")
        return self
