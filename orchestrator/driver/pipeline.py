"""A run from prompts to report, and each of its stages alone.

    try out -> freeze prompts -> capture units <-> train students -> evaluate -> export -> report

Capture and training meet only in the target store: students begin with the first committed unit. Every stage leaves
what it made in the run folder and passes over what is there already, so the same command resumes where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

import ray

from cluster.placement import PlaceDeadline
from cluster.session import address_of
from orchestrator.config.loading import ConfigFile
from orchestrator.driver.captures import Captures
from orchestrator.driver.loop import watch
from orchestrator.driver.session import Session, open_leased, open_session
from orchestrator.driver.trainings import Trainings
from orchestrator.monitors.base import Monitor
from orchestrator.preflight.place import Needs
from orchestrator.render.model_card import model_card
from orchestrator.render.page.writing import last_texts, write_report
from orchestrator.render.sentences import rejected_rows
from orchestrator.reporting.evaluation import Evaluation
from orchestrator.reporting.report import Report, build_report
from orchestrator.reporting.timing import Timing
from orchestrator.reporting.told import scored_students
from orchestrator.runs.errors import RunFailed
from orchestrator.runs.folder import RunFolder
from orchestrator.stages.capture import lacking, limited, missing_units, open_stores
from orchestrator.stages.evaluation import Evaluations
from orchestrator.stages.export import Exports, export, make_apart
from orchestrator.stages.export_tasks import ExportTasks
from orchestrator.stages.preparing.preparation import Preparation
from workers.channels.events import UnitsPlanned
from workers.evaluation.resources import resource_request
from workers.layout import PROMPTS_SUMMARY, REPORT_JSON
from workers.splits import TRAIN
from workers.targets.contract import Contract


def run_all(file: ConfigFile, monitors: Sequence[Monitor], *, takes_over: bool = False) -> tuple[int, Report]:
    """The whole run; returns the exit code (1 if a specialist failed, 3 if one does not pass the gate) and the
    report. `takes_over`: another driver of the run is asked to leave first; so it is for captures and trainings."""
    with open_session(file, monitors, Needs(teachers=True, students=True, evaluator=True), takes_over) as session:
        session.ctx.come_to("prepare")
        with Preparation(session.ctx, initials=True) as preparation:
            preparation.try_out()
            declared = freeze_prompts(session, preparation)
            session.ctx.come_to("capture and train")
            captures = begin_captures(session)
            make_initial_weights(session, preparation, declared.vocabulary)  # while the teacher loads
        watch(session, captures, Trainings(session.ctx, [], declared, session.failures, repairs=True))
        report = measure_and_export(session)
    return (1 if session.failures else _gate_code(report)), report


def capture_only(
    file: ConfigFile, monitors: Sequence[Monitor], limit: int | None, *, takes_over: bool = False
) -> RunFolder:
    """The teacher's part alone: all missing units, or the first `limit` of them."""
    with open_session(file, monitors, Needs(teachers=True), takes_over) as session:
        session.ctx.come_to("prepare")
        with Preparation(session.ctx) as preparation:
            preparation.try_out()
            freeze_prompts(session, preparation)
        session.ctx.come_to("capture")
        watch(session, begin_captures(session, limit), None)
    return session.ctx.run


def train_only(
    file: ConfigFile, monitors: Sequence[Monitor], only: list[str], *, takes_over: bool = False
) -> dict[str, str]:
    """The students' part alone, from units that are captured already; returns the failures."""
    with open_session(file, monitors, Needs(students=True, only=tuple(only)), takes_over) as session:
        session.ctx.come_to("prepare")
        with Preparation(session.ctx, initials=True) as preparation:
            preparation.try_out()
            declared = freeze_prompts(session, preparation)
            if missing := missing_units(session.ctx.run, (TRAIN,)):
                raise ValueError(
                    f"train: {lacking(missing)}; run `stillhouse capture` first, or `stillhouse run`, which does both "
                    "at once"
                )
            make_initial_weights(session, preparation, declared.vocabulary)
        session.ctx.come_to("train")
        watch(session, None, Trainings(session.ctx, only, declared, session.failures, repairs=False))
    return session.failures


def evaluate_only(file: ConfigFile, monitors: Sequence[Monitor]) -> tuple[int, Report]:
    """Scores and report of what is trained; returns the exit code (3 if a specialist does not pass the gate) too."""
    with open_session(file, monitors, Needs(evaluator=True)) as session:
        report = measure_and_export(session, exports=False)
    return _gate_code(report), report


def _gate_code(report: Report) -> int:
    return 3 if report.fails_gate() else 0


