"""What ranks of a process group tell each other, and how long they wait for each other before those that wait fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any


def from_first(value: Any) -> Any:
    """What rank 0 has, on all ranks. A collective."""
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def limit_collectives(deadline_s: float) -> None:
    """Let the collectives of every process group of this process fail after `deadline_s` from now on: those of loading
    and saving may take longer."""
    from torch.distributed import distributed_c10d as c10d

    for group in list(c10d._world.pg_map):
        c10d._set_pg_timeout(timedelta(seconds=deadline_s), group)


@contextmanager
def waiting_at_most(deadline_s: float, otherwise_s: float) -> Iterator[None]:
    """Within a block collectives fail after `deadline_s`, behind it after `otherwise_s`. Raises TimeoutError in place
    of gloo's error; a rank of NCCL that waits in vain is ended by torch's watchdog."""
    limit_collectives(deadline_s)
    try:
        yield
    except RuntimeError as error:
        if "imed out" not in str(error):
            raise
        raise TimeoutError(f"waited {deadline_s:g} s in vain for another one of its workers ({error})") from error
    finally:
        limit_collectives(otherwise_s)
