"""The parts of a report: plain records, all that report.json holds but its top level and its scores.

Every field is always there. A single thing that is not there is None (null in JSON); of several, an empty tuple or
dict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from orchestrator.reporting.measures.bridges import BridgesReport
from orchestrator.reporting.measures.capacity import CapacityReport
from orchestrator.reporting.measures.costs import StudentCost
from orchestrator.reporting.measures.generations import GenerationsReport
from orchestrator.reporting.measures.harness import HarnessReport
from orchestrator.reporting.measures.own_text import OwnTextReport
from orchestrator.reporting.measures.parrot import BiasReport, InheritanceReport, ParrotReport
from orchestrator.reporting.measures.quantised import QuantisedReport
from orchestrator.reporting.measures.shown import HardPrompt
from orchestrator.reporting.measures.tasks import GateReport, TaskReport
from orchestrator.reporting.scores import (
    Calibration,
    Difference,
    Measured,
    MeasuredOrNone,
    ProbeRanks,
    Score,
)
from workers.export.artefact import Artefact
from workers.fetching.licences import Licence
from workers.first_kl import Light


@dataclass(frozen=True, kw_only=True)
class TeacherReport:
    """One teacher and its work on the training and the held-out store."""

    model: str
    """As it is written in the configuration."""
    licence: Licence | None = None
    """That its card states; None where it states none, or has none."""
    ep_size: int
    """Ranks of a replica."""
    dispatch: str
    tokens: int
    """Target tokens of its units."""
    generated: int
    """Of all its tokens, those that it sampled itself."""
    units: int
    tokens_per_s: float
    """Target tokens per second of one replica's work."""


@dataclass(frozen=True, kw_only=True)
class TargetsReport:
    """The training store."""

    scheme: str
    draws: int
    """Draws per token, of the schemes that sample."""
    positions: str
    tokens: int
    """Target tokens."""
    units: int
    rows: int
    """Texts."""
    bytes: int
    bytes_per_token: float
    kept_per_token: float
    """Kept entries of a token's distribution."""
    rejected: dict[str, int]
    """Answers that were rejected, by reason."""
    rejected_by_domain: dict[str, dict[str, int]]
    """The same by domain and reason; an answer of two domains counts in each."""
    answers: dict[str, int | str]
    """The rules by which answers were rejected, as the store records them."""


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """One time that a damaged unit was recomputed."""

    split: str
    unit: int
    revision: int
    changed: bool
    """Whether it came back with other contents."""
    readers: tuple[str, ...]
    """Students that had read the earlier contents, where these are others."""


@dataclass(frozen=True, kw_only=True)
class SamplingReport:
    """How answers were sampled."""

    temperature: float
    top_p: float
    max_new_tokens: int
    min_new_tokens: int
    stop: tuple[str, ...]
    samples: int
    """Answers per prompt."""


@dataclass(frozen=True, kw_only=True)
class AskedReport:
    """Prompts that were asked in the same way."""

    source: str
    domains: tuple[str, ...]
    given: bool
    """Whether their answers were given and only scored."""
    prompts: int
    teacher: str
    system_prompt: str | None
    chat: bool
    """Whether the chat template wrote them."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    special_tokens: str | None = None
    """What strings in rows that look like special tokens were read as; null where it was not recorded yet."""
    answer_format: str | None = None
    """How given answers of chats were written; null likewise."""
    sampling: SamplingReport


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split of the frozen prompts."""

    units: int
    prompts: int
    domains: dict[str, int]
    """Prompts by domain; one of two domains counts in each."""


@dataclass(frozen=True, kw_only=True)
class PromptsReport:
    """The frozen prompts; of a run that has none yet, all is 0 or empty."""

    vocabulary: int
    """Ids of the first teacher's tokenizer."""
    stop_ids: dict[str, tuple[int, ...]]
    """Ids that end an answer, by teacher."""
    asked: tuple[AskedReport, ...]
    rejected: int
    """Rows that could not be used."""
    reasons: dict[str, int]
    """They again, by reason."""
    reasons_by_source: dict[str, dict[str, int]]
    splits: dict[str, SplitReport]


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """Facts about the weights that a student started from. What was not done to them is None."""

    parameters: int | None
    layers: int | None
    dropped_layers: tuple[int, ...] | None
    """Indices of the layers left out."""
    kl_to_base: MeasuredOrNone
    """What leaving them out cost, nats per token."""
    merged: str | None
    """How experts were made one MLP: `neurons` or `average`."""
    merged_experts: int | None
    merged_width: int | None
    merged_on_tokens: int | None
    routing_entropy: tuple[Measured, ...] | None
    """By layer; 1 where all experts are used alike."""
    kl_to_mixture: MeasuredOrNone
    """Of the merge that was taken, nats per token."""
    kl_of_merges: dict[str, Measured] | None
    """Of all that were tried."""


