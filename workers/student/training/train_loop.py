"""The function that Ray Train runs on every worker of a specialist.

Read a global batch, take this worker's share, accumulate micro-batches, step; write checkpoints; leave the trained
model as a safetensors folder. The sequence of global batches does not depend on the number of workers.
"""

from __future__ import annotations

import gc
import json
import math
import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from cluster.faults import pause_point
from cluster.lease import Fence
from cluster.network import network
from cluster.storage import Storage, open_storage
from workers.channels.board import Control, Reporter
from workers.channels.events import (
    CheckpointSaved,
    FirstKlMeasured,
    Message,
    StudentState,
    StudentStep,
    StudentWaiting,
    UnitDamaged,
)
from workers.channels.messages import DamageFound
from workers.collectives import waiting_at_most
from workers.first_kl import FirstKl, FirstKlConfig
from workers.randomness import generator
from workers.student.batches.ahead import BatchesAhead
from workers.student.config import LoraConfig, LossConfig, TrainConfig
from workers.student.training.cadence import Asked, Cadence, Ears, Left, of_all
from workers.student.training.engine import start_engine
from workers.student.training.job import SpecialistJob, bad_step
from workers.student.training.learned import Diverged, NothingLearned, check_course, check_learned, comparable
from workers.targets.commits.damage import DamagedShard
from workers.targets.reader import Cursor, TargetRow
from workers.targets.replay import RowStream
from workers.targets.shared_units import SharedUnits

if TYPE_CHECKING:
    from workers.student.checkpoints.checkpoint import CheckpointPointer

_REPORT_S = 0.5
"""Seconds between two progress events of a worker, at least."""


def train_group(config: dict[str, Any]) -> None:
    """Train students one after another in the same workers: a specialist, then its control.

    `config["jobs"]` are the fields of SpecialistJobs with the same workers. A student that is done is passed over, so
    that a restart resumes in the middle.
    """
    for fields in config["jobs"]:
        job = SpecialistJob.from_fields(fields)
        if not open_storage(job.run_uri).exists(job.layout.done):
            train_specialist(job)


def train_specialist(job: SpecialistJob) -> None:
    """Train one student from where its last checkpoint stands to the end of its budget."""
    train = TrainConfig.model_validate(job.train)
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if train.gpus_per_worker else "cpu")
    trainer = Trainer(job, train, LossConfig.model_validate(job.loss))
    try:
        trainer.run()
    finally:
        trainer.close()
    trainer.release_engine()  # the next student of the chain starts in this process


