"""Several trainers at once in one actor, on a real Ray: their process groups, their places, and which processes run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from cluster.config import NetworkConfig
from cluster.network import network_environment
from cluster.placement import free_group_with
from workers.channels.board import Board
from workers.channels.events import StudentState
from workers.channels.messages import StudentPlaced

BOARD = "board-of-trainers"
WORKERS = {"a": 1, "b": 2, "c": 1}
SEEN = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "NCCL_DEBUG",
    "TORCH_FR_DUMP_TEMP_FILE",
)
LOOPBACK = next(name for name, there in psutil.net_if_addrs().items() if "127.0.0.1" in (a.address for a in there))
NETWORK = NetworkConfig(interfaces=["none-such", LOOPBACK], rendezvous_ports=(23100, 23199))
NOT_STARTED = ("TrainController", "DatasetManager", "PlacementGroupCleaner")


def train(config: dict[str, Any]) -> dict[str, Any]:
    """What each worker sees of its group; waits for a file, if it is named."""
    import os

    import torch
    import torch.distributed as dist

    rank = torch.tensor(dist.get_rank() + 1)
    dist.all_reduce(rank)
    (Path(config["marks"]) / f"{config['name']}-{dist.get_rank()}").touch()
    while not Path(config["until"]).exists():
        time.sleep(0.05)
    seen = {name: os.environ.get(name, "") for name in SEEN}
    return {"sum": int(rank), "world": os.environ["WORLD_SIZE"], "local": os.environ["LOCAL_RANK"]} | seen


@ray.remote(num_cpus=0, max_restarts=0, max_concurrency=8)
class Trainers:
    """As the supervisor of students, without students."""

    def fit(self, name: str, marks: str, until: str) -> Any:
        """Train to the end; returns what rank 0's function does."""
        from ray.train import RunConfig, ScalingConfig

        from orchestrator.stages.training.train_internals import FreeSlotsTrainer
        from workers.student.training.process_group import ProcessGroup

        trainer = FreeSlotsTrainer(
            train,
            train_loop_config={"name": name, "marks": marks, "until": until},
            backend_config=ProcessGroup("gloo", 60, BOARD, marks, (name,)),
            scaling_config=ScalingConfig(num_workers=WORKERS[name], resources_per_worker={"CPU": 0.5}),
            run_config=RunConfig(name=name, storage_path=marks),
        )
        return trainer.fit().return_value

    def loaded(self) -> list[str]:
        """Libraries of models in this process."""
        import sys

        return [name for name in ("torch", "transformers", "deepspeed") if name in sys.modules]


@pytest.fixture(scope="module", autouse=True)
def small_ray() -> Iterator[None]:
    environment = {"env_vars": network_environment(NETWORK) | {"NCCL_DEBUG": "WARN"}}
    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=3, runtime_env=environment, **options)
    yield
    ray.shutdown()


@pytest.fixture
def board() -> Iterator[Any]:
    board = Board.options(name=BOARD).remote()  # type: ignore[attr-defined]
    yield board
    ray.kill(board)


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def free_cpus() -> float:
    return ray.available_resources().get("CPU", 0)


def actors() -> dict[str, bool]:
    """Of each process of an actor: whether it holds torch's library."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and "IDLE" not in title:
                maps = Path(f"/proc/{process.pid}/maps").read_text()
                found[f"{title.strip()} {process.pid}"] = "libtorch_cpu" in maps
        except (psutil.NoSuchProcess, FileNotFoundError):  # it ended meanwhile
            continue
    return found


def messages_until(board: Any, what: Callable[[], bool]) -> list[Any]:
    """What the board was sent until then; senders go on as the driver takes it."""
    messages: list[Any] = []

    def taken() -> bool:
        messages.extend(ray.get(board.messages.remote()))
        return what()

    assert wait_for(taken)
    return messages


def test_they_train_at_once_and_only_workers_load_torch(board: Any, tmp_path: Path) -> None:
    trainers, until = Trainers.remote(), tmp_path / "until"  # type: ignore[attr-defined]
    calls = {n: trainers.fit.remote(n, str(tmp_path), str(until)) for n in WORKERS}
    messages = messages_until(board, lambda: len(list(tmp_path.glob("?-?"))) == sum(WORKERS.values()))
    here = actors()
    until.touch()
    done = {name: ray.get(call, timeout=60) for name, call in calls.items()}
    groups = {n: (d["sum"], d["world"], d["local"]) for n, d in done.items()}
    assert groups == {"a": (1, "1", "0"), "b": (3, "2", "0"), "c": (1, "1", "0")}
    for name, seen in done.items():
        record = Path(seen["TORCH_FR_DUMP_TEMP_FILE"])
        assert record.name == f"nccl-{name}-rank-" and list(record.parent.glob("raylet.*")), "beside Ray's logs"
        assert seen["MASTER_ADDR"] == "127.0.0.1" and 23100 <= int(seen["MASTER_PORT"]) <= 23199
        assert (seen["GLOO_SOCKET_IFNAME"], seen["NCCL_SOCKET_IFNAME"]) == (LOOPBACK, f"={LOOPBACK}")
        assert seen["NCCL_DEBUG"] == "WARN"
    assert len({seen["MASTER_PORT"] for seen in done.values()}) == len(done)

    assert sum(here.values()) == sum(WORKERS.values())
    assert all("TrainWorker" in name for name, torch in here.items() if torch)
    assert not [name for name in here if any(n in name for n in NOT_STARTED)]
    assert ray.get(trainers.loaded.remote()) == []

    events = ray.get(board.events.remote())
    assert {m.student for m in messages} == WORKERS.keys() and all(isinstance(m, StudentPlaced) for m in messages)
    assert len({m.place for m in messages} - {""}) == len(WORKERS)
    assert {(e.student, e.state) for e in events if isinstance(e, StudentState)} == {(n, "loading") for n in WORKERS}
    assert wait_for(lambda: free_cpus() == 3)
    ray.kill(trainers)


def test_the_places_of_an_actor_that_died_can_be_freed(board: Any, tmp_path: Path) -> None:
    trainers = Trainers.remote()  # type: ignore[attr-defined]
    call = trainers.fit.remote("b", str(tmp_path), str(tmp_path / "never"))
    (message,) = messages_until(board, lambda: len(list(tmp_path.glob("b-?"))) == 2)
    ray.kill(trainers)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(call, timeout=30)
    assert wait_for(lambda: not [name for name in actors() if "TrainWorker" in name])
    assert free_cpus() == 2
    free_group_with(message.place)
    assert wait_for(lambda: free_cpus() == 3)
    free_group_with(message.place)
