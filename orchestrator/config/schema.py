"""The whole configuration of a run, and the checks between its parts that need nothing but itself."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from cluster.config import ClusterConfig
from cluster.nodes.prices import check_prices
from cluster.settings import Settings, Share, Text
from orchestrator.config.fan_out import FanOutConfig
from orchestrator.config.trackers import TrackersConfig
from workers.evaluation.config import EvaluateConfig
from workers.export.config import ExportConfig
from workers.student.config import InitialConfig, SpecialistConfig
from workers.targets.config import Precision, TargetsConfig
from workers.teacher.config import AnswersConfig, SamplingChanges, TeacherConfig

_CONTROL_SHARE_ON_GPUS = 0.1
"""Part of its specialist's budget that a control takes on GPUs. On CPUs, where models are small, it takes all."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


_NOT_OF_TEMPLATES = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"} | {
    "tokenize", "chat_template", "padding", "truncation", "max_length", "return_tensors", "return_dict",
}  # fmt: skip
"""What is given to every template, or is an argument of transformers' own and reaches none."""


def _check_kwargs(value: dict[str, Any]) -> dict[str, Any]:
    if taken := sorted(value.keys() & _NOT_OF_TEMPLATES):
        raise ValueError(f"{', '.join(taken)}: not a setting of a chat template but set by the run; take it out")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("holds a value that is not JSON (a date, perhaps); write it as text or a number") from None
    return value


TemplateKwargs = Annotated[dict[str, Any], AfterValidator(_check_kwargs)]
"""Settings that a chat template reads by name."""


class PromptSource(Settings):
    """Where prompts of a domain come from. A plain string means `path`."""

    path: str
    """A file (.jsonl, .json, .csv or .parquet, each also .gz or .zst), a pattern such as data/*.jsonl, a folder, a
    dataset saved on disk (all relative to the configuration file, or s3://...), or the id of a dataset on the Hugging
    Face Hub. What rows may hold is in orchestrator/prompts/FORMATS.md; each may also have `id`, `domain` (a name or a
    list; without it the name of this source) and `split` (`train` or `heldout`)."""

    dataset_split: str = "train"
    """Split of a dataset: on the Hub, saved on disk, or of a folder whose files are named by split."""

    dataset_config: str | None = None
    """Configuration of a dataset on the Hub. Null: its default."""

    prompt_field: str | None = None
    """Column of the question: text, or messages. Null: the known names."""

    input_field: str | None = None
    """Column of text below the question, a blank line between. Null: `input` or `context` below an `instruction`."""

    messages_field: str | None = None
    """Column of a whole conversation. Null: `messages` or `conversations`."""

    text_field: str | None = None
    """Column of a whole text that is given: nothing is asked, the teacher scores it. Null: `text`."""

    answer_field: str | None = None
    """Column of the given answer: text, or messages. Null: `answer`, `completion`, `response` or `output`. "": none."""

    system_field: str | None = None
    """Column of a system message. Null: `system` or `system_prompt`. "": none."""

    tools_field: str | None = None
    """Column of the functions that a conversation may call. Null: `tools`. "": none."""

    answers: Literal["given", "sampled"] | None = None
    """`given`: the answer of each row is scored, and a row without one is rejected. `sampled`: the teacher answers,
    whatever the row has. Null: given where there is one, else sampled."""

    answer_format: Literal["template", "verbatim"] = "template"
    """How a given answer of a chat is written. `template`: as the chat template writes an assistant's turn; where that
    leaves out or rewrites a part (reasoning, mostly), the row is rejected. `verbatim`: as it stands behind the opening
    of the assistant's turn, and the end token."""

    teacher: str | None = None
    """Name of the teacher that answers these prompts. Null: as `domains` says, else the first."""

    sampling: SamplingChanges | None = None
    """What is sampled otherwise than `domains` and the teacher's `sampling` say."""

    system_prompt: Text | None = None
    """Put before the messages of each row that has no system message of its own. Null: as `domains` says. "": none."""

    chat_template_kwargs: TemplateKwargs = {}
    """Settings that the chat template reads, for example {enable_thinking: false}; over those of `domains`, by key."""

    chat: bool | None = None
    """True: write a question as a user's message in the teacher's chat template, as an instruct teacher expects.
    False: as text to be continued. Null: `prompt` is text, `instruction` and `question` are messages. Rows of messages
    are chat anyhow."""

    special_tokens: Literal["text", "tokens"] = "text"
    """What becomes of strings in the rows that look like special tokens, such as <|im_end|>. `text`: they are read as
    the characters that they are. `tokens`: as those tokens, for text that was written by a template before."""

    duplicates: Literal["drop", "keep"] = "drop"
    """Rows that ask the same again: of the same domains, answered in the same way, with the same text (and the same
    given answer). `drop` rejects them; of two, one held out stays, so that no text is in both splits."""

    limit: int | None = Field(default=None, ge=1)
    """Rows read at most. Null reads all."""

    max_tokens: int | None = Field(default=None, ge=2)
    """Longest text, prompt and answer together; longer rows are rejected. Null: what the teacher can hold."""


