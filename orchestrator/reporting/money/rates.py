"""How fast a run worked, from its report: for `stillhouse plan --rates RUN`."""

from __future__ import annotations

from orchestrator.config.schema import RunConfig
from orchestrator.config.students import Student, student_groups
from orchestrator.reporting.measures.costs import TrainingCost
from orchestrator.reporting.money.spent import Amount
from orchestrator.reporting.report import Report
from orchestrator.runs.folder import RunFolder, find_run
from orchestrator.runs.rates import RunRates
from workers.layout import REPORT_JSON

_ANOTHER = "or leave --rates out"


def rates_of(where: str) -> RunRates:
    """What the run that `where` names measured. Raises ValueError where there is none, or it has no report of this
    version."""
    try:
        run = find_run(where)
        report = Report.from_json(run.storage.read(REPORT_JSON))
    except FileNotFoundError:
        raise ValueError(
            f"--rates: run {where!r} has no {REPORT_JSON}; it is written when a run ends, and by `stillhouse evaluate "
            f"CONFIG`; name a run that has one, {_ANOTHER}"
        ) from None
    except ValueError as error:
        raise ValueError(f"--rates: {error}") from None
    return measured(run, report)


def measured(run: RunFolder, report: Report) -> RunRates:
    """The rates of a run from its report. Raises ValueError where nothing was measured."""
    config, spent = run.config(), report.spent
    if spent is None or not (spent.capture or spent.training):
        raise ValueError(
            f"--rates: the report of {run.uri} does not say how long places were held (no log of its events was left); "
            f"name another run, {_ANOTHER}"
        )
    teachers = {name: t.tokens_per_s for name, t in report.teachers.items() if t.tokens_per_s}
    students = {s.name: s for group in student_groups(config) for s in group}
    trained = {name: cost for name, cost in report.trained.items() if name in students and name in spent.training}
    rates = {name: _worker_rate(students[name], spent.training[name], cost) for name, cost in trained.items()}
    texts = report.targets.rows + sum(report.targets.rejected.values())
    return RunRates(
        run=report.title,
        uri=run.uri,
        on=_hardware(run, config),
        config=config,
        teachers=teachers,
        starts={n: _start(config, n, spent.capture[n], report) for n in teachers if n in spent.capture},
        students={name: rate for name, rate in rates.items() if rate},
        parameters={name: cost.parameters for name, cost in trained.items() if cost.parameters}
        | ({"teacher": report.costs["teacher"].parameters} if "teacher" in report.costs else {}),
        text_targets=report.targets.tokens / texts if texts else None,
        prepare_s=_seconds(spent.prepare, 1.0, 0.0),
        evaluate_s=_seconds(spent.evaluate, config.evaluate.cpus, config.evaluate.gpus),
        export_s=_seconds(spent.export, config.evaluate.cpus, config.evaluate.gpus),
    )


def _seconds(amount: Amount, cpus: float, gpus: float) -> float:
    """For how long one place was held, or several one after another."""
    return amount.gpu_s / gpus if gpus else amount.cpu_s / cpus


def _start(config: RunConfig, name: str, held: Amount, report: Report) -> float:
    """Seconds of one replica, of the least of them, in which it was held and made no units."""
    teacher, made = config.teachers[name], report.teachers[name]
    replicas = _seconds(held, teacher.cpus_per_rank * teacher.ep_size, teacher.gpus_per_rank * teacher.ep_size)
    return max(replicas - made.tokens / made.tokens_per_s, 0.0) / teacher.replicas[0]


def _worker_rate(student: Student, held: Amount, cost: TrainingCost) -> float | None:
    """Target tokens a second of one of a student's workers; None where it held no place that is known of."""
    train = student.config.train
    seconds = _seconds(held, train.cpus_per_worker, train.gpus_per_worker)
    worked = seconds - (cost.waited_s or 0.0) * train.workers[0]
    return cost.tokens / worked if worked > 0 else None


def _hardware(run: RunFolder, config: RunConfig) -> str:
    """What the run's driver ran on: its node, and the version of torch."""
    found = run.environment()
    gpus = any(t.gpus_per_rank for t in config.teachers.values())
    gpus |= any(s.train.gpus_per_worker for s in config.specialists.values())
    torch = (found.get("packages") or {}).get("torch", "?")
    return f"{'GPUs' if gpus else 'CPUs'} (driver: {found.get('cpus', '?')} CPUs, torch {torch})"
