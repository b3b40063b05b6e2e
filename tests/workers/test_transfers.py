"""Tensors that travel as one come apart as they were."""

from __future__ import annotations

import torch

from workers.transfers import HostCopy, packed_bytes, to_device, unpacked_bytes

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
