"""A run from prompts to report, and each of its stages alone.

    freeze prompts -> teach units <-> train students -> evaluate -> export -> report

Teaching and training meet only in the target store: students begin with the first committed unit. Every stage leaves
what it made in the run folder and passes over what is there already, so the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.session import ray_session
from orchestrator import capture
from orchestrator.checks import Checked, check
from orchestrator.config import RunConfig
from orchestrator.config_file import ConfigFile
from orchestrator.export import export
from orchestrator.progress_view import ProgressView
from orchestrator.report import build_report, closing_table, markdown
from orchestrator.run_folder import RunFolder
from orchestrator.timing import timing

if TYPE_CHECKING:
    from orchestrator.students import Student

_TICK_S = 0.25
_SAVE_EVENTS_S = 5.0
CODE = Path(__file__).resolve().parent.parent


@dataclass
class Attempt:
    """One driver's attempt at a run: its folder, its view, its events."""

    config: RunConfig
    found: Checked
    run: RunFolder
    view: ProgressView
    epoch: int
    board: Any
    board_name: str
    started: float = field(default_factory=time.time)
    events: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    _saved: float = 0.0

    def drain(self) -> list[dict[str, Any]]:
        """Take in, show and keep what the workers reported since the last call."""
        import ray

        news = ray.get(self.board.drain.remote())
        for event in news:
            self.view.event(event)
        self.events += news
        if time.time() - self._saved > _SAVE_EVENTS_S:
            self.save_events()
        return news

    def save_events(self) -> None:
        """Keep the events of this attempt in the run folder."""
        lines = "".join(json.dumps(e, default=str) + "\n" for e in self.events)
        self.run.storage.write(f"events/{self.epoch:04d}.jsonl", lines.encode())
        wall = json.dumps({"started": self.started, "wall_s": time.time() - self.started}).encode()
        self.run.storage.write(f"events/{self.epoch:04d}.wall.json", wall)
        self._saved = time.time()

    def timing(self) -> dict[str, float]:
        """Seconds of the run's parts over all attempts."""
        self.save_events()
        keys = self.run.storage.list("events")
        events = (json.loads(line) for k in keys if k.endswith(".jsonl") for line in self.run.storage.read(k).splitlines())
        wall = sum(self.run.read_json(k)["wall_s"] for k in keys if k.endswith(".wall.json"))
        return timing(events, wall)


@contextmanager
def attempt(file: ConfigFile, view: ProgressView) -> Iterator[Attempt]:
    """Check everything, open the run folder, connect to Ray; then the block."""
    found = check(file)
    config = file.located()
    run = RunFolder.of(config)
    run.open(file)
    epoch = run.new_attempt()
    view.say(f"run {config.name} at {run.uri}, attempt {epoch}")
    with ray_session(config.cluster, f"stillhouse-{config.name}", CODE):
        from workers.progress import ProgressBoard

        board_name = f"board-{config.name}-{epoch}"
        board = ProgressBoard.options(name=board_name).remote()
        yield Attempt(config, found, run, view, epoch, board, board_name)


def run_all(file: ConfigFile, view: ProgressView) -> tuple[int, dict[str, Any]]:
    """The whole run; returns the exit code (1 if a specialist failed) and the report."""
    with attempt(file, view) as now:
        freeze_prompts(now)
        with view:
            teach_and_train(now)
        report = measure_and_export(now)
    return (1 if now.failures else 0), report


def teach_only(file: ConfigFile, view: ProgressView, limit: int | None) -> Attempt:
    """The teacher's part alone: all missing units, or the first `limit` of them."""
    with attempt(file, view) as now:
        freeze_prompts(now)
        with view:
            work = limited(capture.missing_units(now.run), limit)
            _watch(now, _start_teaching(now, work), None)
    return now


def train_only(file: ConfigFile, view: ProgressView, only: list[str]) -> Attempt:
    """The students' part alone, from units that are taught already."""
    with attempt(file, view) as now:
        freeze_prompts(now)
        if missing := capture.missing_units(now.run, ("train",)):
            count = sum(map(len, missing.values()))
            raise ValueError(f"train: {count} units of the training store are not taught yet; run `stillhouse teach` first, or "
                             "`stillhouse run`, which does both at once")
        with view:
            _watch(now, None, Training(now, only))
    return now


def evaluate_only(file: ConfigFile, view: ProgressView) -> tuple[int, dict[str, Any]]:
    """Scores and report of what is trained."""
    with attempt(file, view) as now:
        report = measure_and_export(now, exports=False)
    return 0, report


def export_only(file: ConfigFile, view: ProgressView) -> list[str]:
    """Exports of what is trained, with the scores of the last report."""
    config = file.located()
    run = RunFolder.of(config)
    run.refuse_other(file.config)
    if not any(run.student_done(n) for n in config.specialists):
        raise ValueError(f"export: no specialist of {run.uri} is trained yet; run `stillhouse train` first")
    report = run.read_json("report.json") or build_report(run, config, None, {}, timing([], 0))
    return export(run, config, report)


