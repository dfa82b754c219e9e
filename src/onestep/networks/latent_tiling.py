"""Predict the noise of a large latent tile by tile, blended before anything else is made of it.

The number of tiles and the width of the Gaussian that blends are those of OSEDiff's official code (section
5.2 of docs/methods/osediff.md). Two things are not: there the last tile alone is moved back to the border, so
that its own border may weigh in; and the Gaussian's centre is half an element low in one direction.
"""

from collections.abc import Callable

import torch
from torch import Tensor

WIDTH = 0.01
"""Variance of the blending Gaussian, in squared tiles."""


def offsets(length: int, tile: int, overlap: int, *, even: bool = True) -> list[int]:
    """Where tiles begin along a side; the last one ends where the side does.

    The stride is at least 1: the published loop never ends where a side is no longer than the overlap.

    Args:
        length: Of the side.
        tile: Of a tile.
        overlap: What neighbours share, at least.
        even: Spread the same number of tiles evenly; if not, as published, with the last one moved back.
    """
    tile = min(tile, length)
    stride = max(tile - overlap, 1)
    count = 1 + max(0, -(-(length - tile) // stride))
    if even and count > 1:
        return [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [*(i * stride for i in range(count - 1)), length - tile]


def weight(tile: int, *, shift: float = 0.0) -> Tensor:
    """How much each element of a tile counts along a side, (tile,), float64; ``shift`` moves the centre."""
    centre = (tile - 1) / 2 + shift
    distance = (torch.arange(tile, dtype=torch.float64) - centre) / tile
    return (-distance.square() / (2 * WIDTH)).exp() / (2 * torch.pi * WIDTH) ** 0.5


def tiled(run: Callable[[Tensor], Tensor], latent: Tensor, tile: int, overlap: int) -> Tensor:
    """Run over tiles of a latent and blend: sum of w * run(tile) over sum of w, float32.

    Args:
        run: (B, C, h, w) -> (B, C', h, w), for the size of a tile.
        latent: (B, C, H, W). One that has no more elements than a tile is run whole, whatever its shape.
        tile: Side of a tile, in elements.
        overlap: What neighbours share, at least.
    """
    height, width = latent.shape[-2:]
    if height * width <= tile**2:
        return run(latent).float()
    sides = min(tile, height), min(tile, width)
    blend = torch.outer(weight(sides[0]), weight(sides[1])).to(latent.device, torch.float32)
    total: Tensor | None = None
    share = latent.new_zeros(height, width, dtype=torch.float32)
    for top in offsets(height, tile, overlap):
        for left in offsets(width, tile, overlap):
            rows, columns = slice(top, top + sides[0]), slice(left, left + sides[1])
            piece = run(latent[..., rows, columns]).float()
            if total is None:
                total = piece.new_zeros(*piece.shape[:-2], height, width)
            total[..., rows, columns] += piece * blend
            share[rows, columns] += blend
    assert total is not None
    return total / share
