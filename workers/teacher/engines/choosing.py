"""Which engine a teacher's configuration names, and the Python that its ranks run in. Loads no torch until asked to."""

from __future__ import annotations

from typing import Any

from cluster.faults import memory_point, pause_point
from workers.teacher.config import TeacherConfig
from workers.teacher.engine import TeacherEngine


def load_engine(config: TeacherConfig, *, rank: int, ranks: int, device: str, address: str, port: int) -> TeacherEngine:
    """The configured engine with this rank's part of the model; the ranks meet at `address` and `port`."""
    if config.engine == "vllm":
        from workers.teacher.engines.vllm_engine import VllmEngine

        return VllmEngine(config, device=device)
    from workers.collectives import limit_collectives
    from workers.teacher.engines.loading import join_process_group
    from workers.teacher.engines.transformers_engine import TransformersEngine

    if ranks > 1:
        join_process_group(rank, ranks, address, port, device, config.start_deadline_s)
    engine = TransformersEngine(config, rank=rank, ranks=ranks, device=device)
    if ranks > 1:
        limit_collectives(config.hang_deadline_s)
    engine.model.get_input_embeddings().register_forward_pre_hook(_fault_points)
    return engine


def _fault_points(module: Any, inputs: tuple[Any, ...]) -> None:
    """Points of fault tests in every forward pass."""
    pause_point("rank-forward")
    memory_point(inputs[0].numel())


def rank_environment(config: TeacherConfig) -> dict[str, Any] | None:
    """Ray's runtime_env of a rank; None is that of the run."""
    return {"py_executable": config.vllm.python} if config.engine == "vllm" and config.vllm.python else None
