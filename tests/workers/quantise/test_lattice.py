"""The lattices of Q4_0 and Q8_0: to the bit what ggml's reference makes, and what storage leaves of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from workers.quantise.lattice import GROUP, Form, codes, on_lattice, values

FORMS: tuple[Form, ...] = ("q4_0", "q8_0")
SCALES = [torch.bfloat16, torch.float16]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adversarial() -> torch.Tensor:
    """Groups with zeros, ties, both signs of the largest, subnormal scales, one weight alone, integers and halves."""
    x_OI = torch.randn(14, GROUP, generator=rng(0))
    x_OI[0], x_OI[1] = 0, -0.0
    x_OI[2, 3], x_OI[2, 7] = -9, 9  # the first of two that are largest
    x_OI[3, 3], x_OI[3, 7] = 9, -9
    x_OI[4] = (torch.arange(GROUP) - 16) / 2  # every second one lies between two codes
    x_OI[5] = (torch.arange(GROUP) - 16) / -2
    x_OI[6] *= 1e-6  # scales that float16 has as subnormals
    x_OI[7] *= 1e-8  # and those that it rounds to zero
    x_OI[8], x_OI[8, 5] = 0, 3.3
    x_OI[9], x_OI[10] = 1.7, -1.7
    x_OI[11] = x_OI[11].round()
    x_OI[12] = (torch.arange(GROUP) * 8 - 127) / 2  # halves of Q8_0
    x_OI[12, 0] = 127
    x_OI[13] *= 10_000
    return x_OI


def reference(weight_OI: torch.Tensor, form: Form) -> np.ndarray[Any, Any]:
    """ggml's bytes, from gguf-py."""
    gguf = pytest.importorskip("gguf")
    return gguf.quantize(weight_OI.float().numpy(), getattr(gguf.GGMLQuantizationType, form.upper()))


def read(packed: np.ndarray[Any, Any], form: Form) -> torch.Tensor:
    gguf = pytest.importorskip("gguf")
    return torch.from_numpy(gguf.dequantize(packed, getattr(gguf.GGMLQuantizationType, form.upper())))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "weight_OI", [torch.randn(512, 512, generator=rng(1)) * 0.02, adversarial()], ids=["normal", "odd"]
)
def test_codes_and_scales_are_those_of_ggml(form: Form, weight_OI: torch.Tensor) -> None:
    packed = reference(weight_OI, form)
    found_OGg, scale_OG = codes(weight_OI, form, torch.float16)
    blocks = packed.reshape(len(weight_OI), scale_OG.shape[1], -1)
    assert np.array_equal(scale_OG.numpy().view(np.uint16), blocks[..., :2].copy().view(np.uint16)[..., 0])
    expected = blocks[..., 2:].view(np.int8)
    if form == "q4_0":
        expected = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], -1).astype(np.int8) - 8
    assert np.array_equal(found_OGg.numpy(), expected)
    assert torch.equal(on_lattice(weight_OI, form, torch.float16), read(packed, form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale_dtype", SCALES, ids=str)
def test_a_point_of_the_lattice_stays_where_it_is(form: Form, scale_dtype: torch.dtype) -> None:
    for weight_OI in (torch.randn(256, 256, generator=rng(2)), adversarial()):
        once_OI = on_lattice(weight_OI, form, scale_dtype)
        assert torch.equal(on_lattice(once_OI, form, scale_dtype), once_OI)
        assert torch.equal(read(reference(once_OI, form), form), once_OI), "and the stock rule finds the same"


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_four_bits_survive_storage(stored: torch.dtype) -> None:
    """Whoever quantises weights that were stored, by the stock rule or by ours, finds what was stored."""
    for seed, spread in enumerate((1.0, 0.02, 0.001)):
        once_OI = on_lattice(torch.randn(256, 512, generator=rng(seed)) * spread, "q4_0")
        assert torch.equal(read(reference(once_OI.to(stored), "q4_0"), "q4_0"), once_OI)
        assert torch.equal(on_lattice(once_OI.to(stored).float(), "q4_0"), once_OI)


def test_every_scale_of_bfloat16_survives_it() -> None:
    """Each of its 128 significands with each code, of either sign and at all magnitudes that float16 has."""
    significands = 1 + torch.arange(128) / 128
    scales = torch.cat([s * significands * 2.0**e for s in (1, -1) for e in range(-14, 15)])
    group = torch.cat([torch.arange(-8, 8), torch.arange(-8, 8)])
    weight_OI = scales[:, None] * group
    found_OGg, scale_OG = codes(weight_OI.bfloat16(), "q4_0", torch.float16)
    assert torch.equal(found_OGg[:, 0], group.to(torch.int8).expand_as(weight_OI))
    assert torch.equal(scale_OG[:, 0].float(), scales)


@pytest.mark.parametrize(("form", "levels"), [("q4_0", 8), ("q8_0", 127)])
def test_a_weight_moves_by_half_a_step_at_most(form: Form, levels: int) -> None:
    """But beyond 7.5 steps on the side of Q4_0 that has no eighth."""
    weight_OI = torch.randn(256, 320, generator=rng(3))
    found_OI = on_lattice(weight_OI, form)
    _, scale_OG = codes(weight_OI, form)
    was_OGg, is_OGg = (x.unflatten(1, (-1, GROUP)) / scale_OG.float()[..., None] for x in (weight_OI, found_OI))
    beyond_OGg = was_OGg > (7.5 if form == "q4_0" else torch.inf)
    rounding = levels * 2.0**-9  # of the scale, in its steps
    assert (is_OGg - was_OGg).abs()[~beyond_OGg].max() <= 0.5 + rounding
    assert beyond_OGg.float().mean() < 0.02


def test_types_shapes_and_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    weight_OI = torch.randn(40, 96, generator=rng(4))
    found_OGg, scale_OG = codes(weight_OI, "q4_0")
    assert (found_OGg.dtype, scale_OG.dtype) == (torch.int8, torch.float16)
    assert (found_OGg.shape, scale_OG.shape) == ((40, 3, GROUP), (40, 3))
    assert torch.equal(values(found_OGg, scale_OG), on_lattice(weight_OI, "q4_0"))
    whole = {dtype: on_lattice(weight_OI.to(dtype), "q8_0") for dtype in (torch.float32, torch.bfloat16)}
    assert all(found.dtype == dtype for dtype, found in whole.items())
    monkeypatch.setattr("workers.quantise.lattice._AT_ONCE", {"cpu": 3 * 96})
    assert all(torch.equal(on_lattice(weight_OI.to(dtype), "q8_0"), found) for dtype, found in whole.items())


def test_the_weight_itself_is_left_alone() -> None:
    for dtype in (torch.float32, torch.float16):
        weight_OI = torch.randn(4, 64, generator=rng(5)).to(dtype)
        before = weight_OI.clone()
        for form in FORMS:
            codes(weight_OI, form)
            on_lattice(weight_OI, form)
        assert torch.equal(weight_OI, before)


@pytest.mark.parametrize("shape", [(4, 33), (4, 16), (64,), (2, 2, 64)])
def test_a_width_without_groups_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no groups of 32"):
        on_lattice(torch.ones(shape), "q4_0")
