"""The report of a run as data: one typed record, written as report.json and read back.

The JSON has a schema version. Whoever changes the name or the meaning of a field raises it. Every key is always there:
what a run does not have is null (a single thing) or empty (several), so that jq finds the same places in each report.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import GENERALIST, SINGLE_EXPERT, TEACHER_4BIT
from orchestrator.prompts.notes import text_notes
from orchestrator.reporting.evaluation import Evaluation
from orchestrator.reporting.gathering import (
    model_report,
    prompts_report,
    read_logs,
    student_report,
    targets_report,
    teacher_reports,
    without_folders,
)
from orchestrator.reporting.measures.costs import Cost, TrainingCost, cost_of, training_costs
from orchestrator.reporting.money.nodes import NodesReport
from orchestrator.reporting.money.spent import Spent, spent_of
from orchestrator.reporting.records import (
    ModelReport,
    PromptsReport,
    RepairReport,
    StudentReport,
    TargetsReport,
    TeacherReport,
)
from orchestrator.reporting.repairs import repairs
from orchestrator.reporting.scores import (
    Calibration,
    CurvePoint,
    Curves,
    Difference,
    FourBitReport,
    ProbeRank,
    Score,
    SingleExpertReport,
    UnigramReport,
)
from orchestrator.reporting.timing import Timing, Worked
from orchestrator.reporting.verdict import Verdict, generalist_label, verdict_of
from orchestrator.runs.folder import RunFolder
from workers.export.artefact import Artefact
from workers.layout import REPORT_HTML, export_key

SCHEMA_VERSION = 3
"""Of report.json."""

_REMEDY = "`stillhouse evaluate CONFIG` writes it anew"


@dataclass(kw_only=True)
class Report:
    """Everything that a run found."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # of the records below it too

    schema: int = SCHEMA_VERSION
    run: str
    """Its name."""
    generation: int = 1
    """Which generation of the run it is of."""
    seed: int
    teachers: dict[str, TeacherReport]
    targets: TargetsReport
    repairs: tuple[RepairReport, ...]
    prompts: PromptsReport
    students: dict[str, StudentReport]
    """By specialist."""
    verdicts: dict[str, Verdict]
    """What each specialist is worth, in sentences."""
    timing: Timing
    failures: dict[str, str]
    """Why specialists and controls failed."""
    table: dict[str, dict[str, Score]]
    """Scores of specialists, the generalist and the further models (`evaluate.models`) by domain."""
    models: dict[str, ModelReport]
    """Those of the table that were not trained here."""
    curves: dict[str, dict[str, Curves]]
    """By entropy and position, of every model that was scored, by domain."""
    calibration: dict[str, dict[str, Calibration]]
    """Of every model that was scored, by domain."""
    costs: dict[str, Cost]
    """What models cost to run, of those that were timed; `teacher` is the first teacher."""
    trained: dict[str, TrainingCost] = field(default_factory=dict)
    """What training took, of specialists, controls and the generalist, as far as it has ended."""
    spent: Spent | None = None
    """What the run took of GPUs, CPUs and dollars, by part and by specialist; None before that is known, and in
    reports of earlier versions."""
    nodes: NodesReport | None = None
    """Which nodes the cluster had while the run worked; None where there were never two, and in reports of earlier
    versions."""
    differences: dict[str, Difference]
    """KL of one model less that of another, by `NAME - hard_labels` and `NAME - given_answers`, at equal tokens,
    `NAME - generalist`, `NAME - teacher_4bit`, and `NAME - OTHER` of `evaluate.beside`."""
    probes: dict[str, dict[str, tuple[ProbeRank, ...]]]
    """By model and domain, in the order of the probes."""
    single_expert: SingleExpertReport | None
    teacher_4bit: FourBitReport | None = None
    unigram: UnigramReport | None
    notes: tuple[str, ...]
    """Where text and captured distributions disagree."""
    html: str
    """The same with pictures, beside it."""

    def note_exports(self, keys: Collection[str], artefacts: Mapping[str, Sequence[Artefact]] | None = None) -> None:
        """Note which specialists are exported now, by the keys of their folders, and what is known of their files; of
        one that is there already, what is known now."""
        for name, student in self.students.items():
            if (key := export_key(name)) in keys:
                student = replace(student, export=key)
            now = {artefact.path: artefact for artefact in (artefacts or {}).get(name, ())}
            files = {**{artefact.path: artefact for artefact in student.artefacts}, **now}
            self.students[name] = replace(student, artefacts=tuple(files.values()))

    def take_timing(self, worked: Worked, config: RunConfig) -> None:
        """Note the seconds of the run's parts and of each student's training, what places cost, and the nodes."""
        self.timing, self.spent, self.nodes = worked.timing, spent_of(worked.held, config), worked.nodes
        for name, cost in self.trained.items():
            self.trained[name] = replace(cost, seconds=worked.by_student.get(name, cost.seconds))

    def take_scores(self, earlier: Report) -> None:
        """The scores that an earlier report has of the same students; what they are now stays."""
        for name, student in self.students.items():
            if (scored := earlier.students.get(name)) is not None:
                of_text = ("heldout", "initial", "hard_labels", "given_answers", "at_control_tokens", "beside")
                of_models = ("difference", "probes", "calibration", "hardest", "capacity", "cost", "own_text")
                of_tasks = ("gate", "tasks", "harness", "parrot", "inheritance", "bias", "bridges", "quantised")
                kept = {f: getattr(scored, f) for f in (*of_text, *of_models, *of_tasks, "generations")}
                self.students[name] = replace(student, **kept)
                self.verdicts[name] = earlier.verdicts[name]

    @property
    def title(self) -> str:
        """The run's name, and which generation it is."""
        return self.run if self.generation == 1 else f"{self.run}, generation {self.generation}"

    @property
    def questioned(self) -> dict[str, StudentReport | ModelReport]:
        """Specialists, and models that were not trained here."""
        return {**self.students, **self.models}

    @property
    def artefacts(self) -> list[Artefact]:
        """The exported files of all specialists."""
        return [artefact for student in self.students.values() for artefact in student.artefacts]

    def fails_gate(self) -> bool:
        """Whether a specialist keeps less of its teacher's scores than `evaluate.gate` asks, or an exported file is
        computed otherwise by its runtime than it was trained."""
        failed = any(model.gate is not None and not model.gate.passed for model in self.questioned.values())
        return failed or any(artefact.within_gate is False for artefact in self.artefacts)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, `schema` first."""
        return _adapter().dump_python(self, mode="json")

    def to_json(self) -> str:
        """The contents of report.json."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @staticmethod
    def from_json(data: str | bytes | dict[str, Any]) -> Report:
        """A report from its JSON, as text or parsed.

        Raises ValueError for another schema version, and for a key that is missing or not known.
        """
        values = data if isinstance(data, dict) else json.loads(data)
        version = values.get("schema") if isinstance(values, dict) else None
        if version != SCHEMA_VERSION:
            has = "no schema version" if version is None else f"schema version {version}"
            raise ValueError(f"report.json has {has}, this stillhouse reads version {SCHEMA_VERSION}; {_REMEDY}")
        try:
            report = _adapter().validate_python(values)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise ValueError(f"report.json: {'; '.join(faults)}; {_REMEDY}") from None
        if lacking := {f.name for f in fields(Timing)} - values["timing"].keys():  # fields that have defaults
            raise ValueError(f"report.json: timing lacks {', '.join(sorted(lacking))}; {_REMEDY}")
        return report


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def build_report(
    run: RunFolder, config: RunConfig, evaluation: Evaluation | None, failures: dict[str, str], timing: Timing
) -> Report:
    """Everything that a run found. `config` has absolute paths; the report has names as they were written."""
    written, prompts = run.config(), prompts_report(run)
    captured = read_logs(run)
    failures = {name: without_folders(run, why) for name, why in failures.items()}
    scores = evaluation.scores if evaluation is not None else {}
    differences = {n: Difference.of(d) for n, d in evaluation.differences.items()} if evaluation else {}
    students = {n: student_report(run, config, written, n, captured, evaluation, failures) for n in config.specialists}
    asked = {(a.source, a.domains) for a in prompts.asked if not a.given}
    return Report(
        run=config.name,
        generation=run.generation,
        seed=config.seed,
        teachers=teacher_reports(config, written, captured),
        targets=targets_report(run, config, captured),
        repairs=tuple(RepairReport(**r | {"readers": tuple(r["readers"])}) for r in repairs(run, config)),
        prompts=prompts,
        students=students,
        verdicts={n: verdict_of(n, s, differences.get(generalist_label(n))) for n, s in students.items()},
        timing=timing,
        failures=failures,
        table={
            n: _by_domain(scores[n]) for n in [*config.specialists, GENERALIST, *config.evaluate.models] if n in scores
        },
        models={n: model_report(config, n, evaluation) for n in config.evaluate.models if n in scores}
        if evaluation
        else {},
        curves=_curves(evaluation) if evaluation else {},
        calibration=_calibration(evaluation) if evaluation else {},
        costs={n: cost_of(s, config) for n, s in evaluation.speeds.items()} if evaluation else {},
        trained=training_costs(run, config),
        differences=differences,
        probes=_probes(evaluation) if evaluation else {},
        single_expert=_single_expert(scores),
        teacher_4bit=_teacher_4bit(evaluation) if evaluation else None,
        unigram=UnigramReport(truth_excess_kl=evaluation.unigram) if evaluation and evaluation.unigram else None,
        notes=tuple(text_notes(config, asked)),
        html=REPORT_HTML,
    )


