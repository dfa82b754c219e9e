"""BRISQUE (Mittal, Moorthy and Bovik, 2012) as OpenCV computes it, with OpenCV's model.

The locally normalised pixels of the grey picture, and the products of neighbouring ones, are described by 36
numbers (18 at full and 18 at half size); a support vector regression, trained by OpenCV on the LIVE database,
turns them into a score from 0 (good) to 100.

There are several BRISQUEs, and their scores are not comparable: the authors' MATLAB release and the Python
packages that follow it differ from this one in the model, the half-size picture and the constant that keeps
the local deviation from zero. What is OpenCV's here: grey by its fixed-point weights from 8-bit values, then
single precision in [0, 1]; a 7x7 window of sigma 7/6 with replicated borders; deviation plus 1/255;
neighbours to the right, below, right below and right above, zero beyond the border; half size by its bicubic
(a = -0.75) without antialiasing; shapes looked up on a grid of 0.001 from 0.2, up to the first minimum.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gamma
from torch import Tensor

from onestep.core.errors import InputError
from onestep.core.resize import resize

Array = NDArray[np.float64]
Plane = NDArray[np.float32]

FEATURES = 36
MINIMUM = 14
"""Smallest side, in pixels: one window at half size."""
_GREY: Final = (9798, 19235, 3735)  # of 2^15: OpenCV's weights of R, G and B
_SHIFTS: Final = ((0, 1), (1, 0), (1, 1), (-1, 1))
_NUMBER: Final = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Model:
    """A support vector regression with a radial kernel, and the ranges that features are scaled by."""

    vectors: Array
    """(n, 36)"""
    weights: Array
    """(n,)"""
    rho: float
    gamma: float
    low: Array
    """(36,): becomes -1."""
    high: Array
    """(36,): becomes 1."""

    def predict(self, features: Array) -> float:
        """The score of 36 features, cut to 0 … 100."""
        scaled = 2 * (features - self.low) / (self.high - self.low) - 1
        kernel = np.exp(-self.gamma * np.square(self.vectors - scaled).sum(axis=1))
        return float(np.clip(self.weights @ kernel - self.rho, 0, 100))


def brisque(model: Path, ranges: Path) -> Callable[[Tensor], Tensor]:
    """A scorer for images (B, 3, H, W) in [0, 1]; it returns (B,), 0 (good) to 100.

    Args:
        model: OpenCV's ``brisque_model_live.yml``.
        ranges: OpenCV's ``brisque_range_live.yml``.

    Raises:
        InputError: (at once) a file does not hold that; (when scoring) a side is below 14 pixels, or the
            picture is so flat that its pixels have no distribution.
    """
    known = read_model(model, ranges)

    def score(image: Tensor) -> Tensor:
        return torch.tensor([known.predict(features(grey(one))) for one in image])

    return score


def read_model(model: Path, ranges: Path) -> Model:
    """Read OpenCV's two files, as numbers.

    Raises:
        InputError: a file cannot be read or holds something else.
    """
    text, bounds = _text(model), _matrix(ranges)
    vectors = _numbers(text, "support_vectors:", "decision_functions:")
    weights = _numbers(text, "alpha: [", "]")
    if not weights or len(vectors) != len(weights) * FEATURES or len(bounds) != 2 * FEATURES:
        raise InputError(f"{model}, {ranges}: not OpenCV's BRISQUE model and its ranges")
    return Model(
        np.array(vectors).reshape(-1, FEATURES),
        np.array(weights),
        _numbers(text, "rho:", "\n")[0],
        _numbers(text, "gamma:", "\n")[0],
        np.array(bounds[:FEATURES]),
        np.array(bounds[FEATURES:]),
    )


def grey(image: Tensor) -> Plane:
    """Grey of the 8-bit picture: (3, H, W) in [0, 1] to (H, W) in [0, 1], single precision."""
    pixels = (image.detach().cpu().double().clamp(0, 1) * 255).round().long().numpy()
    whole = (np.tensordot(np.asarray(_GREY), pixels, axes=1) + (1 << 14)) >> 15
    return whole.astype(np.float32) * np.float32(1 / 255)


def features(plane: Plane) -> Array:
    """The 36 numbers of a grey plane (H, W) in [0, 1].

    Raises:
        InputError: the plane is too small or too flat.
    """
    if min(plane.shape) < MINIMUM:
        raise InputError(f"BRISQUE needs sides of at least {MINIMUM} pixels")
    half = resize(
        torch.from_numpy(plane)[None, None], (plane.shape[0] // 2, plane.shape[1] // 2), antialias=False
    )
    numbers = np.array([*_describe(normalised(plane)), *_describe(normalised(half[0, 0].numpy()))])
    if not np.isfinite(numbers).all():
        raise InputError("BRISQUE needs a picture with texture")
    return numbers


def normalised(plane: Plane) -> Plane:
    """Each pixel less its local mean, over its local deviation plus 1/255 (MSCN coefficients).

    Where rounding makes a variance negative the value is not a number, and counts on neither side of zero.
    """
    mean = _blur(plane)
    with np.errstate(invalid="ignore"):
        deviation = np.sqrt(_blur(plane * plane) - mean * mean)
    return (plane - mean) / (deviation + np.float32(1 / 255))


def _describe(normal: Plane) -> list[float]:
    """18 numbers: shape and variance of the pixels; shape, mean, variances of four neighbour products."""
    shape, left, right = _asymmetric_gaussian(normal)
    numbers = [shape, (left**2 + right**2) / 2]
    for down, across in _SHIFTS:
        shape, left, right = _asymmetric_gaussian(normal * _shifted(normal, down, across))
        width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        mean = (right - left) * float(gamma(2 / shape) / gamma(1 / shape) * width)
        numbers += [shape, mean, left**2, right**2]
    return numbers


def _asymmetric_gaussian(values: Plane) -> tuple[float, float, float]:
    """Shape and the deviations to the left and to the right of zero, by matching moments."""
    grid, ratios = _ratios()
    below, above = (values[side].astype(np.float64) for side in (values < 0, values > 0))
    if not below.size or not above.size:
        return float("nan"), float("nan"), float("nan")
    squares = float(below @ below), float(above @ above)
    left, right = np.sqrt(squares[0] / below.size), np.sqrt(squares[1] / above.size)
    skew = left / right
    measured = (above.sum() - below.sum()) ** 2 / sum(squares) / values.size
    measured *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    return float(grid[np.argmin(np.abs(ratios - measured))]), float(left), float(right)


def _shifted(normal: Plane, down: int, across: int) -> Plane:
    """The plane of the neighbours so many rows down and columns to the right; zero beyond the border."""
    rows, columns = normal.shape
    out = np.zeros_like(normal)
    to = slice(max(0, -down), rows - max(0, down)), slice(0, columns - across)
    out[to] = normal[max(0, down) : rows + min(0, down), across:]
    return out


@cache
def _ratios() -> tuple[Array, Array]:
    """The grid of shapes, and the moment ratio Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) of each."""
    grid = np.arange(200, 10000) / 1000
    return grid, gamma(2 / grid) ** 2 / (gamma(1 / grid) * gamma(3 / grid))


def _blur(plane: Plane) -> Plane:
    """The local mean, with OpenCV's order of operations.

    In flat areas it leaves rounding noise, whose sign counts. OpenCV adds from left to right along rows and
    from the centre outwards along columns, each product fused with its sum; a sum in double precision,
    rounded, is the same.
    """
    line = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    line = (line / line.sum()).astype(np.float32).astype(np.float64)
    rows, columns = plane.shape
    wide = np.pad(plane, 3, mode="edge")
    across = (wide[:, :columns] * line[0]).astype(np.float32)
    for tap in range(1, 7):
        across = (wide[:, tap : tap + columns] * line[tap] + across).astype(np.float32)
    down = (across[3 : 3 + rows] * line[3]).astype(np.float32)
    for away in (1, 2, 3):
        both = across[3 - away : 3 - away + rows] + across[3 + away : 3 + away + rows]
        down = (both * line[3 + away] + down).astype(np.float32)
    return down


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a BRISQUE model") from error


def _matrix(path: Path) -> list[float]:
    return _numbers(_text(path), "data: [", "]")


def _numbers(text: str, start: str, end: str) -> list[float]:
    """All numbers between two marks; none where the first mark is missing."""
    found = text.partition(start)[2].partition(end)[0]
    return [float(number) for number in _NUMBER.findall(found)]
