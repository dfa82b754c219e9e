"""LR-consistency: the nearest image whose downscaling is the input.

Antialiased downscaling is linear and acts on rows and columns apart, D(Y) = A Y B^T. Of all images with
D(Y) = X, the nearest to an image Y0 is Y0 + A^T (A A^T)^-1 (X - D(Y0)) (B B^T)^-1 B, which is back-projection
(Irani and Peleg, 1991) carried to its end. A A^T is banded, so this costs as much as a few resizes. An image
must also stay in [0, 1]: clipping and projecting take turns.
"""

from dataclasses import replace
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from onestep.core.picture import Picture
from onestep.core.resize import taps

Downscale = Literal["bicubic", "bilinear", "lanczos", "area"]
"""Antialiased downscaling as torch and Pillow define it (``area``: Pillow's box)."""
DOWNSCALES: Final = get_args(Downscale)

_ROUNDS: Final = 60
_ENOUGH: Final = 1 / 1020
"""A quarter of a level of 8 bits: nearer than rounding lets an image come."""
_STALLED: Final = 10
"""Rounds without progress after which no image in [0, 1] will do better."""
_LINES: Final = 32
"""LR lines that are scaled at a time."""
_STRIP, _MARGIN, _FADE = 256, 32, 12
"""LR rows that are moved at a time, and beside them: influence falls by a factor of 2 to 6 a row. Over twice
the last number of rows, strips are cross-faded."""

Floats = npt.NDArray[np.float64]


class Axis:
    """The downscaling of one axis, or of the part of it that makes the samples ``top`` to ``bottom``."""

    def __init__(
        self, length: int, target: int, kernel: Downscale, top: int = 0, bottom: int | None = None
    ) -> None:
        """Prepare the weights, and the band matrix that undoes them.

        Args:
            length: of the large image.
            target: of the small one; at most ``length``.
            kernel: of the downscaling.
            top: the first sample of the small image.
            bottom: behind the last; None: all.
        """
        bottom = target if bottom is None else bottom
        parts = [
            (line, *taps(line, min(line + _LINES, bottom), length, target, kernel))
            for line in range(top, bottom, _LINES)
        ]
        self.start = min(first for _, first, _ in parts)
        """The first sample of the large image that has a part in it."""
        self.end = max(first + weights.shape[1] for _, first, weights in parts)
        """Behind the last."""
        self._count = bottom - top
        self._parts = [(line - top, first - self.start, weights) for line, first, weights in parts]
        self._band = self._products()

    def down(self, image: Tensor) -> Tensor:
        """(..., end - start, n) to (..., bottom - top, n)."""
        parts = [
            weights.to(image) @ image[..., first : first + weights.shape[1], :]
            for _, first, weights in self._parts
        ]
        return torch.cat(parts, dim=-2)

    def back(self, image: Tensor) -> Tensor:
        """The transpose of ``down``: (..., bottom - top, n) to (..., end - start, n)."""
        out = image.new_zeros(*image.shape[:-2], self.end - self.start, image.shape[-1])
        for top, first, weights in self._parts:
            part = image[..., top : top + len(weights), :]
            out[..., first : first + weights.shape[1], :] += weights.T.to(image) @ part
        return out

    def solve(self, image: Tensor) -> Tensor:
        """(A A^T)^-1 times (..., bottom - top, n)."""
        from scipy.linalg import solveh_banded

        columns = image.movedim(-2, 0)
        solved = solveh_banded(self._band, columns.reshape(self._count, -1).double().numpy(), lower=True)
        return torch.from_numpy(solved).to(image.dtype).reshape(columns.shape).movedim(0, -2)

    def _products(self) -> Floats:
        """A A^T as the lower band that scipy takes: row k holds the k-th diagonal below the main one."""
        spans: list[tuple[int, Floats]] = []
        for _, first, weights in self._parts:
            for row in weights.numpy():
                used = np.flatnonzero(row)
                spans.append((first + int(used[0]), row[used[0] : used[-1] + 1]))
        diagonals: list[Floats] = []
        for k in range(self._count):
            values = np.zeros(self._count)
            for n in range(self._count - k):
                values[n] = _overlap(spans[n], spans[n + k])
            if k and not values.any():
                break
            diagonals.append(values)
        return np.stack(diagonals)


