"""How far two right computations of the same numbers may lie apart: by arithmetic, not by what one processor gave.

Processors, numbers of threads and shapes of batches add up in different orders, and round at every step. With unit
roundoff u, a sum of n products is off by at most n u times the sum of their magnitudes, whatever the order (N. Higham,
Accuracy and Stability of Numerical Algorithms, 2nd edition, sections 3.1 and 4.2). As roundings go up as often as down,
it is off by no more than lambda sqrt(n) u of that, but for a chance of 2 exp(-lambda^2 / 2) (N. Higham and T. Mary,
A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019).

Two computations each have their own error, hence the factors of two. What is discrete and follows from such numbers,
as a sampled token does, is compared by borders.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch

LAMBDA = 6.0
"""Exceeded by one sum in 30 million."""

STEPS_OF_A_LAYER = 9
"""One after another: two norms, queries and keys, scores, softmax, weighted values, output, gate and up, down."""


def steps(layers: int) -> int:
    """Of a transformer, one after another: its layers, the last norm and the head."""
    return STEPS_OF_A_LAYER * layers + 2


def unit_roundoff(dtype: torch.dtype = torch.float32) -> float:
    """Half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def of_sums(terms: int, dtype: torch.dtype = torch.float32) -> float:
    """Between two sums of so many products, relative to the sum of their magnitudes: the bound that always holds."""
    return 2 * terms * unit_roundoff(dtype)


def of_chain(steps: int, width: int, dtype: torch.dtype = torch.float32) -> float:
    """Between two results of steps, one after another, that each sum over `width` numbers; relative to the largest.
    Norms between them leave relative errors what they are, so that all roundings on the way count alike."""
    return 2 * LAMBDA * math.sqrt(steps * width) * unit_roundoff(dtype)


def of_logits(largest: float, layers: int = 2, width: int = 64, dtype: torch.dtype = torch.float32) -> float:
    """Between logits, or log-probabilities, of a transformer, of which `largest` is the largest in size. The defaults
    are the sizes of model_families.py."""
    return of_chain(steps(layers), width, dtype) * float(largest)


def of_gradients(largest: float, layers: int = 2, width: int = 64, dtype: torch.dtype = torch.float32) -> float:
    """Between gradients of a transformer's weights, of which `largest` is the largest: the way back takes every step
    twice more, for what went in and for the weights."""
    return of_chain(3 * steps(layers), width, dtype) * float(largest)


LOSSES = 1e-4
"""Between a training's losses by other numbers of workers: the README's promise. It is less than `of_logits` for the
log-probabilities of the students here, which reach to -7, as a loss is a mean over a hundred positions."""


def of_adam(moved: float, layers: int = 2, width: int = 48) -> float:
    """Between 99 of 100 weights after steps of Adam, of which the furthest moved by `moved`.

    A step is a gradient over its own size, so that an error of a gradient moves the weight by its share of it. Of
    normal numbers, of which the largest is about 5 deviations, 99 of 100 are above an eightieth of one. Of the others
    not even the step's direction is sure.
    """
    return float(moved) * of_gradients(5 * 80, layers, width)


def of_divergence(logits: float) -> float:
    """The KL between two distributions whose log-probabilities differ by `logits` at most: to the second order half the
    mean square of their difference."""
    return logits**2 / 2


def usual_divergence(spread: float, layers: int = 2, width: int = 64, dtype: torch.dtype = torch.float32) -> float:
    """The KL that one computation is usually from the exact one, its lambda being 1; `spread` is the standard deviation
    of the log-probabilities. For types too coarse for the bounds above to say anything."""
    return of_divergence(math.sqrt(steps(layers) * width) * unit_roundoff(dtype) * spread)


def of_capture(largest: float, width: int = 64) -> float:
    """Between log-probabilities that were captured of one model in float64 (see `in_float64`).

    A capture rounds to float32 a logit, the largest, their difference, an exponential, its sum, the sum's logarithm,
    and the last difference: eight roundings of numbers of at most `largest` in size. Before it, one step of a model may
    be summed in float32 whatever its type (routers, and the softmax of attention where it is eager).
    """
    return (2 * 8 * unit_roundoff() + of_chain(1, width)) * float(largest)


def in_float64(model: Any) -> Any:
    """The model with weights and sums in float64: what shapes of batches change is then a billion times less than what
    a wrong mask or another text's token does, and far too little to change a sampled token.

    Not for attention that is eager and without sinks: its softmax in float32 makes of float64's mask minus infinity."""
    model.set_experts_implementation("eager")  # torch's grouped matrix product has no float64
    return model.double()
