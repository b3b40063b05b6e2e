"""Least squares of y = K + b D^-g with K >= 0, b >= 0 and g between bounds. Deterministic, no starting values.

At a given g the problem is a line with both coefficients non-negative, which is solved in closed form; g is looked for
on a grid that closes in on the best of it.

Legend: R curves at once, n points of each, G values of g.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_EXPONENT, MOST_EXPONENT = 0.05, 2.0
"""Bounds of g. Below the least a power falls by a seventh over a factor of twenty in D and cannot be told from a
constant by points that have any noise; published losses of language models fall with .05 to .6."""

_COARSE, _FINE, _ROUNDS, ROUGH_ROUNDS = 41, 9, 18, 5
"""Values of g at first and when closing in, by a factor of four a round: to 1e-11 in the end. To 1e-4, rough, where the
squares are wanted, which are flat around their least, or the spread of noise."""


@dataclass(frozen=True)
class PowerLaw:
    """Fitted curves."""

    floor_R: np.ndarray
    scale_R: np.ndarray
    """b, of D in units of `centre`."""
    exponent_R: np.ndarray
    misfit_R: np.ndarray
    """Weighted sum of squared residuals."""
    centre: float
    """The geometric mean of D."""

    def at(self, amounts: np.ndarray | float) -> np.ndarray:
        """Values [R, n] of the curves at D."""
        log_n = np.log(np.atleast_1d(amounts) / self.centre)
        return self.floor_R[:, None] + self.scale_R[:, None] * np.exp(-self.exponent_R[:, None] * log_n)


def fit_power_law(
    amounts_n: np.ndarray,
    values_Rn: np.ndarray,
    weights_n: np.ndarray,
    floor_R: np.ndarray | None = None,
    rounds: int = _ROUNDS,
) -> PowerLaw:
    """The best curves for values at D > 0, weighted by inverse variances; where floors are given, with those."""
    log_n = np.log(amounts_n)
    centre = float(np.exp(log_n.mean()))
    log_n = log_n - log_n.mean()
    grid_RG = np.broadcast_to(np.geomspace(LEAST_EXPONENT, MOST_EXPONENT, _COARSE), (len(values_Rn), _COARSE))
    rows = np.arange(len(values_Rn))
    for _ in range(rounds + 1):
        K_RG, b_RG, misfit_RG = _lines(log_n, values_Rn, weights_n, grid_RG, floor_R)
        best_R = misfit_RG.argmin(1)
        found = [x_RG[rows, best_R] for x_RG in (K_RG, b_RG, grid_RG, misfit_RG)]
        low_R = grid_RG[rows, np.maximum(best_R - 1, 0)]
        high_R = grid_RG[rows, np.minimum(best_R + 1, grid_RG.shape[1] - 1)]
        grid_RG = np.linspace(low_R, high_R, _FINE, axis=1)
    floor, scale, exponent, misfit = found
    return PowerLaw(floor, scale, exponent, misfit, centre)


def _lines(
    log_n: np.ndarray, y_Rn: np.ndarray, w_n: np.ndarray, g_RG: np.ndarray, floor_R: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K, b and weighted squares [R, G] of the best non-negative lines at each g."""
    z_RGn = np.exp(-g_RG[..., None] * log_n)
    y_R1n, w = y_Rn[:, None], w_n / w_n.sum()
    through_RG = np.maximum((w * z_RGn * y_R1n).sum(-1) / (w * z_RGn**2).sum(-1), 0)
    if floor_R is not None:
        K_RG = np.broadcast_to(floor_R[:, None], g_RG.shape)
        b_RG = np.maximum((w * z_RGn * (y_R1n - K_RG[..., None])).sum(-1) / (w * z_RGn**2).sum(-1), 0)
        return K_RG, b_RG, _squares(y_R1n, w_n, z_RGn, K_RG, b_RG)
    mean_z_RG1, mean_y_R11 = (w * z_RGn).sum(-1, keepdims=True), (w * y_R1n).sum(-1, keepdims=True)
    dz_RGn = z_RGn - mean_z_RG1
    free_b_RG = (w * dz_RGn * (y_R1n - mean_y_R11)).sum(-1) / (w * dz_RGn**2).sum(-1)
    free_K_RG = mean_y_R11[..., 0] - free_b_RG * mean_z_RG1[..., 0]
    flat_RG = np.broadcast_to(np.maximum(mean_y_R11[..., 0], 0), g_RG.shape)
    nothing_RG = np.zeros(g_RG.shape)
    free_RG = (free_b_RG >= 0) & (free_K_RG >= 0)
    K_3RG = np.stack([np.where(free_RG, free_K_RG, 0), nothing_RG, flat_RG])
    b_3RG = np.stack([np.where(free_RG, free_b_RG, through_RG), through_RG, nothing_RG])
    squares_3RG = np.stack([_squares(y_R1n, w_n, z_RGn, K, b) for K, b in zip(K_3RG, b_3RG, strict=True)])
    best_1RG = squares_3RG.argmin(0)[None]
    K_RG, b_RG, squares_RG = (np.take_along_axis(x, best_1RG, 0)[0] for x in (K_3RG, b_3RG, squares_3RG))
    return K_RG, b_RG, squares_RG


def _squares(y_R1n: np.ndarray, w_n: np.ndarray, z_RGn: np.ndarray, K_RG: np.ndarray, b_RG: np.ndarray) -> np.ndarray:
    return (w_n * (y_R1n - K_RG[..., None] - b_RG[..., None] * z_RGn) ** 2).sum(-1)


def floor_bounds(
    amounts_n: np.ndarray, values_Rn: np.ndarray, weights_n: np.ndarray, fitted: PowerLaw, allowed_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest floors [R] whose best curve has no more than `allowed_R` weighted squares above the least.

    A profile likelihood interval of normal errors, 95 % where 3.84 is allowed.
    """
    most_R = fitted.misfit_R + allowed_R

    def misfit(floor_R: np.ndarray) -> np.ndarray:
        return fit_power_law(amounts_n, values_Rn, weights_n, floor_R, ROUGH_ROUNDS).misfit_R

    def bound(outside_R: np.ndarray) -> np.ndarray:
        """Between the fitted floor and one that is outside, by halving."""
        inside_R = fitted.floor_R
        for _ in range(30):
            middle_R = (inside_R + outside_R) / 2
            holds_R = misfit(middle_R) <= most_R
            inside_R, outside_R = np.where(holds_R, middle_R, inside_R), np.where(holds_R, outside_R, middle_R)
        return inside_R

    zero_R = np.zeros(len(values_Rn))
    low_R = np.where(misfit(zero_R) <= most_R, 0, bound(zero_R))
    # A floor this far above the mean of all points misses it by more than is allowed, whatever is added to the floor.
    far_R = (values_Rn @ weights_n + np.sqrt(weights_n.sum() * most_R)) / weights_n.sum()
    return low_R, bound(np.maximum(far_R, fitted.floor_R) * (1 + 1e-9) + 1e-300)
