"""How far a mean over pictures can be trusted: bootstrap intervals, drawn alike for all that is compared.

The pictures are drawn again with replacement, and the mean taken of each draw; the middle 95 % of these means
is the interval (Efron's percentile method). The draws follow from the seed and the number of pictures alone,
so that two entrants are compared on the same draws: the interval of their difference is paired.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0
_BLOCK = 1 << 20
"""Drawn pictures that are held at a time."""


def interval(values: Sequence[float], seed: int = SEED) -> tuple[float, float] | None:
    """Lower and upper end of the 95 % interval of the mean; None for fewer than two values.

    Of differences between two entrants, picture by picture, it is the paired interval of the difference.
    """
    if len(values) < 2:
        return None
    means = _means(np.asarray(values, np.float64), seed)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def mean(values: Sequence[float]) -> float | None:
    """The mean, whatever the order of the values; None of none."""
    return math.fsum(values) / len(values) if values else None


def _means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The mean of each draw, (RESAMPLES,), in bounded memory."""
    random, count = np.random.default_rng(seed), len(values)
    block = max(1, _BLOCK // count)
    parts = [
        values[random.integers(0, count, (min(block, RESAMPLES - start), count))].mean(axis=1)
        for start in range(0, RESAMPLES, block)
    ]
    return np.concatenate(parts)