def _by_domain(scores: dict[str, dict[str, float]]) -> dict[str, Score]:
    return {domain: Score.of(score) for domain, score in scores.items()}


def _single_expert(scores: dict[str, dict[str, dict[str, float]]]) -> SingleExpertReport | None:
    if SINGLE_EXPERT not in scores:
        return None
    by_domain = _by_domain(scores[SINGLE_EXPERT])
    return SingleExpertReport(kl={domain: score.kl for domain, score in by_domain.items()}, by_domain=by_domain)


def _teacher_4bit(evaluation: Evaluation) -> FourBitReport | None:
    if (found := evaluation.rounded) is None:
        return None
    return FourBitReport(
        by_domain=_by_domain(evaluation.scores.get(TEACHER_4BIT, {})),
        parameters=found.parameters,
        rounded=found.rounded,
        bytes=found.weight_bytes,
        bytes_at_16_bit=found.weight_bytes_before,
    )


def _curves(evaluation: Evaluation) -> dict[str, dict[str, Curves]]:
    return {
        model: {
            d: Curves(**{by: tuple(CurvePoint(**p) for p in points[by]) for by in points})
            for d, points in found.items()
        }
        for model, found in evaluation.curves.items()
    }


def _calibration(evaluation: Evaluation) -> dict[str, dict[str, Calibration]]:
    return {n: {d: Calibration.of(c) for d, c in by.items()} for n, by in evaluation.calibration.items()}


def _probes(evaluation: Evaluation) -> dict[str, dict[str, tuple[ProbeRank, ...]]]:
    return {
        model: {
            domain: tuple(ProbeRank(rank=int(r["rank"]), probability=r["probability"]) for r in ranks)
            for domain, ranks in by_domain.items()
        }
        for model, by_domain in evaluation.probes.items()
    }
