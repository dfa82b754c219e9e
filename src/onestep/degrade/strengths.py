"""Degradations whose strength is known: one number from 0 (nothing) to 1 (worst) for each kind.

What a degradation estimator is trained and measured with. All of them act on the low-resolution picture and
keep its size; kinds that are about sharpness count as blur, the others as noise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from onestep.degrade import kernels
from onestep.degrade.chain import pick, uniform
from onestep.degrade.operators import GaussianNoise, Jpeg, PoissonNoise

Kind = Literal["gaussian-blur", "resize", "gaussian-noise", "poisson", "jpeg"]

BLUR: tuple[Kind, ...] = ("gaussian-blur", "resize")
NOISE: tuple[Kind, ...] = ("gaussian-noise", "poisson", "jpeg")

_SIGMA = 3.0
"""Standard deviation of the worst blur, in pixels."""
_REDUCTION = 4.0
"""The worst resize keeps one pixel of so many, along a side."""
_NOISE = 30.0
"""Standard deviation of the worst noise, in 8-bit levels."""
_POISSON = 3.0
_QUALITY = (95.0, 30.0)
"""JPEG quality just above nothing, and of the worst; at a strength of 0 nothing is compressed."""
_BLOCKS = 16
"""Side of the blocks of JPEG, those of colour included."""
_GREY = 0.4
_MODES = ("bilinear", "bicubic")


def blur(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Gaussian blur of 3 * strength pixels; in three of ten, longer one way than the other, equal in area."""
    sigma = _SIGMA * strength
    if sigma < 0.05:
        return image
    ratio = uniform(generator, 1.0, 2.0) if uniform(generator, 0.0, 1.0) < 0.3 else 1.0
    angle = uniform(generator, 0.0, math.pi)
    side = 2 * math.ceil(3.5 * sigma * math.sqrt(ratio)) + 1
    kernel = kernels.gaussian(side, sigma * math.sqrt(ratio), sigma / math.sqrt(ratio), angle)
    return kernels.convolve(image, kernel)


def resize(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Reduce the sides by 1 + 3 * strength, antialiased, and enlarge again, bilinear or bicubic at random.

    Antialiased, so that the strength decides how much is lost, and not the mode of the reduction.
    """
    size = (image.shape[-2], image.shape[-1])
    factor = 1 + (_REDUCTION - 1) * strength
    small = (max(1, round(size[0] / factor)), max(1, round(size[1] / factor)))
    mode = _MODES[pick(generator, (1.0, 1.0))]
    if small == size:
        return image
    reduced = functional.interpolate(image[None], size=small, mode="bicubic", antialias=True)
    return functional.interpolate(reduced, size=size, mode=mode)[0].clamp(0, 1)


def gaussian_noise(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """White noise of 30 * strength 8-bit levels, grey in four of ten."""
    sigma = _NOISE * strength
    return GaussianNoise((sigma, sigma), _GREY)(image, generator)


def poisson(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Shot noise of scale 3 * strength, grey in four of ten."""
    scale = _POISSON * strength
    return PoissonNoise((scale, scale), _GREY)(image, generator)


def jpeg(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """JPEG of quality 95 - 65 * strength; nothing at 0.

    In half of the pictures blocks begin above and left of the picture, as where it was cropped afterwards.
    """
    if strength <= 0:
        return image
    quality = _QUALITY[0] + (_QUALITY[1] - _QUALITY[0]) * strength
    cut = uniform(generator, 0.0, 1.0) < 0.5
    top, left = (int(uniform(generator, 0.0, _BLOCKS)) if cut else 0 for _ in range(2))
    framed = functional.pad(image.clamp(0, 1)[None], (left, 0, top, 0), mode="replicate")[0]
    return Jpeg((quality, quality))(framed, generator)[:, top:, left:]


KINDS: Mapping[Kind, Callable[[Tensor, float, torch.Generator], Tensor]] = MappingProxyType(
    {
        "gaussian-blur": blur,
        "resize": resize,
        "gaussian-noise": gaussian_noise,
        "poisson": poisson,
        "jpeg": jpeg,
    }
)
"""Kind -> what it does to (3, H, W) in [0, 1] at a strength; in the order in which a chain applies them."""


def draw(kinds: Sequence[Kind], generator: torch.Generator) -> dict[Kind, float]:
    """Strengths of the given kinds: all 0 in three tenths, one alone in four, each with even odds else."""
    strengths: dict[Kind, float] = dict.fromkeys(kinds, 0.0)
    chosen: list[Kind]
    case = uniform(generator, 0.0, 1.0)
    if case < 0.3:
        return strengths
    if case < 0.7:
        chosen = [kinds[pick(generator, (1.0,) * len(kinds))]]
    else:
        chosen = [kind for kind in kinds if uniform(generator, 0.0, 1.0) < 0.5]
    for kind in chosen:
        strengths[kind] = uniform(generator, 0.0, 1.0)
    return strengths


def degrade(image: Tensor, strengths: Mapping[Kind, float], generator: torch.Generator) -> Tensor:
    """All kinds with their strengths, in the order of :data:`KINDS`.

    Args:
        image: (3, H, W) in [0, 1].
        strengths: Kind -> 0 to 1; a kind that is not named does nothing.
        generator: Of the noise and of all that a strength does not tell.
    """
    for kind, spoil in KINDS.items():
        if strengths.get(kind, 0.0) > 0:
            image = spoil(image, strengths[kind], generator)
    return image


def together(strengths: Mapping[Kind, float], kinds: Sequence[Kind]) -> float:
    """One strength, 0 to 1, for some kinds: 1 - (1 - s_1) (1 - s_2) ...; a kind that is not named is 0."""
    return 1 - math.prod(1 - strengths.get(kind, 0.0) for kind in kinds)
