"""NIQE, the natural image quality evaluator (Mittal, Soundararajan and Bovik, 2013), as MATLAB computes it.

The grey plane is cut into blocks of 96x96; each block is described by 36 numbers (18 at full and 18 at half
size) that say how its locally normalised pixels, and the products of neighbouring ones, are distributed; the
score is a distance between the Gaussian fitted to the blocks and the one fitted to pristine photographs.
Smaller is better. Everything is float64 on the CPU.

Conventions of the reference kept here: the local window is 7x7 with sigma 7/6 and replicated borders;
neighbours wrap around inside a block; shape parameters are looked up on a grid of 0.001 from 0.2 to 10;
incomplete blocks at the right and at the bottom are left out; the half-size plane is MATLAB's antialiased
bicubic; blocks whose features are not numbers (flat ones) are dropped from the covariance.

Grey is 0.299 R + 0.587 G + 0.114 B, rounded. MATLAB's own ``rgb2gray`` has more digits in its weights
(0.29894, 0.58704, 0.11402), which moves single pixels by one and scores by up to a few hundredths.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from scipy.ndimage import correlate
from scipy.special import gamma
from torch import Tensor

from onestep.core.errors import InputError
from onestep.core.resize import resize

Array = NDArray[np.float64]

BLOCK = 96
"""Side of a block, in pixels; no side of the image may be shorter."""
FEATURES = 36
_WEIGHTS: Final = (0.299, 0.587, 0.114)
_SHIFTS: Final = ((0, 1), (1, 0), (1, 1), (1, -1))


def niqe(model: Path) -> Callable[[Tensor], Tensor]:
    """A scorer for images (B, 3, H, W) in [0, 1]; it returns (B,), about 2 (pristine) to 15 and more.

    Args:
        model: ``.npz`` or ``.mat`` with the mean (36) and covariance (36, 36) of pristine photographs.

    Raises:
        InputError: (at once) the file does not hold such a model; (when scoring) a side is below 96 pixels,
            or fewer than two blocks have any texture.
    """
    mean, covariance = read_model(model)

    def score(image: Tensor) -> Tensor:
        return torch.tensor([distance(features(rounded_grey(one)), mean, covariance) for one in image])

    return score


def read_model(path: Path) -> tuple[Array, Array]:
    """Mean (36,) and covariance (36, 36) of the features of pristine photographs.

    Raises:
        InputError: the file cannot be read or holds something else.
    """
    try:
        held = loadmat(path) if path.suffix == ".mat" else dict(np.load(path, allow_pickle=False))
        names = {key.replace("_", ""): value for key, value in held.items()}
        mean = np.asarray(names["muprisparam"], np.float64).ravel()
        covariance = np.asarray(names["covprisparam"], np.float64)
    except (OSError, ValueError, KeyError, TypeError, IndexError, MatReadError) as error:
        raise InputError(f"{path}: not a NIQE model") from error
    if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
        raise InputError(f"{path}: not a NIQE model: it has {mean.size} features instead of {FEATURES}")
    return mean, covariance


def rounded_grey(image: Tensor) -> Array:
    """Grey in whole 8-bit values, halves away from zero: (3, H, W) in [0, 1] to (H, W) in [0, 255]."""
    plane = np.tensordot(np.asarray(_WEIGHTS), image.detach().cpu().double().numpy() * 255, axes=1)
    return np.floor(np.round(plane, 3) + 0.5)  # 8-bit colours make whole thousandths: ties are real ties


def features(plane: Array) -> Array:
    """The 36 numbers of each block of a grey plane (H, W) in [0, 255]: (blocks, 36).

    Raises:
        InputError: the plane is smaller than one block.
    """
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
    if not rows or not columns:
        raise InputError(f"NIQE needs sides of at least {BLOCK} pixels")
    plane = plane[: rows * BLOCK, : columns * BLOCK]
    both: list[Array] = []
    for side in (BLOCK, BLOCK // 2):
        normal = normalised(plane)
        both.append(_describe(normal.reshape(rows, side, columns, side).swapaxes(1, 2)))
        if side == BLOCK:
            plane = _half(plane)
    return np.concatenate(both, axis=1)


def normalised(plane: Array) -> Array:
    """Each pixel less its local mean, over its local deviation plus one (MSCN coefficients)."""
    mean = _blur(plane)
    deviation = np.sqrt(np.abs(_blur(plane * plane) - mean * mean))
    return (plane - mean) / (deviation + 1)


def distance(blocks: Array, mean: Array, covariance: Array) -> float:
    """Between the Gaussian of an image's blocks (blocks, 36) and that of pristine photographs.

    sqrt(d' pinv((S1 + S2) / 2) d), with d the difference of the means.

    Raises:
        InputError: fewer than two blocks have features.
    """
    whole = blocks[~np.isnan(blocks).any(axis=1)]
    if len(whole) < 2:
        raise InputError(f"NIQE needs at least two blocks of {BLOCK}x{BLOCK} pixels with texture")
    away = mean - np.nanmean(blocks, axis=0)
    pooled = (covariance + np.cov(whole, rowvar=False)) / 2
    inverse = np.linalg.pinv(pooled, rcond=FEATURES * np.finfo(np.float64).eps)
    return float(np.sqrt(away @ inverse @ away))


def asymmetric_gaussian(values: Array) -> tuple[Array, Array, Array]:
    """Shape, left scale and right scale of asymmetric generalised Gaussians, by matching moments.

    Values (..., n) give three arrays (...); not a number where they lie on one side of zero or are all zero.
    """
    below, above = np.minimum(values, 0), np.maximum(values, 0)
    squares = [np.einsum("...i,...i->...", side, side) for side in (below, above)]
    with np.errstate(invalid="ignore", divide="ignore"):
        left, right = (
            np.sqrt(square / np.count_nonzero(side, axis=-1))
            for square, side in zip(squares, (below, above), strict=True)
        )
        skew = left / right
        size = (above.sum(axis=-1) - below.sum(axis=-1)) / values.shape[-1]
        measured = size**2 / (squares[0] + squares[1]) * values.shape[-1]
        measured = measured * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = _shape(measured)
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * width, right * width


def _describe(blocks: Array) -> Array:
    """18 numbers for each of (rows, columns, side, side) blocks: (rows * columns, 18).

    Shape and scale of the pixels, then shape, mean and scales of four products of neighbours.
    """
    count, pixels = blocks.shape[0] * blocks.shape[1], blocks.shape[2] * blocks.shape[3]
    shape, left, right = asymmetric_gaussian(blocks.reshape(count, pixels))
    numbers = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        product = blocks * np.roll(blocks, shift, axis=(2, 3))
        shape, left, right = asymmetric_gaussian(product.reshape(count, pixels))
        mean = (right - left) * (gamma(2 / shape) / gamma(1 / shape))
        numbers += [shape, mean, left, right]
    return np.stack(numbers, axis=1)


def _shape(measured: Array) -> Array:
    """The shape on the grid whose moment ratio, which grows with it, is nearest; not a number stays so."""
    grid, ratios = _ratios()
    above = np.clip(np.searchsorted(ratios, measured), 1, len(grid) - 1)
    lower = measured - ratios[above - 1] <= ratios[above] - measured
    return np.where(np.isnan(measured), np.nan, grid[above - lower])


@cache
def _ratios() -> tuple[Array, Array]:
    """The grid of shapes, and the moment ratio Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) of each."""
    grid = np.arange(200, 10001) / 1000
    return grid, gamma(2 / grid) ** 2 / (gamma(1 / grid) * gamma(3 / grid))


def _blur(plane: Array) -> Array:
    """The local mean, in one pass: in flat areas it leaves rounding noise, whose sign counts."""
    return correlate(plane, _window(), mode="nearest")


@cache
def _window() -> Array:
    line = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(line, line)
    return window / window.sum()


def _half(plane: Array) -> Array:
    half = resize(
        torch.from_numpy(plane)[None, None], (plane.shape[0] // 2, plane.shape[1] // 2), convention="matlab"
    )
    return half[0, 0].numpy()
