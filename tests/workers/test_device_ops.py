"""How often the host waits for its device: pinned, as nothing else shows it where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.device.counted import count_stops
from support.device.ledger import DEVICE, counting

MOST = {"train": (2, 0), "decode": (6, 0)}
"""Of a step, and of each layer in it."""


@pytest.fixture(scope="module")
def stops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    return count_stops(tmp_path_factory.mktemp("device"))


@pytest.mark.parametrize("what", MOST)
def test_steps_wait_for_the_device_no_oftener(stops: dict[str, tuple[float, float]], what: str) -> None:
    assert 1 <= stops[what][0] <= MOST[what][0]
    assert 0 <= stops[what][1] <= MOST[what][1]


@pytest.mark.parametrize(
    ("work", "waits", "copies"),
    [
        (lambda x: x + x.sum(), 0, 0),
        (lambda x: x.sum().item(), 1, 0),
        (lambda x: bool((x > 0).any()), 1, 0),
        (lambda x: x.tolist(), 1, 0),
        (lambda x: x.cpu().numpy(), 1, 0),
        (lambda x: x.to("cpu").double().tolist(), 1, 0),
        (lambda x: (x[x > 0], (x > 0).nonzero()), 2, 0),
        (lambda x: x[torch.tensor([0, 1], device=DEVICE)], 0, 1),
        (lambda x: x + torch.ones(4).to(DEVICE), 0, 1),
        (lambda x: x + torch.ones(4).to(DEVICE, non_blocking=True), 0, 0),
        (lambda x: torch.arange(4).tolist(), 0, 0),
        (lambda x: torch.zeros(4, device=DEVICE).tolist(), 1, 0),
    ],
)
def test_what_makes_a_host_wait_is_counted(work: Callable[[torch.Tensor], object], waits: int, copies: int) -> None:
    x = torch.randn(4, generator=torch.Generator().manual_seed(0), device=DEVICE)
    with counting() as ledger:
        work(x)
    assert (ledger.waits.total(), ledger.copies.total()) == (waits, copies)
