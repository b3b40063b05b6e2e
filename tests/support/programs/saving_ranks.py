"""Groups of processes that one after another resume from a student's checkpoint and write the next. Not a test itself.

python saving_ranks.py ROOT GROUPS.json, as `run` starts it. One process loads the libraries, and is forked for ranks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.lease import Fence
from cluster.storage import LocalStorage
from workers.layout import StudentLayout
from workers.student.checkpoints.checkpoint import CheckpointPointer, Checkpoints
from workers.student.checkpoints.slices import held
from workers.student.config import TrainConfig
from workers.student.training.engine import engine_over
from workers.teacher.engines.loading import join_process_group

CHECKOUT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Group:
    """So many ranks, which make so many steps between resuming and saving."""

    ranks: int
    zero: int | str
    steps: int = 0
    dtype: str = "float32"


@dataclass(frozen=True)
class Found:
    """What the ranks of a group held before they saved, and how they came to it."""

    state: dict[str, Tensor]
    """Whole and flat, by kind and parameter."""
    made: list[Tensor]
    """What the model of each rank makes of the same inputs."""
    read: int
    """Bytes that resuming read from the storage, all ranks together."""


def run(root: Path, groups: Sequence[Group], width: int) -> list[Found]:
    """Let groups resume and save one after another, in a folder where nothing is; of a model of this width."""
    (root / "groups.json").write_text(json.dumps([width, [asdict(group) for group in groups]]))
    command = [sys.executable, __file__, str(root), str(root / "groups.json")]
    own = {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env={**os.environ, **own})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    found = []
    for index, group in enumerate(groups):
        ranks = [torch.load(root / f"found-{index}-{rank}.pt") for rank in range(group.ranks)]
        state = _whole([s for r in ranks for s in r["slices"]])
        found.append(Found(state, [r["made"] for r in ranks], sum(r["read"] for r in ranks)))
    return found


def _whole(slices: list[tuple[str, int, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """All ranks' slices put together, which neither overlap nor leave a gap."""
    whole: dict[str, list[Tensor]] = {}
    for name, begin, tensors in sorted(slices, key=lambda s: s[:2]):
        for kind, tensor in tensors.items():
            so_far = whole.setdefault(f"{kind}.{name}", [])
            assert begin == sum(map(len, so_far)), (name, begin)
            so_far.append(tensor)
    return {key: torch.cat(parts) for key, parts in whole.items()}


class Counted(LocalStorage):
    """Counts what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lengths: list[int] = []

    def read(self, key: str) -> bytes:
        return self._counted(super().read(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._counted(super().read_range(key, start, length))

    def read_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self.read(key) if self.exists(key) else None for key in keys]

    def _counted(self, data: bytes) -> bytes:
        self.lengths.append(len(data))
        return data


class Net(nn.Module):
    """Layers of uneven sizes, one of which is not trained, and one number that one rank has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [(width, width + 1), (width + 1, width + 1), (width + 1, width), (width, width)]
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.layers[1].requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.scale * x


def _rank(root: Path, index: int, width: int, group: Group, rank: int, port: int) -> None:
    join_process_group(rank, group.ranks, "127.0.0.1", port, "cpu")
    torch.manual_seed(0)
    dtype = getattr(torch, group.dtype)
    train = TrainConfig(tokens=1000, zero=group.zero, lr=1e-2, weight_decay=0.1, dtype=group.dtype)
    engine = engine_over(Net(width).to(dtype), train, group.dtype)
    storage = Counted(root)
    checkpoints = Checkpoints(storage, StudentLayout("s"), Fence(storage, 1))
    before = checkpoints.resume(engine)
    read = sum(storage.lengths)
    for _ in range(group.steps):
        inputs = torch.randn(group.ranks, 4, width, generator=torch.Generator().manual_seed(index))
        engine.set_gradient_accumulation_boundary(True)
        engine.backward(engine(inputs[rank].to(dtype)).square().sum())
        engine.step()
    with torch.no_grad():
        made = engine(torch.linspace(-1, 1, 3 * width).view(3, width).to(dtype))
    slices = [(s.name, s.begin, {kind: tensor.clone() for kind, tensor in s.tensors.items()}) for s in held(engine)]
    torch.save({"slices": slices, "made": made, "read": read}, root / f"found-{index}-{rank}.pt")
    step = (before.step if before is not None else 0) + max(1, group.steps)
    place = (step, 0, group.ranks, engine.zero_optimization_stage(), 1.0, {})
    checkpoints.save(engine, CheckpointPointer(*place, checkpoints.new_key(step)))
    checkpoints.finish()
    checkpoints.close()
    torch.distributed.barrier()


def _fork(*arguments: Any) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _rank(*arguments)
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Run the groups, one after another."""
    sys.path.insert(0, str(CHECKOUT / "tests"))
    # All that a rank imports by and by is imported before the forks.
    import deepspeed.runtime.zero.muon.original_muon
    import torch._inductor.compile_fx

    from support.servers.ray_head import free_ports

    torch.set_num_threads(1)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # as training has it; its build takes minutes
    root, (width, groups) = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    for index, fields in enumerate(groups):
        group, [port] = Group(**fields), free_ports(1)
        children = [_fork(root, index, width, group, rank, port) for rank in range(group.ranks)]
        ended = [os.waitpid(child, 0)[1] for child in children]
        assert not any(ended), f"{group}: ranks ended with {ended}"


if __name__ == "__main__":
    main()