@dataclass(frozen=True, kw_only=True)
class SourceModel:
    """A model that a student's weights come from."""

    name: str
    """As it is written in the configuration."""
    revision: str | None
    on_hub: bool
    """Whether the name is an id of the Hugging Face Hub, rather than a folder's."""
    licence: Licence | None = None
    """That its card states; None where it states none, or has none."""


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One model that was not trained here (`evaluate.models`), as specialists have it; its scores are in the table."""

    tasks: dict[str, TaskReport]
    harness: dict[str, HarnessReport]
    gate: GateReport | None
    parrot: ParrotReport | None
    inheritance: InheritanceReport | None
    bias: BiasReport | None
    cost: StudentCost | None
    bridges: BridgesReport | None = None


@dataclass(frozen=True, kw_only=True)
class LossPoint:
    """A step of a student's training."""

    tokens: int
    """Target tokens that it had trained on after it."""
    loss: Measured
    """Mean training loss per target token of its batch."""


@dataclass(frozen=True, kw_only=True)
class FirstKlReport:
    """How far a student was from its teacher when it began: on its first batch of training text."""

    kl: Measured
    """KL(teacher ‖ student), nats per token, at the temperature of the targets."""
    tokens: int
    light: Light
    """What that promises, by `evaluate.first_kl`."""


@dataclass(frozen=True, kw_only=True)
class StudentReport:
    """One specialist, on its own domain, beside what it is measured against."""

    domain: str
    """The domain that it is for: the largest share of its mixture."""
    mix: dict[str, float]
    """Its data mixture: shares of domains that add up to 1."""
    tokens: int
    """Target tokens that it trained on; 0 where its training has not ended."""
    steps: int
    base: SourceModel | None
    """None where it started from random weights."""
    model: InitialWeights | None
    export: str | None
    """Key of the exported model below the run's folder."""
    artefacts: tuple[Artefact, ...] = ()
    """What it and its quantised sibling were exported as, each as it was measured; a plain copy too."""
    error: str | None
    """Why it failed."""
    curve: tuple[LossPoint, ...]
    """Its training loss, some 200 steps of it; of a training that goes on, up to its last checkpoint."""
    before: FirstKlReport | None
    """None where it does not learn from distributions, where training has not ended, and of earlier versions' runs."""
    heldout: Score | None
    initial: Score | None
    """Of its own initial weights."""
    hard_labels: Score | None
    """Of its control, which learned from the same text as labels, `hard_labels_tokens` of it."""
    difference: Difference | None
    """KL less that of the control, at equal tokens: of `at_control_tokens`, or of `heldout` where that is None."""
    hard_labels_tokens: int | None = None
    """Target tokens that the control trained on; None where its training has not ended."""
    given_answers: Score | None = None
    """Of the control that learned from given answers alone, `given_answers_tokens` of them."""
    given_answers_tokens: int | None = None
    """Target tokens that it trained on; None where its training has not ended."""
    at_control_tokens: Score | None = None
    """Of the specialist when it had seen as many target tokens as its controls; None where it ended with them too."""
    beside: dict[str, Score] = field(default_factory=dict)
    """Of the models that `evaluate.beside` names, on its own domain."""
    calibration: Calibration | None
    """On its own domain."""
    hardest: tuple[HardPrompt, ...]
    """The held-out prompts of its own domain that it does worst on, the worst first."""
    probes: tuple[ProbeRanks, ...]
    capacity: CapacityReport | None
    """Where it tends to; None where no models were kept on its way."""
    parrot: ParrotReport | None
    """What edits of questions cost it beyond its teacher; None where it was asked no variants."""
    inheritance: InheritanceReport | None
    """How often it gives its teacher's wrong answers; None where it was asked no items."""
    own_text: OwnTextReport | None
    """On text that it wrote itself; None where it wrote none."""
    bias: BiasReport | None
    """What swapped names do to its answers beyond its teacher's; None where none were swapped."""
    bridges: BridgesReport | None = None
    """At the tokens that its teacher's answers hang on; None where these were not looked for."""
    quantised: QuantisedReport | None = None
    """Its quantised sibling, and what rounding alone does; None where it has none."""
    generations: GenerationsReport | None = None
    """What it gained and forgot since the generation that it went on from; None where it began anew."""
    cost: StudentCost | None
    """What it costs to run; None where it was not timed."""
    gate: GateReport | None
    """Whether it keeps enough of its teacher's scores on tasks; None without a gate or items of its domains."""
    tasks: dict[str, TaskReport]
    """Its answers to the items of tasks, and those of what it is measured against, by domain."""
    harness: dict[str, HarnessReport]
    """Its scores in tasks of lm-evaluation-harness likewise, by task."""