def export_only(file: ConfigFile, monitors: Sequence[Monitor]) -> Exports:
    """Exports of what is trained, with the scores of the last report, in which they are noted. On the cluster that the
    configuration or RAY_ADDRESS names; without one on this machine, where no Ray is started for it."""
    run = RunFolder.of(file.located())
    run.refuse_other(file.config)
    config = run.as_begun(file).located()
    if not any(run.student_done(n) for n in config.specialists):
        raise ValueError(f"export: no specialist of {run.uri} is trained yet; run `stillhouse train` first")
    alone = address_of(config.cluster) == "local"
    with open_leased(file, monitors) if alone else open_session(file, monitors, Needs()) as session:
        session.ctx.come_to("export")
        report, last = build_report(run, config, None, {}, Timing()), _last_report(session)
        if last is not None:
            report.take_scores(last)
        cards = {name: model_card(report, name) for name in report.students}
        exports = export(session.ctx, report, cards, make_apart if alone else ExportTasks(session.ctx, session.poll))
        session.failures.update(exports.failures)
        if last is not None:
            session.ctx.require_lease()
            last.note_exports(exports.keys, exports.artefacts)
            write_report(run.storage, last, last_texts(run.storage))
    return exports


def _last_report(session: Session) -> Report | None:
    """A run's report; None where it has none, or one of an earlier version, whose scores cards then go without."""
    if (said := session.ctx.run.read_json(REPORT_JSON)) is None:
        return None
    try:
        return Report.from_json(said)
    except ValueError:
        session.ctx.say("report.json is of an earlier version: cards go without scores; `stillhouse evaluate` has them")
        return None


def freeze_prompts(session: Session, preparation: Preparation) -> Contract:
    """Prompts frozen and stores opened; returns what students expect of theirs. What is there already is only read."""
    summary = preparation.prompts(session.found.take_screened())
    splits = ", ".join(f"{s['prompts']} {name} in {s['units']} units" for name, s in summary["splits"].items())
    session.ctx.say(f"prompts frozen: {splits}; {rejected_rows(summary['reasons'])}")
    declared = open_stores(session.ctx.run, session.ctx.config, session.found.tokenizer, summary["vocabulary"])
    preparation.heads()
    return declared


def begin_captures(session: Session, limit: int | None = None) -> Captures:
    """The teachers' passes over all missing units, or the first `limit` of them."""
    ctx = session.ctx
    missing, summary = missing_units(ctx.run), ctx.run.read_json(PROMPTS_SUMMARY) or {}
    planned = sum(split["units"] for split in summary["splits"].values())
    ctx.report(UnitsPlanned(units=planned, committed=planned - sum(map(len, missing.values()))))
    return Captures(ctx, limited(missing, limit))


def make_initial_weights(session: Session, preparation: Preparation, vocabulary: int) -> None:
    """What every student starts from, made where it is missing."""
    for name, words in preparation.initial(vocabulary):
        session.ctx.say(f"student {name}: {words}")


def measure_and_export(session: Session, *, exports: bool = True) -> Report:
    """Evaluate, export, report."""
    ctx = session.ctx
    ctx.come_to("evaluate")
    measured = _measured(session)
    session.save()
    report = build_report(ctx.run, ctx.config, measured, session.failures, Timing())
    for event in scored_students(report):
        ctx.report(event)
    if exports:
        ctx.come_to("export")
        ctx.require_lease()
        cards = {name: model_card(report, name) for name in report.students}
        written = export(ctx, report, cards, ExportTasks(ctx, session.poll))
        report.note_exports(written.keys, written.artefacts)
        session.failures.update(written.failures)
        report.failures = {**report.failures, **written.failures}
    report.take_timing(session.worked(), ctx.config)  # of the exports too; it reads all events
    ctx.require_lease()
    write_report(ctx.run.storage, report, measured.texts if measured is not None else {})
    return report


def _measured(session: Session) -> Evaluation | None:
    """The scores of what is trained; None where nothing is."""
    trained = [n for n in session.ctx.config.specialists if session.ctx.run.student_done(n)]
    measured = [*trained, *session.ctx.config.evaluate.models]
    if not measured:
        return None
    session.ctx.say(f"evaluating {', '.join(measured)} on held-out text")
    evaluations = Evaluations(session.ctx)
    settings = session.ctx.config
    deadline = PlaceDeadline(
        resource_request(settings.evaluate), "the evaluator", settings.cluster.placement_deadline_s
    )
    while not ray.wait([evaluations.call], timeout=0.25)[0]:
        session.poll()
        try:
            deadline.check()
        except TimeoutError as error:
            ray.cancel(evaluations.call, force=True)
            raise RunFailed(f"evaluate: {error}") from None
    session.poll(patience_s=1.0)
    return evaluations.finish()
