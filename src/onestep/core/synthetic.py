"""Procedural pictures: gradients, discs, strokes and textures, so that a toy run needs no folder."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _uniform(generator: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def _gradient(generator: torch.Generator, y: Tensor, x: Tensor) -> Tensor:
    angle = float(_uniform(generator, 1, high=2 * math.pi))
    ramp = (x * math.cos(angle) + y * math.sin(angle) + 1.5) / 3
    first, last = _uniform(generator, 2, 3, 1, 1)
    return first + (last - first) * ramp


def _texture(generator: torch.Generator, side: int) -> Tensor:
    """Smooth noise of a random grain, (1, side, side), about zero."""
    cells = int(torch.randint(2, max(3, side // 4), (1,), generator=generator))
    coarse = torch.randn(1, 1, cells, cells, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)[0]


def _disc(generator: torch.Generator, y: Tensor, x: Tensor, edge: float) -> Tensor:
    cy, cx = _uniform(generator, 2, low=-1).tolist()
    radius = float(_uniform(generator, 1, low=0.05, high=0.5))
    return ((radius - ((y - cy) ** 2 + (x - cx) ** 2).sqrt()) / edge + 0.5).clamp(0, 1)


def _stroke(generator: torch.Generator, y: Tensor, x: Tensor, edge: float) -> Tensor:
    ay, ax, by, bx = _uniform(generator, 4, low=-1).tolist()
    dy, dx = by - ay, bx - ax
    along = (((y - ay) * dy + (x - ax) * dx) / (dy * dy + dx * dx + 1e-6)).clamp(0, 1)
    distance = ((y - ay - along * dy) ** 2 + (x - ax - along * dx) ** 2).sqrt()
    width = float(_uniform(generator, 1, low=0.5, high=3)) * edge
    return ((width - distance) / edge + 0.5).clamp(0, 1)


def synthetic(side: int, generator: torch.Generator) -> Tensor:
    """Draw one picture: a gradient with texture, under three to eight discs and strokes with smooth edges.

    Args:
        side: Height and width in pixels.
        generator: Decides everything; the same state draws the same picture.

    Returns:
        (3, side, side) float32 in [0, 1].
    """
    line = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    edge = 2 / side
    image = _gradient(generator, y, x) + 0.1 * _texture(generator, side)
    for _ in range(int(torch.randint(3, 9, (1,), generator=generator))):
        draw = (_disc, _stroke)[int(torch.randint(0, 2, (1,), generator=generator))]
        cover = draw(generator, y, x, edge)
        image = image + cover * (_uniform(generator, 3, 1, 1) - image)
    return image.clamp(0, 1)
