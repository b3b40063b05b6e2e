"""One optimiser step on a global batch: this worker's share of it as micro-batches, accumulated."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from workers.quantise.config import QuantisedWeights
from workers.quantise.masters import Masters
from workers.student.batches.batching import MicroBatch, collate, shares
from workers.student.batches.packing import group_rows
from workers.student.config import LossConfig, TrainConfig
from workers.student.training.schedule import learning_rate
from workers.targets.heads import TeacherHead
from workers.targets.reader import TargetRow


class Step(NamedTuple):
    """What a step did, on all workers together."""

    loss: float
    """Mean per target token; a divergence is 0 at best."""
    grad_norm: float
    """Before clipping."""
    lr: float
    heard: int
    """Sum of the numbers that workers gave."""


class Optimiser:
    """Steps of one worker with a DeepSpeed engine over a `DistillationModel`.

    The loss is a sum, divided once by the target tokens of the global batch, so that neither the number of workers nor
    that of micro-batches changes a step.
    """

    def __init__(
        self, engine: Any, device: str, loss: LossConfig, train: TrainConfig, heads: Mapping[str, TeacherHead] = {}
    ) -> None:
        """`heads` are those of the teachers whose hidden states are learned from, on the device."""
        self._engine, self._device, self._loss, self._train, self._heads = engine, device, loss, train, heads
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._masters: Masters | None = None
        if (quantised := engine.module.quantised) is not None:
            self._masters = Masters(engine, engine.module.causal_lm, quantised.weights)

    @property
    def quantised(self) -> QuantisedWeights | None:
        """The weights that are on a lattice as they are now; None where none is."""
        lowered = self._masters is not None and self._masters.lowered
        return self._engine.module.quantised if lowered else None

    def settle(self, tokens: int) -> None:
        """Put weights on their lattice, if they are computed with there when `tokens` of the budget are behind. A
        collective."""
        quantise = self._train.quantise
        if self._masters is None or quantise is None:
            return
        if tokens / self._train.tokens >= quantise.start:
            self._masters.lower()

    def masters_in_place(self) -> AbstractContextManager[None]:
        """For the length of a block, weights that are on a lattice are what the optimiser moves. A collective."""
        return nullcontext() if self._masters is None else self._masters.lifted()

    def share_ahead(self, rows: list[TargetRow], tokens: int) -> list[MicroBatch] | None:
        """This worker's micro-batches of a global batch, when `tokens` of the budget are behind; any thread may ask.

        None where they are large (all logits of each position), so that a second step's are not held beside a first's.
        """
        return None if rows[0].logprobs is not None else self._share(rows, tokens / self._train.tokens, self._loss)

    def step(self, rows: list[TargetRow], tokens: int, share: list[MicroBatch] | None = None, heard: int = 0) -> Step:
        """Learn from a global batch, when `tokens` of the budget are behind. A collective.

        `share`: this worker's part of it, where `share_ahead` has made it. `heard`: a number of this worker's.
        """
        self.settle(tokens)
        targets, spent, train = sum(r.targets for r in rows), tokens / self._train.tokens, self._train
        lr = learning_rate(spent, train.lr, train.schedule, train.warmup, train.decay)
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        work = share if share is not None else self._share(rows, spent, self._loss)
        total, floors = torch.zeros((), dtype=torch.float64, device=self._device), 0.0
        for i, batch in enumerate(work):
            self._engine.set_gradient_accumulation_boundary(i == len(work) - 1)
            # DeepSpeed averages gradients over workers. Scaled here, the large ones need not be.
            loss, floor = self._forward(batch.scaled(self._world / targets))
            self._engine.backward(loss)
            if self._masters is not None and i == len(work) - 1:
                self._masters.lift()
            self._engine.step()
            total += loss.detach().double()
            floors += floor
        self.settle(tokens + targets)
        known = torch.tensor([-floors, float(heard)], dtype=total.dtype).to(self._device, non_blocking=True)
        sums = self._over_ranks(known + torch.stack([total, torch.zeros_like(total)]))
        # The same on all ranks; a number, no tensor, where ZeRO-3 found an overflow.
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), dtype=sums.dtype, device=sums.device)
        loss_sum, heard_sum, grad_norm = torch.stack([*sums, norm]).tolist()  # all that the loop waits for in a step
        return Step(loss_sum / self._world, grad_norm, lr, round(heard_sum))

    def measure(self, rows: list[TargetRow]) -> float:
        """The mean loss per target token of a global batch, weighted as at the start of the budget. A collective."""
        return self._measured(rows, self._loss)

    def measure_kl(self, rows: list[TargetRow]) -> float:
        """KL(teacher ‖ student), a mean over the target tokens of a global batch, whatever is trained with: at the
        temperature of the targets, and without dropout. A collective.

        On sampled targets its mean over draws is the KL; on `topk` ones it is that of what is kept and the rest as one
        outcome, which is no more.
        """
        self._engine.eval()
        try:
            with self._engine.module.comparing_by_kl():
                return self._measured(rows, LossConfig(temperature_squared=False))
        finally:
            self._engine.train()

    def _measured(self, rows: list[TargetRow], weighted: LossConfig) -> float:
        targets = sum(r.targets for r in rows)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        with torch.no_grad():
            for batch in self._share(rows, 0.0, weighted):
                loss, floor = self._forward(batch.scaled(self._world / targets))
                total += loss.double() - floor
        return float(self._over_ranks(total)) / self._world

    def _forward(self, batch: MicroBatch) -> tuple[torch.Tensor, float]:
        """The summed loss of a micro-batch, and the least that its soft part can be."""
        here = batch.map(lambda t: t.to(self._device, non_blocking=True))
        return self._engine(here.texts, here.targets.with_heads(self._heads)), here.floor

    def _share(self, rows: list[TargetRow], spent: float, weighted: LossConfig) -> list[MicroBatch]:
        """This worker's micro-batches, as many as those of the worker that has most (every worker has all rows, so none
        need be asked); on a GPU in memory that it copies from by itself."""
        most, layout = self._train.micro_tokens, self._engine.module.layout
        groups = [group_rows(own, most, layout) for own in shares(rows, self._world)]
        made = [collate(group, weighted, layout, spent=spent) for group in groups[self._rank]]
        if short := max(map(len, groups)) - len(made):
            like = made[0] if made else collate(rows[:1], weighted, layout, spent=spent)
            made += [like.scaled(0.0)] * short
        return [batch.map(torch.Tensor.pin_memory) for batch in made] if self._device == "cuda" else made

    def _over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over workers."""
        if self._world > 1:
            dist.all_reduce(value)
        return value