def freeze_prompts(now: Attempt) -> None:
    """Prompts frozen, initial weights made, stores opened."""
    import ray

    from orchestrator.initial import Preparer
    from orchestrator.students import initial_key, lineup

    preparer = Preparer.remote()
    summary = ray.get(preparer.freeze_prompts.remote(now.config, now.run.uri))
    splits = ", ".join(f"{s['prompts']} {name} in {s['units']} units" for name, s in summary["splits"].items())
    now.view.say(f"prompts frozen: {splits}; {summary['set_aside']} rows set aside")
    for reason, count in summary["reasons"].items():
        now.view.say(f"  set aside: {count} × {reason}")
    capture.open_stores(now.run, now.config, now.found, summary["vocabulary"])
    for chain in lineup(now.config):
        student = chain[0]
        domain = max(student.mix, key=lambda d: student.mix[d])
        seed = now.config.seed * 1000 + sum(student.name.encode()) % 1000
        facts = ray.get(
            preparer.make_initial.remote(now.run.uri, initial_key(student), student.config.model, domain, summary["vocabulary"], seed)
        )
        dropped = f", layers dropped {facts['dropped_layers']} (KL to base {facts['kl_to_base']:.3f})" if "dropped_layers" in facts else ""
        now.view.say(f"student {student.name}: {facts['parameters'] / 1e6:.2f} M parameters, {facts['layers']} layers{dropped}")
    ray.kill(preparer)


def teach_and_train(now: Attempt) -> None:
    """Teacher and students at once. Replicas are placed first, so that the two can't hold what the other waits for."""
    teaching = _start_teaching(now, capture.missing_units(now.run))
    training = Training(now, [])
    _watch(now, teaching, training)


class Teaching(threading.Thread):
    """The pass over the missing units, in a thread of its own."""

    def __init__(self, now: Attempt, work: dict[str, list[dict[str, Any]]]) -> None:
        super().__init__(daemon=True, name="teaching")
        self._now, self._work = now, work
        self.error: BaseException | None = None
        self.placed = False

    def run(self) -> None:
        try:
            capture.teach(self._now.run, self._now.config, self._work, epoch=self._now.epoch, board=self._now.board_name, note=self._now.view.say)
        except BaseException as error:  # noqa: BLE001 - carried to the main thread, which raises it
            self.error = error


class Training:
    """The students' supervisor and its calls."""

    def __init__(self, now: Attempt, only: list[str]) -> None:
        from orchestrator.students import lineup

        self._now = now
        self._chains = [
            [s for s in chain if now.run.student_done(s.name) is None] for chain in lineup(now.config) if not only or chain[0].name in only
        ]
        self.calls: dict[Any, list[Student]] = {}
        self.started = False

    def start(self) -> None:
        """Send every chain of students to the supervisor."""
        from orchestrator.students import Supervisor, make_job

        now, self.started = self._now, True
        chains = [c for c in self._chains if c]
        if not chains:
            return
        supervisor = Supervisor.options(max_concurrency=len(chains)).remote()
        for chain in chains:
            jobs = [make_job(s, now.run, now.config.seed, now.found.tokenizer, now.board_name) for s in chain]
            self.calls[supervisor.train.remote(jobs)] = chain

    def collect(self) -> None:
        """Take in the chains that ended; a failure is noted and shown, the others go on."""
        import ray

        ready, _ = ray.wait(list(self.calls), num_returns=len(self.calls), timeout=0) if self.calls else ([], [])
        for call in ready:
            chain, error = self.calls.pop(call), ray.get(call)
            if error is not None:
                name = next((s.name for s in chain if self._now.run.student_done(s.name) is None), chain[0].name)
                self._now.failures[name] = error
                self._now.view.event({"kind": "student", "student": name, "state": "failed", "note": error})
                self._now.view.say(f"{name} FAILED: {error}; the others continue")

    @property
    def over(self) -> bool:
        return self.started and not self.calls


def _start_teaching(now: Attempt, work: dict[str, list[dict[str, Any]]]) -> Teaching:
    now.view.teacher.planned = sum(map(len, work.values()))
    teaching = Teaching(now, work)
    teaching.placed = not work
    teaching.start()
    return teaching


def _watch(now: Attempt, teaching: Teaching | None, training: Training | None) -> None:
    """Show what happens until both are over. A teacher that ends in an error ends the run with its first cause."""
    while True:
        for event in now.drain():
            if teaching is not None and event["kind"] == "teacher" and str(event.get("note", "")).endswith("placed"):
                teaching.placed = True
        if teaching is not None and teaching.error is not None:
            raise teaching.error
        taught = teaching is None or not teaching.is_alive()
        if training is not None:
            if not training.started and (taught or teaching is None or teaching.placed):
                training.start()
            training.collect()
        if taught and (training is None or training.over):
            now.drain()
            now.save_events()
            return
        time.sleep(_TICK_S)


def limited(work: dict[str, list[dict[str, Any]]], limit: int | None) -> dict[str, list[dict[str, Any]]]:
    """The first `limit` units of all."""
    if limit is None:
        return work
    kept: dict[str, list[dict[str, Any]]] = {}
    for name, rows in work.items():
        kept[name] = rows[:limit]
        limit -= len(kept[name])
    return kept


def measure_and_export(now: Attempt, *, exports: bool = True) -> dict[str, Any]:
    """Evaluate, export, report."""
    from orchestrator.evaluation import evaluate

    run, config = now.run, now.config
    trained = [n for n in config.specialists if run.student_done(n)]
    evaluation = None
    if trained:
        now.view.say(f"evaluating {', '.join(trained)} on held-out text")
        evaluation = evaluate(run, config, now.board_name)
    report = build_report(run, config, evaluation, now.failures, now.timing())
    if exports:
        export(run, config, report)
        report = build_report(run, config, evaluation, now.failures, now.timing())
    run.storage.write("report.json", json.dumps(report, indent=1).encode())
    run.storage.write("report.md", markdown(report).encode())
    now.view.console.print(closing_table(report))
    return report