class Trainer:
    """One worker's side of a specialist's training."""

    def __init__(self, job: SpecialistJob, train: TrainConfig, loss: LossConfig) -> None:
        import torch.distributed as dist

        from workers.student.batches.streams import StudentRows
        from workers.student.checkpoints.checkpoint import Checkpoints
        from workers.student.training.models import TrainedModels
        from workers.student.training.step import Optimiser

        self.job, self.train = job, train
        self.budget = train.tokens if job.end_tokens is None else job.end_tokens
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.storage: Storage = open_storage(job.run_uri)
        self.fence = Fence(self.storage, job.epoch)
        self.report = Reporter(job.board if self.rank == 0 else "")
        self.lora = None if job.lora is None else LoraConfig.model_validate(job.lora)
        self.rows = StudentRows(job, self.storage)
        self.checkpoints = Checkpoints(self.storage, job.layout, self.fence, self._notice, self._tell_saved)
        self.checkpoints.check_format()
        self.engine: Any
        self.engine, device = start_engine(job.initial, train, loss, self.storage, self.lora, job.seed)
        domains = [d for d, share in job.mix.items() if share > 0 and loss.soft]
        self.heads = self.rows.heads(domains, device)
        self.optimiser: Any = Optimiser(self.engine, device, loss, train, self.heads)
        self.models = TrainedModels(self.storage, job, self.lora, self.checkpoints)
        self.cadence = Cadence(train, self.rank, self.world, device)
        self._reported = 0.0
        self.waited_s = 0.0
        """Seconds that steps waited for their texts, also before the last checkpoint."""
        self._seconds: set[int] = set()
        """Of the clock, in which a step ran since the last report."""
        self._damages: dict[int, str] = {}
        self.ears, self.above = Ears(job.board, self.rank), 0
        self.step, self.tokens = 0, 0
        self.history: list[dict[str, float]] = []
        self.before: dict[str, Any] | None = None
        """KL and tokens of the first batch before the first step; None where they are not measured."""
        cursor = self._resume()
        self.batches = BatchesAhead(train.batch_tokens, self.budget, self.tokens, self._waiting)
        self.shared = self._share_units()
        stream = self._open_stream(cursor, self.batches.waiting)
        self.batches.open(stream, self.optimiser.share_ahead)
        self.cursor = Cursor.from_dict(stream.cursor.to_dict())
        """Where the stream stands after the last batch that was trained on."""
        self._tell_fallbacks()

    def _tell_state(self, state: Literal["training", "done"]) -> None:
        at = {"step": self.step, "tokens": self.tokens, "budget": self.budget, "workers": self.world}
        self.report(StudentState(student=self.job.name, state=state, **at))

    def _notice(self, text: str) -> None:
        self.report(Message(text=text, student=self.job.name))

    def _tell_fallbacks(self) -> None:
        """What this architecture cannot do as asked, and is done otherwise."""
        model = self.engine.module
        if self.train.packing and model.layout == "padded":
            self._notice("texts are padded, since its architecture cannot keep packed ones apart")
        if not model.fused:
            self._notice("it makes all logits at once, since the fused loss does not know its head")

    def run(self) -> None:
        """Steps until the budget is spent, then the final model."""
        self._tell_state("training")
        while self.tokens < self.budget:
            started = time.time()
            batch = self.batches.next()
            read, rows = time.time(), batch.rows
            self.waited_s += read - started
            if self.step == 0 and self.job.first_kl is not None:
                self._measure_before(rows)
            self._seed_dropout()
            with self._step_deadline():
                loss, norm, lr, heard = self.optimiser.step(rows, self.tokens, batch.share, self.ears.heard())
            self.cursor = batch.cursor
            # ZeRO says -1 of a norm that is NaN or Inf.
            if not (math.isfinite(loss) and math.isfinite(norm) and norm >= 0):
                self._save_batch(rows, self.step + 1)
                raise bad_step(self.job, self.step + 1, loss, norm)
            self.checkpoints.raise_fault()
            pause_point("step-done")
            before, self.step, self.tokens = self.tokens, self.step + 1, self.tokens + sum(r.targets for r in rows)
            self.cadence.note(loss)
            self._note_step(loss, norm, lr, started, read)
            if due := [kept for kept, tokens in self.job.snapshots.items() if before < tokens <= self.tokens]:
                self.models.write_snapshots(self.engine, self.optimiser.quantised, self.step, self.tokens, due)
            if self.cadence.due(self.step) or self.tokens >= self.budget:
                self._check_course(rows)
                self._checkpoint()
            if asked := of_all(heard):
                self._answer(asked)
        self._finish()

    def _step_deadline(self) -> AbstractContextManager[None]:
        """For the length of a step: a worker that hangs there is found long before one that only uploads would be."""
        if self.world == 1:
            return nullcontext()
        return waiting_at_most(self.train.hang_deadline_s, network().collective_s)

    def _answer(self, asked: Asked) -> None:
        """Write a checkpoint, if there is none of this step; raise Left if that is asked for. A collective."""
        if self.cadence.progress[0]:
            self._checkpoint(due=False)
        self.checkpoints.finish()  # who asks will take the node, or the run
        if self.cadence.progress[0]:
            self._notice(f"a checkpoint of step {self.step} was asked for, and is written")
        if Asked.LEAVE in asked and self.tokens < self.budget:
            raise Left(f"{self.job.name}: left after step {self.step}, with a checkpoint")

    def _measure_before(self, rows: list[TargetRow]) -> None:
        """How far the student is from its teacher before it has learned anything."""
        limits = FirstKlConfig.model_validate(self.job.first_kl)
        found = FirstKl(self.optimiser.measure_kl(rows), sum(r.targets for r in rows))
        if math.isfinite(found.kl):  # else the first step says what is wrong
            self.before = asdict(found)
            self.report(FirstKlMeasured(student=self.job.name, kl=found.kl, tokens=found.tokens))
            self._notice(found.sentence(limits.green, limits.red))

    def _open_stream(self, cursor: Cursor | None, on_wait: Callable[[int, float], None]) -> RowStream:
        """The rows from a cursor on; from the first one where there is none."""
        return self.rows.open(cursor, on_wait, self._damaged, self.shared)

    def _share_units(self) -> SharedUnits | None:
        """Where the ranks of this machine leave the units that one of them decoded; None where each does so alone. A
        collective."""
        import torch.distributed as dist

        machines: list[str] = [""] * self.world
        dist.all_gather_object(machines, socket.gethostname())
        if machines.count(socket.gethostname()) == 1:
            return None
        try:
            return SharedUnits(f"{self.job.run_uri} {self.job.name} {self.job.epoch}")
        except OSError as error:
            self._notice(f"each worker decodes all units, as there is no place to share them ({error})")
            return None

    def close(self) -> None:
        """End the background's threads."""
        self.checkpoints.close()
        self.batches.close()
        if self.shared is not None:
            self.shared.close()

    def _resume(self) -> Cursor | None:
        pointer = self.checkpoints.resume(self.engine)
        if pointer is None:
            self.optimiser.settle(0)
            return None
        self.optimiser.settle(pointer.tokens)
        self.step, self.tokens, self.history = pointer.step, pointer.tokens, list(pointer.history)
        self.before, self.above, self.waited_s = pointer.before, pointer.above, pointer.waited_s
        self.cadence.restart((pointer.since[0], pointer.since[1]))
        return Cursor.from_dict(pointer.cursor)

    def _check_course(self, rows: list[TargetRow]) -> None:
        """Raise Diverged if the loss has been far above that of the first step for long, with the last batch kept."""
        loss, first = LossConfig.model_validate(self.job.loss), self.history[0] if self.history else {}
        if first.get("step") != 1 or not comparable(loss) or self.job.goes_on:  # it may know its first texts well
            return
        try:
            self.above = check_course(self.job.name, first["loss"], self.cadence.loss, self.above, self.train)
        except Diverged as error:
            self._save_batch(rows, self.step)
            best = self.checkpoints.best()
            kept = f"; its best checkpoint, of step {best.step}, stays" if best is not None else ""
            texts = f"the ids of its texts are in {self.job.layout.failed_step(self.step)}"
            raise Diverged(f"{error}{kept}; {texts}") from None

    def _checkpoint(self, *, due: bool = True) -> None:
        from workers.student.checkpoints.checkpoint import CheckpointPointer

        pointer = CheckpointPointer(
            self.step,
            self.tokens,
            self.world,
            self.engine.zero_optimization_stage(),
            self.cadence.loss,
            self.cursor.to_dict(),
            self.checkpoints.new_key(self.step),
            self.history,
            self.before,
            (0, 0.0) if due else self.cadence.progress,
            self.above,
            round(self.waited_s, 3),
        )
        with self.optimiser.masters_in_place():
            self.checkpoints.save(self.engine, pointer)
        if due:
            self.cadence.restart()

    def _tell_saved(self, pointer: CheckpointPointer) -> None:
        step, tokens, loss = pointer.step, pointer.tokens, pointer.loss
        self.report(CheckpointSaved(student=self.job.name, step=step, tokens=tokens, loss=loss))

    def _finish(self) -> None:
        """The trained model as a safetensors folder, then the mark that says so. Raises LeaseLost."""
        import torch.distributed as dist

        best = self.checkpoints.best()
        final_step = best.step if self.train.keep == "best" else self.step
        if final_step != self.step:
            self._go_back_to(best)
        self._check_learned()
        self.models.write_final(self.engine, self.optimiser.quantised)
        if self.rank == 0:
            pause_point("final-files")
            done = {"steps": self.step, "tokens": self.tokens, "history": self.history, "workers": self.world}
            done |= {"layout": self.engine.module.layout, "fused": self.engine.module.fused}
            done |= {"before": self.before, "waited_s": round(self.waited_s, 2)}
            done |= {"texts_rejected": self.cursor.rejected}
            done |= {"final_step": final_step, "best_step": best.step, "best_loss": best.loss}
            self.checkpoints.check()
            self.storage.write(self.job.layout.done, json.dumps(done).encode())
        dist.barrier()
        self._tell_state("done")

    def _go_back_to(self, pointer: CheckpointPointer) -> None:
        """The weights of an earlier checkpoint, in an engine of their own: DeepSpeed loads into a new one only."""
        from workers.student.training.step import Optimiser

        self.release_engine()  # two engines at once would be twice the memory
        loss = LossConfig.model_validate(self.job.loss)
        self.engine, device = start_engine(self.job.initial, self.train, loss, self.storage, self.lora, self.job.seed)
        self.checkpoints.load(self.engine, pointer)
        self.optimiser = Optimiser(self.engine, device, loss, self.train, self.heads)
        self.optimiser.settle(pointer.tokens)

    def _check_learned(self) -> None:
        """Measure the final weights on the first batch. Raises NothingLearned."""
        loss, first = LossConfig.model_validate(self.job.loss), self.history[0] if self.history else {}
        if first.get("step") != 1 or not comparable(loss):
            return
        stream = self._open_stream(None, self._waiting)
        try:
            rows = stream.next_batch(self.train.batch_tokens)
        finally:
            stream.close()
        after = self.optimiser.measure(rows)
        try:
            check_learned(self.job.name, first["loss"], after, self.train)
        except NothingLearned as nothing:
            if not self.job.goes_on or not math.isfinite(after):
                raise
            self._notice(f"{nothing}; the report has what it gained and forgot")

    def release_engine(self) -> None:
        """Free the engine's memory."""
        self.engine.destroy()
        self.engine = self.optimiser = None
        self.batches.forget_share()
        gc.collect()

    def _seed_dropout(self) -> None:
        """Dropout is seeded by step and worker, so that a resumed training drops what an uninterrupted one would."""
        import torch

        torch.manual_seed(int(generator(self.job.seed, "dropout", self.step, self.rank).integers(2**63)))

    def _note_step(self, loss: float, norm: float, lr: float, asked: float, began: float) -> None:
        """Keep the loss curve and tell the run, now and then. `seconds` are those of the clock in which a step ran."""
        now = time.time()
        self._seconds.update(range(int(began), int(now) + 1))
        fields = {"step": self.step, "tokens": self.tokens, "loss": loss, "grad_norm": norm, "lr": lr}
        every = max(1, self.budget // self.train.batch_tokens // 200)
        if self.step % every == 0 or self.step == 1:
            self.history.append({k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items()})
        if now - self._reported >= _REPORT_S or self.tokens >= self.budget:
            self.report(
                StudentStep(
                    student=self.job.name,
                    step=self.step,
                    tokens=self.tokens,
                    budget=self.budget,
                    loss=loss,
                    grad_norm=norm,
                    lr=lr,
                    waited=began - asked,
                    seconds=sorted(self._seconds),
                    waited_s=round(self.waited_s, 3),
                )
            )
            self._reported = now
            self._seconds.clear()

    def _waiting(self, unit: int, seconds: float) -> None:
        if time.time() - self._reported >= _REPORT_S:
            seconds_stepped, why = sorted(self._seconds), self._damages.get(unit, "")
            self.report(
                StudentWaiting(student=self.job.name, unit=unit, waited=seconds, seconds=seconds_stepped, damage=why)
            )
            self._seconds.clear()
            self._reported = time.time()

    def _damaged(self, damage: DamagedShard) -> None:
        """Tell the run, from whichever worker found it; where no teacher runs, the student ends here."""
        if not self.job.repairs:
            raise damage.with_remedy("stillhouse train CONFIG", "training resumes from its last checkpoint")
        self._damages[damage.unit] = damage.reason
        Reporter(self.job.board)(UnitDamaged(student=self.job.name, unit=damage.unit, reason=damage.reason))
        Control(self.job.board)(DamageFound(self.job.name, damage.unit))

    def _save_batch(self, rows: list[TargetRow], step: int) -> None:
        """Before any rank raises, as that ends all of them."""
        import torch.distributed as dist

        if self.rank == 0:
            ids = [r.prompt_uid for r in rows]
            self.storage.write(self.job.layout.failed_step(step), json.dumps(ids).encode())
        dist.barrier()
