"""How many logits the fused loss makes at once: by the device, the same in the plan, and no more than is counted."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cluster.nodes.kinds import KINDS
from workers.logit_map import LogitMap
from workers.student.losses import fused
from workers.student.losses.config import LossConfig, chunk_tokens
from workers.student.losses.fused import HeadTargets, fused_loss
from workers.student.losses.objective import divergence_of
from workers.student.losses.teacher_states import TeacherStates
from workers.targets.heads import TeacherHead

V, D, T, K = 151_936, 4, 200, 20


@pytest.mark.parametrize(
    ("kind", "tokens"),
    [("h100", 1766), ("a100-40", 1766), ("l40s", 1766), ("b200", 1766), ("l4", 883), ("a10g", 883), ("cpu", 64)],
)
def test_tokens_of_a_chunk_by_device(kind: str, tokens: int) -> None:
    assert chunk_tokens(V, KINDS[kind].gpu_memory) == tokens


@pytest.mark.parametrize(
    ("kind", "reported"),
    # What torch says of such devices, of which the driver keeps a part.
    [("h100", 85_028_765_696), ("a100-40", 42_298_834_944), ("a100-80", 85_098_233_856), ("l4", 23_595_450_368)],
)
def test_the_plan_knows_what_the_device_chooses(kind: str, reported: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fused._gpu_memory.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=reported))
    for share in (1.0, 0.5, 0.25):
        seen = fused._gpu_memory(torch.device("cuda:0")) * share
        assert chunk_tokens(V, seen) == chunk_tokens(V, KINDS[kind].gpu_memory * share)
    fused._gpu_memory.cache_clear()


def test_small_vocabularies_and_small_gpus() -> None:
    assert chunk_tokens(300, 80e9) == chunk_tokens(300, 0) == 4096
    assert chunk_tokens(V, 1e9) == (1 << 25) // V, "no GPU makes fewer than it takes to be busy"
    assert chunk_tokens(V, 80e9, by_autograd=True) == (1 << 26) // V


class Held(TorchDispatchMode):
    """Bytes of the tensors that operators make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for storage in {t.untyped_storage() for t in tree_leaves(found) if isinstance(t, Tensor)}:
            if storage._cdata not in self._seen:
                self._seen[storage._cdata] = storage.nbytes()
                self._now += storage.nbytes()
                self.most = max(self.most, self._now)
                weakref.finalize(storage, self._gone, storage._cdata)
        return found

    def _gone(self, key: int) -> None:
        self._now -= self._seen.pop(key)


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def targets_of(scheme: str, temperature: Tensor | None) -> HeadTargets:
    places = (on_meta(T, dtype=torch.int64), on_meta(T), on_meta(T))
    if scheme == "hidden":
        heads = {"t": TeacherHead(on_meta(V, D), None, LogitMap())}
        return HeadTargets(
            *places, temperature_T=temperature, states=TeacherStates((("t", on_meta(T, D)),), False, heads)
        )
    tail = on_meta(T) if scheme == "topk" else None
    return HeadTargets(*places, on_meta(T, K, dtype=torch.int64), on_meta(T, K), tail, temperature_T=temperature)


@pytest.mark.parametrize("heated", [False, True])
@pytest.mark.parametrize(
    ("scheme", "loss"),
    [
        ("systematic", LossConfig()),
        ("topk", LossConfig()),
        ("topk", LossConfig(divergence="jsd")),
        ("hidden", LossConfig()),
        *(("hidden", LossConfig(divergence=d)) for d in ("jsd", "reverse_kl", "reverse_skew_kl", "alpha_beta")),
    ],
    ids=str,
)
def test_no_more_is_held_than_is_counted(scheme: str, loss: LossConfig, heated: bool) -> None:
    """Of 151,936 ids in bfloat16, on tensors without memory: so nothing is read off a device either."""
    h_TD, W_VD = (on_meta(n, D, dtype=torch.bfloat16).requires_grad_() for n in (T, V))
    targets = targets_of(scheme, on_meta(T) if heated else None)
    with Held() as held:
        found = fused_loss(h_TD, W_VD, None, targets, divergence_of(loss))
        found.backward()
    counted = loss.chunk(scheme, V).bytes_on(0)
    head = 3 * V * D * 4  # its gradient, a chunk's part of it, and the one that is left
    assert 0.4 * counted <= held.most - head <= (1.1 if heated else 1.0) * counted
    assert h_TD.grad is not None and W_VD.grad is not None and W_VD.grad.dtype == torch.bfloat16
