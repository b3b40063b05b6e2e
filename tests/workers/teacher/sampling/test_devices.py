"""What capture asks of a device: nothing that a GPU would have to be waited for, and no more memory than is free; and
what comes from it comes as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from workers.randomness import generator
from workers.teacher.engine import CaptureSpec, TextRequest
from workers.teacher.generation.choice import TokenChoice
from workers.teacher.sampling.blocked_probs import BlockedProbs
from workers.teacher.sampling.capture import CaptureBuffer
from workers.teacher.sampling.chunks import GPU_NUMBERS, chunk_rows, head_numbers
from workers.teacher.sampling.drawing import keep
from workers.transfers import HostCopy, packed_bytes, to_device, unpacked_bytes

V, GB = 151_936, 10**9
SCHEMES = ["full", "hidden", "topk", "systematic", "multinomial", "threshold"]


def spec(scheme: str, vocabulary: int = V, **fields: object) -> CaptureSpec:
    made = CaptureSpec(scheme, 21, "answer", "float32", vocabulary, 5, top_k=12, redraws=2)  # type: ignore[arg-type]
    always = () if scheme in ("full", "hidden") else (3, 20)
    return dataclasses.replace(made, **{"always": always, **fields})


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_value_on_a_gpu_decides_what_is_done(scheme: str) -> None:
    """On tensors without values, where anything that depends on one raises."""
    n, own = 256, spec(scheme)
    logits_nV = torch.empty(n, V + 64, dtype=torch.bfloat16, device="meta")
    probs = BlockedProbs(logits_nV[:, :V])
    settings = [{}, {"temperature": 0.0}, {"top_p": 0.9, "temperature": 0.5}, {"min_new_tokens": 3}]
    asked = [TextRequest(f"p{i}", 0, [4], None, max_new_tokens=9, **settings[i % 4]) for i in range(n)]  # type: ignore[arg-type]
    tokens_n = TokenChoice(asked, own, {1, 2})(np.arange(n), np.ones(n, np.int64), logits_nV, probs)
    seen = keep(probs, tokens_n, own, np.zeros((n, own.uniforms)), torch.empty(n, 64, device="meta"))
    assert all(t.device.type == "meta" and len(t) == n for t in (tokens_n, *seen))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_kept_is_the_same_where_values_are_not_looked_at(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n, v = 50, 700
    rng = generator(0, "devices")
    logits_nV = torch.from_numpy(rng.normal(size=(n, v)) * 3).float()
    logits_nV[:, 9], logits_nV[7, 400] = -torch.inf, 200.0
    hashes = []
    for ask in (True, False):
        monkeypatch.setattr(BlockedProbs, "_may_ask", ask)
        buffer = CaptureBuffer([TextRequest("p", 0, [0], [1] * n)], spec(scheme, v))
        buffer.add(np.zeros(n, np.int64), np.arange(1, n + 1), logits_nV, torch.ones(n, dtype=torch.long), logits_nV)
        hashes.append(buffer.finish([[0] + [1] * n], [1]).content_hash())
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    "free, reserved, rows", [(7.5, 0, 257), (2.5, 5, 257), (20, 0, 685), (100, 0, GPU_NUMBERS // V), (0.1, 0, 13)]
)
def test_a_gpu_captures_as_many_rows_as_its_free_memory_holds(
    free: float, reserved: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that the allocator holds and does not use counts as free. A CPU's chunk is that of its cache."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GB), 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 30 * GB + int(reserved * GB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30 * GB)
    assert chunk_rows(V, "cuda") == rows == head_numbers("cuda") // V
    assert chunk_rows(V, "cpu") == 13 and chunk_rows(10**9, "cpu") == 1


MIXED = [
    torch.arange(7, dtype=torch.float64) / 3,
    torch.arange(15, dtype=torch.int32).view(5, 3),
    torch.arange(5, dtype=torch.int16).view(torch.uint16),
    torch.zeros(0, 4),
    (torch.arange(12).float().view(3, 4) / 7).bfloat16().T,
    torch.arange(3),
]


def test_tensors_of_any_type_and_shape_travel_as_bytes() -> None:
    packed = packed_bytes(MIXED)
    assert packed.dtype == torch.uint8 and len(packed) % 8 == 0
    for found, sent in zip(unpacked_bytes(packed, MIXED), MIXED, strict=True):
        assert found.dtype == sent.dtype and torch.equal(found, sent)


def test_what_is_on_the_host_stays_there() -> None:
    assert all(found is sent for found, sent in zip(HostCopy(MIXED).tensors(), MIXED, strict=True))
    assert to_device([3, 4], "cpu").tolist() == [3, 4]
