"""How well probabilities are what they say.

Legend: G groups of positions.
"""

from __future__ import annotations

import numpy as np

_BINS = 15
"""Equal-mass bins of the calibration error (Guo et al. 2017 with adaptive bins)."""


def calibration_error(masses_G3: np.ndarray, bins: int = _BINS) -> float:
    """Expected calibration error of confidences against the teacher's probability of that token, equal-mass bins.

    Of [G, 3] tokens, sums of confidence and of the teacher's probability by rising confidence. A group that lies across
    the border of two bins is shared out between them in proportion.
    """
    running = np.concatenate([np.zeros((1, 3)), np.cumsum(masses_G3, 0)])
    tokens = int(running[-1, 0])
    least, more = divmod(tokens, min(bins, tokens))
    borders = [b * least + min(b, more) for b in range(min(bins, tokens) + 1)]
    confidence, target = (np.diff(np.interp(borders, running[:, 0], running[:, i])) for i in (1, 2))
    return float(np.abs(confidence - target).sum() / tokens)
