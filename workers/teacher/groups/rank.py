"""One process of a worker group. Torch is loaded here and nowhere above."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ray

from cluster.faults import fail_point, pause_point
from cluster.network import choose_interface, rendezvous
from workers.channels.board import Reporter
from workers.channels.events import Message
from workers.fetching.folder import model_folder
from workers.fetching.progress import tell_through
from workers.targets.encoding.arrays import UnitTargets
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import CaptureSpec, TeacherEngine, TextRequest
from workers.teacher.engines.choosing import load_engine
from workers.teacher.generation.detokenize import portable
from workers.teacher.groups.rank_error import reraise_as_rank_error


@ray.remote(max_restarts=0, concurrency_groups={"heartbeat": 1})
class RankActor:
    """A rank: starts once, then answers calls. What goes wrong in it is raised as RankError."""

    def __init__(self, rank: int, device: str) -> None:
        self._rank, self._device = rank, device
        self._engine: TeacherEngine | None = None
        # transformers loads DeepSpeed where it is installed, which else looks for an accelerator and says so.
        os.environ.setdefault("DS_ACCELERATOR", device)

    def address(self) -> tuple[str, int]:
        """This node's address and a free port, for the rendezvous at rank 0."""
        with reraise_as_rank_error():
            return rendezvous(ray.util.get_node_ip_address())

    def fetch(self, config: TeacherConfig, board: str) -> None:
        """Have the model on this node. What there is to say of it goes to a run's board, or to this process's log."""
        with reraise_as_rank_error():
            if board:
                report = Reporter(board)
                tell_through(lambda text: report(Message(text=text)))
            model_folder(config.model, config.revision)

    def start(self, config: TeacherConfig, ranks: int, address: str, port: int) -> dict[str, Any]:
        """Join the process group and load this rank's part of the model; returns what the engine says of itself, and
        where the rank is."""
        with reraise_as_rank_error():
            import torch

            pause_point("rank-start")
            choose_interface(ray.util.get_node_ip_address())
            torch.set_num_threads(config.threads_per_rank)
            self._engine = load_engine(
                config, rank=self._rank, ranks=ranks, device=self._device, address=address, port=port
            )
            return self._engine.describe() | {"node": ray.util.get_node_ip_address(), "pid": os.getpid()}

    def tokenizer(self) -> str | None:
        """What a Detokenizer is made of, for the process that leads the ranks; None where that needs transformers."""
        with reraise_as_rank_error():
            assert self._engine is not None, "a rank is asked after it has started"
            return portable(self._engine.tokenizer)

    def run(
        self,
        requests: list[TextRequest],
        spec: CaptureSpec,
        batch_scale: float = 1.0,
        texts: bool = True,
        then: Sequence[TextRequest] = (),
    ) -> UnitTargets:
        """This rank's share of `WorkerGroup.run`."""
        with reraise_as_rank_error():
            assert self._engine is not None, "a rank runs after it has started"
            fail_point(r.prompt_uid for r in requests)
            return self._engine.run(requests, spec, batch_scale=batch_scale, texts=texts, then=then)

    @ray.method(concurrency_group="heartbeat")
    def pulse(self) -> tuple[int, int]:
        """Forward passes so far, and texts in slots now; answered while `run` runs, as long as the process does
        anything at all."""
        return (self._engine.steps, self._engine.at_work) if self._engine is not None else (0, 0)