def _overlap(one: tuple[int, Floats], other: tuple[int, Floats]) -> float:
    """The product of two rows that are zero outside of their spans."""
    start = max(one[0], other[0])
    end = min(one[0] + len(one[1]), other[0] + len(other[1]))
    if end <= start:
        return 0.0
    return float(one[1][start - one[0] : end - one[0]] @ other[1][start - other[0] : end - other[0]])


def downscaled(image: Tensor, size: tuple[int, int], kernel: Downscale = "bicubic") -> Tensor:
    """(B, C, H, W) at a smaller size (height, width), not clamped."""
    rows, columns = Axis(image.shape[-2], size[0], kernel), Axis(image.shape[-1], size[1], kernel)
    return _down(image, rows, columns)


def consistent(image: Tensor, lr: Tensor, kernel: Downscale = "bicubic") -> Tensor:
    """The image moved so that its downscaling is the LR image, as near as [0, 1] allows.

    Strips of rows are moved one after the other, which bounds memory.

    Args:
        image: (1, C, H, W) in [0, 1], on the CPU.
        lr: (1, C, h, w) in [0, 1], h <= H and w <= W.
        kernel: of the downscaling.

    Returns:
        (1, C, H, W) in [0, 1].
    """
    height, target = image.shape[-2], lr.shape[-2]
    columns = Axis(image.shape[-1], lr.shape[-1], kernel)
    out = torch.empty_like(image, memory_format=torch.contiguous_format)

    def line(n: int) -> int:
        return round(min(max(n, 0), target) * height / target)

    for top in range(0, target, _STRIP):
        bottom = top + _STRIP
        first, last = max(top - _MARGIN, 0), min(bottom + _MARGIN, target)
        rows = Axis(height, target, kernel, first, last)
        moved = _moved(image[..., rows.start : rows.end, :], lr[..., first:last, :], rows, columns)
        start, full, end = (
            line(top - _FADE if top else 0),
            line(top + _FADE if top else 0),
            line(bottom + _FADE),
        )
        shares = (torch.arange(full - start, dtype=out.dtype) + 0.5)[:, None] / max(full - start, 1)
        out[..., start:full, :].lerp_(moved[..., start - rows.start : full - rows.start, :], shares)
        out[..., full:end, :] = moved[..., full - rows.start : end - rows.start, :]
    return out


def matched(result: Picture, source: Picture, kernel: Downscale) -> tuple[Picture, float]:
    """A result moved so that its downscaling is the picture it was made of.

    Returns:
        The picture; the largest difference between its pixels, rounded as they will be stored and downscaled,
        and those of the source, in values from 0 to 1.
    """
    planes = slice(0, 1 if source.grey else 3)
    lr = source.rgb[:, planes]
    rgb = consistent(result.rgb[:, planes].float().cpu(), lr, kernel)
    full = 2**result.bits - 1
    stored = (rgb * full).round_().div_(full)
    difference = float((downscaled(stored, (lr.shape[-2], lr.shape[-1]), kernel) - lr).abs().max())
    return replace(result, rgb=rgb.expand(1, 3, -1, -1)), difference


def _moved(image: Tensor, lr: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Project and clip in turn, with the momentum of Nesterov (1983), anew where that leads away."""
    best, least, since = image, float("inf"), 0
    before, small_before, last, age = image, lr, float("inf"), 0
    for _ in range(_ROUNDS):
        reached = _down(image, rows, columns)
        left = float((lr - reached).abs().max())
        best, since = (image, 0) if left < least else (best, since + 1)
        least = min(left, least)
        if least <= _ENOUGH or since == _STALLED:
            break
        age, last = (0 if left > last else age + 1), left
        momentum = 1 + (age - 1) / (age + 2) if age else 1.0
        ahead, small = torch.lerp(before, image, momentum), torch.lerp(small_before, reached, momentum)
        solved = columns.solve(rows.solve(lr - small).mT).mT
        before, small_before = image, reached
        image = (ahead + columns.back(rows.back(solved).mT).mT).clamp_(0, 1)
    return best


def _down(image: Tensor, rows: Axis, columns: Axis) -> Tensor:
    return columns.down(rows.down(image).mT).mT
