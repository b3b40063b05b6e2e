"""The whole configuration of a run, and the checks between its parts that need nothing but itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import ClusterConfig
from cluster.settings import Settings, Text
from workers.evaluation.config import EvaluateConfig
from workers.student.config import SpecialistConfig
from workers.targets.config import TargetsConfig
from workers.teacher.config import AnswersConfig, SamplingChanges, TeacherConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


class PromptSource(Settings):
    """Where prompts of a domain come from. A plain string means `path`."""

    path: str
    """A .jsonl or .parquet file (relative to the configuration file, or s3://...), or a Hugging Face dataset id. Rows
    hold `prompt` (text) or `messages` (chat); optional `answer` (scored instead of generating), `id`, `domain` (a name
    or a list; without it the name of this source), `split` (`train` or `heldout`)."""

    dataset_split: str = "train"
    """Split of a Hugging Face dataset."""

    dataset_config: str | None = None
    """Configuration of a Hugging Face dataset."""

    prompt_field: str = "prompt"
    """Column of the prompt's text."""

    messages_field: str = "messages"
    """Column of the chat messages."""

    answer_field: str = "answer"
    """Column of the given answer."""

    teacher: str | None = None
    """Name of the teacher that answers these prompts. Null: as `domains` says, else the first."""

    sampling: SamplingChanges | None = None
    """What is sampled otherwise than `domains` and the teacher's `sampling` say."""

    system_prompt: Text | None = None
    """Put before the messages of each row that has no system message of its own. Null: as `domains` says. "": none."""

    chat: bool = False
    """Write rows of `prompt` as a user's message in the teacher's chat template: what an instruct teacher expects. As
    they stand, they are text to be continued. Rows of `messages` are chat anyhow."""

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


class RunConfig(Settings):
    """One run: one teacher pass, several specialists."""

    name: str = Field(pattern=NAME, max_length=100)
    """Name of the run: with `storage`, its identity. The same name resumes where it stopped."""

    storage: str = "runs"
    """Local folder (relative to where the command is typed) or s3://bucket/prefix, in which the run folder is made."""

    seed: int = Field(default=0, ge=0)
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

    specialists: dict[str, SpecialistConfig] = Field(min_length=1)
    """The students, by name. `defaults: {...}` at the top level is merged into each."""

    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured."""

    export: list[Literal["safetensors"]] = ["safetensors"]
    """Formats in which specialists are exported."""

    cluster: ClusterConfig = ClusterConfig()
    """Where it runs."""

    @field_validator("prompts", mode="before")
    @classmethod
    def _short_sources(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: {"path": v} if isinstance(v, str) else v for k, v in value.items()}
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
        for name in self.specialists:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"specialists: {name!r} is not a name; use letters, digits, _ and -")
            if name == "teacher" or (name in ("generalist", "single_expert") and name in self.evaluate.baselines):
                raise ValueError(f"specialists: {name!r} is what the report calls something else; choose another name")
            self._check_loss(name)
            mix = self.specialists[name].mix or {name: 1.0}
            if not any(w > 0 for w in mix.values()) or any(w < 0 for w in mix.values()):
                raise ValueError(f"specialists.{name}.mix: shares must not be negative and one must be positive")
        return self

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

    def first_teacher(self) -> str:
        return next(iter(self.teachers))

    def teacher_of(self, domain: str) -> str:
        """The teacher that answers a domain's prompts, unless their source names another."""
        settings = self.domains.get(domain)
        return (settings.teacher if settings else None) or self.first_teacher()

    def teacher_key(self, name: str) -> str:
        """How a message names a teacher's settings: in the short form where that is what one writes for it."""
        return "teacher" if list(self.teachers) == ["teacher"] else f"teachers.{name}"