class DomainConfig(Settings):
    """How prompts of a domain are answered, whichever source they come from. `prompts.SOURCE` has the last word, the
    teacher's own `sampling` the first. A prompt of several domains that disagree is rejected."""

    teacher: str | None = None
    """Name of the teacher that answers them. Null is the first."""

    sampling: SamplingChanges | None = None
    """What is sampled otherwise than the teacher's `sampling` says."""

    system_prompt: Text | None = None
    """Put before the messages of each row that has no system message of its own. Probes go without."""

    chat_template_kwargs: TemplateKwargs = {}
    """Settings that the chat template reads, for example {enable_thinking: false}."""


class ContinuesConfig(Settings):
    """The older generation that specialists go on from, with a new optimiser."""

    generation: Annotated[int, Field(ge=1)] | str | None = None
    """The one before this: its number, where this is the next one of the same run; or the folder or s3:// URI of
    another run, relative to this file. Null: `stillhouse run CONFIG --continue` takes the run's last one."""

    replay: Share = Field(default=0.2, ge=0, lt=1)
    """Share of a student's target tokens that comes from training texts of older generations, of the same domains, each
    generation an equal part. 0 %: none, so that what the new texts do not need may be forgotten."""


class RunConfig(Settings):
    """One run: one teacher pass, several specialists."""

    name: str = Field(pattern=NAME, max_length=100)
    """Name of the run: with `storage`, its identity. The same name resumes where it stopped."""

    storage: str = "runs"
    """Local folder (relative to where the command is typed) or s3://bucket/prefix, in which the run folder is made."""

    seed: int = Field(default=0, ge=0, le=2**53)
    """Seed of everything that is drawn: order, answers, targets, initial weights."""

    teachers: dict[str, TeacherConfig] = Field(min_length=1)
    """Teacher pools by name. `teacher: {...}` is the short form for one."""

    prompts: dict[str, PromptSource] = Field(min_length=1)
    """Prompt sources; the name of a source is the domain of its rows unless they say otherwise."""

    domains: dict[str, DomainConfig] = {}
    """How prompts are answered, by domain: teacher, sampling, system prompt. Rows may name their own domains."""

    answers: AnswersConfig = AnswersConfig()
    """Which answers are kept."""

    targets: TargetsConfig = TargetsConfig()
    """How distributions are kept."""

    specialists: dict[str, SpecialistConfig] = {}
    """The students, by name. `defaults: {...}` at the top level is merged into each. None where only models that were
    trained elsewhere are measured (`evaluate.models`)."""

    fan_out: FanOutConfig = FanOutConfig()
    """Which specialists train when."""

    initial: InitialConfig = InitialConfig()
    """The process that makes the students' initial weights."""

    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured."""

    export: list[ExportConfig] = [ExportConfig(format="safetensors")]
    """Formats in which specialists are exported, for example [safetensors, gguf]."""

    trackers: TrackersConfig = TrackersConfig()
    """Where else it is told how the run goes: [tensorboard, mlflow, wandb, trackio, prometheus], or each with its
    settings."""

    cluster: ClusterConfig = ClusterConfig()
    """Where it runs."""

    continues: ContinuesConfig | None = None
    """That specialists go on from an older generation, or another run. Null: they begin as `model` says."""

    @field_validator("prompts", mode="before")
    @classmethod
    def _short_sources(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: {"path": v} if isinstance(v, str) else v for k, v in value.items()}
        return value

    @field_validator("export", mode="after")
    @classmethod
    def _told_apart(cls, value: list[ExportConfig]) -> list[ExportConfig]:
        told = [(export.format, export.label) for export in value]
        if twice := [export.format for export, own in zip(value, told, strict=True) if told.count(own) > 1]:
            raise ValueError(
                f"{twice[0]} is there twice; two exports of a specialist differ in format, dtype or weights"
            )
        return value

    @model_validator(mode="after")
    def _names_agree(self) -> RunConfig:
        answered: dict[str, PromptSource | DomainConfig] = {f"prompts.{n}": s for n, s in self.prompts.items()}
        answered |= {f"domains.{n}": d for n, d in self.domains.items()}
        for where, settings in answered.items():
            if settings.teacher is not None and settings.teacher not in self.teachers:
                raise ValueError(
                    f"{where}.teacher: {settings.teacher!r} is not one of the teachers {sorted(self.teachers)}"
                )
        self._check_models()
        self._check_beside()
        check_prices(self.cluster)
        for i, export in enumerate(self.export):
            if unknown := sorted(set(export.specialists or ()) - self.specialists.keys()):
                raise ValueError(
                    f"export.{i}.specialists: {unknown[0]!r} is no specialist; there are {sorted(self.specialists)}"
                )
        for name in self.specialists:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"specialists: {name!r} is not a name; use letters, digits, _ and -")
            taken = {"generalist", "single_expert", "teacher_4bit"} & set(self.evaluate.baselines) | {"teacher"}
            if name in taken | ({"unigram"} if self.evaluate.truth is not None else set()):
                raise ValueError(f"specialists: {name!r} is what the report calls something else; choose another name")
            self._check_loss(name)
            self._check_control(name)
            mix = self.specialists[name].mix or {name: 1.0}
            if not any(w > 0 for w in mix.values()) or any(w < 0 for w in mix.values()):
                raise ValueError(f"specialists.{name}.mix: shares must not be negative and one must be positive")
        return self

    def _check_models(self) -> None:
        if not self.specialists and not self.evaluate.models:
            raise ValueError("specialists: there is none, and evaluate.models names no model to measure; give one")
        taken = {*self.specialists, "generalist", "single_expert", "teacher_4bit", "teacher", "unigram"}
        for name in self.evaluate.models:
            if re.fullmatch(NAME, name) is None:
                raise ValueError(f"evaluate.models: {name!r} is not a name; use letters, digits, _ and -")
            if name in taken:
                raise ValueError(f"evaluate.models: {name!r} is the name of something else; choose another one")

    def _check_beside(self) -> None:
        known = {*self.specialists, *self.evaluate.models}
        for name, others in self.evaluate.beside.items():
            if name not in self.specialists:
                raise ValueError(f"evaluate.beside: {name!r} is no specialist; there are {sorted(self.specialists)}")
            for other in others:
                if other not in known - {name}:
                    raise ValueError(
                        f"evaluate.beside.{name}: {other!r} is not another specialist, nor one of evaluate.models; "
                        f"there are {sorted(known - {name})}"
                    )

    def _check_loss(self, name: str) -> None:
        specialist = self.specialists[name]
        try:
            specialist.loss.check_scheme(self.targets.scheme)
        except ValueError as error:
            raise ValueError(f"specialists.{name}.{error}") from None
        if specialist.texts.mask_prompts and self.targets.positions == "answer":
            raise ValueError(
                f"specialists.{name}.texts.mask_prompts: targets.positions is answer, so that prompts have no targets "
                "to leave out; drop mask_prompts, or set targets.positions to all"
            )

    def _check_control(self, name: str) -> None:
        tokens, budget = self.evaluate.control_tokens, self.specialists[name].train.tokens
        if isinstance(tokens, int) and tokens > budget:
            raise ValueError(
                f"evaluate.control_tokens: {tokens:,} is more than specialists.{name}.train.tokens, {budget:,}: a "
                "control is compared with its specialist at equal tokens; give at most that, or a share such as 10%"
            )

    def control_tokens_of(self, specialist: str) -> int:
        """Target tokens that each of the specialist's controls trains on: its whole budget at most."""
        train, tokens = self.specialists[specialist].train, self.evaluate.control_tokens
        if tokens is None:
            tokens = _CONTROL_SHARE_ON_GPUS if train.gpus_per_worker else 1.0
        return tokens if isinstance(tokens, int) else max(1, round(tokens * train.tokens))

    def control_is_short(self, specialist: str) -> bool:
        """Whether the specialist goes on where its controls end."""
        return self.control_tokens_of(specialist) < self.specialists[specialist].train.tokens

    def mix_of(self, specialist: str) -> dict[str, float]:
        """Shares of a specialist's domains, summing to 1; its own name where it has no mix."""
        mix = self.specialists[specialist].mix or {specialist: 1.0}
        total = sum(mix.values()) or 1.0
        return {d: w / total for d, w in mix.items()}

    def own_domain(self, specialist: str) -> str:
        """The domain that a specialist is for: the largest share of its mix."""
        mix = self.mix_of(specialist)
        return max(mix, key=lambda d: (mix[d], d == specialist))

    def demand(self) -> dict[str, float]:
        """Target tokens that all specialists ask of each domain."""
        demand: dict[str, float] = {}
        for name, specialist in self.specialists.items():
            for domain, share in self.mix_of(name).items():
                demand[domain] = demand.get(domain, 0) + share * specialist.train.tokens
        return demand

    def hidden_precision(self) -> Precision:
        """The type that hidden states are kept in: that of all teachers, or float32, which holds any."""
        kinds = {teacher.precision for teacher in self.teachers.values()}
        return kinds.pop() if len(kinds) == 1 else "float32"

    def first_teacher(self) -> str:
        return next(iter(self.teachers))

    def teacher_of(self, domain: str) -> str:
        """The teacher that answers a domain's prompts, unless their source names another."""
        settings = self.domains.get(domain)
        return (settings.teacher if settings else None) or self.first_teacher()

    def teacher_key(self, name: str) -> str:
        """How a message names a teacher's settings: in the short form where that is what one writes for it."""
        return "teacher" if list(self.teachers) == ["teacher"] else f"teachers.{name}"
