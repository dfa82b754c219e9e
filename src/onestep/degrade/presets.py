"""Named degradations: from a high-resolution picture to its low-resolution partner.

``preset(name, scale)`` gives a recipe that turns (3, H, W), RGB in [0, 1], into (3, H // scale, W // scale).
Sides that are not multiples of the scale are cropped first, at the bottom and on the right: crop the HR
picture alike. The numbers of the published pipelines hold for scale 4; at other scales the same ranges are
used.

==================  ==================================================  =========================
name                source                                              values of the result
==================  ==================================================  =========================
bicubic             OFTSR (arXiv 2412.09465), torch with antialias      real, may leave [0, 1]
average-pool        OFTSR, noiseless                                    real in [0, 1]
average-pool-noisy  OFTSR, its noisy task                               real, may leave [0, 1]
realesrgan          Real-ESRGAN x4plus (arXiv 2107.10833)               8 bit
resshift            ResShift (arXiv 2307.12348), CTMSR, OFTSR real-sr   8 bit
osediff             OSEDiff (arXiv 2406.08177)                          real, may leave [0, 1]
s3diff              S3Diff (arXiv 2409.17058)                           real in [0, 1]
camera              our own: mild, for pictures of real cameras         8 bit
mixed               our own: what the shipped model is trained on       8 bit
==================  ==================================================  =========================

OSEDiff resizes its LR picture back up to the HR size in a random mode and rounds only then. That belongs to
the method: the preset ends with the LR picture, neither clamped nor rounded. No preset sharpens the HR
picture, keeps a pool of pairs, or is told about a batch: every picture has its own draws.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from onestep.core.errors import UsageError
from onestep.degrade.chain import Chain, Choice, Degradation, Maybe
from onestep.degrade.operators import (
    Blur,
    Clamp,
    Crop,
    Downsample,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    Range,
    Resize,
    Round8,
    Sinc,
)

_GREY = 0.4


@dataclass(frozen=True)
class _Numbers:
    """What differs between the two-stage pipelines; see the tables of the specifications."""

    sizes: tuple[tuple[int, int], tuple[int, int]]
    sigma: tuple[Range, Range]
    beta_generalized: Range
    beta_plateau: Range
    factors: tuple[Range, Range]
    gaussian: tuple[Range, Range]
    poisson: tuple[Range, Range]
    quality: tuple[Range, Range]
    second_blur: float


_REALESRGAN = _Numbers(
    sizes=((7, 21), (7, 21)),
    sigma=((0.2, 3.0), (0.2, 1.5)),
    beta_generalized=(0.5, 4.0),
    beta_plateau=(1.0, 2.0),
    factors=((0.15, 1.5), (0.3, 1.2)),
    gaussian=((1.0, 30.0), (1.0, 25.0)),
    poisson=((0.05, 3.0), (0.05, 2.5)),
    quality=((30.0, 95.0), (30.0, 95.0)),
    second_blur=0.8,
)

_RESSHIFT = replace(_REALESRGAN, sizes=((3, 19), (3, 13)))

_S3DIFF = _Numbers(
    sizes=((7, 21), (7, 21)),
    sigma=((0.2, 1.5), (0.2, 1.0)),
    beta_generalized=(0.5, 2.0),
    beta_plateau=(1.0, 1.5),
    factors=((0.3, 1.5), (0.6, 1.2)),
    gaussian=((1.0, 15.0), (1.0, 12.0)),
    poisson=((0.05, 2.0), (0.05, 1.0)),
    quality=((60.0, 95.0), (60.0, 100.0)),
    second_blur=0.5,
)


def bicubic(scale: int) -> Degradation:
    """Antialiased bicubic reduction in the convention of torch; neither clamped nor rounded."""
    return Chain(Crop(scale), Downsample(scale, "bicubic"))


def average_pool(scale: int) -> Degradation:
    """Mean of scale x scale pixels; replication is its exact pseudo-inverse."""
    return Chain(Crop(scale), Downsample(scale, "area"))


def average_pool_noisy(scale: int) -> Degradation:
    """Mean of scale x scale pixels plus noise of deviation 0.025 (0.05 in [-1, 1] units), not clipped."""
    level = 0.025 * 255
    return Chain(Crop(scale), Downsample(scale, "area"), GaussianNoise((level, level), clip=False))


def realesrgan(scale: int) -> Degradation:
    """Two-stage pipeline of Real-ESRGAN x4plus, rounded to 8 bit, without sharpened HR and pool of pairs."""
    return Chain(
        Crop(scale), _first(_REALESRGAN), _second(_REALESRGAN, scale), _last(_REALESRGAN, scale), Round8()
    )


def resshift(scale: int) -> Degradation:
    """Two-stage pipeline of ResShift and CTMSR, second stage with probability 1/2, rounded to 8 bit."""
    second = Maybe(0.5, _second(_RESSHIFT, scale))
    return Chain(Crop(scale), _first(_RESSHIFT), second, _last(_RESSHIFT, scale), Round8())


def osediff(scale: int) -> Degradation:
    """Two-stage pipeline of OSEDiff up to its LR picture, neither clamped nor rounded.

    The method then resizes it back to the HR size, in area, bilinear or bicubic mode at random, and rounds.
    """
    return Chain(Crop(scale), _first(_REALESRGAN), _second(_REALESRGAN, scale), _last(_REALESRGAN, scale))


def s3diff(scale: int) -> Degradation:
    """Two-stage pipeline of S3Diff, milder than Real-ESRGAN, clamped and not rounded."""
    return Chain(Crop(scale), _first(_S3DIFF), _second(_S3DIFF, scale), _last(_S3DIFF, scale), Clamp())


def camera(scale: int) -> Degradation:
    """Mild: lens blur, one reduction, little noise, light JPEG, 8 bit.

    Blur of sigma 0.2 to 2.8 HR pixels at scale 4, in proportion at other scales; noise up to 4/255 (shot
    noise: at white); JPEG quality 75 to 100 as a file has it.
    """
    sigma = (0.2 * scale / 4, 2.8 * scale / 4)
    side = 2 * math.ceil(3.5 * sigma[1]) + 1
    white = 4 / 255 * math.sqrt(256)
    return Chain(
        Crop(scale),
        Blur(sizes=(side, side), sigma=sigma, families=(("iso", 0.5), ("aniso", 0.5))),
        Choice({Downsample(scale, "bicubic"): 0.5, Downsample(scale, "area"): 0.5}),
        Clamp(),
        Maybe(0.5, Choice({GaussianNoise((0.0, 4.0), _GREY): 0.5, PoissonNoise((0.0, white), _GREY): 0.5})),
        Maybe(0.5, Jpeg((75, 100), "libjpeg")),
        Round8(),
    )


def mixed(scale: int) -> Degradation:
    """From clean to bad: bicubic 0.35, camera 0.35, s3diff 0.2, realesrgan 0.1, all rounded to 8 bit."""
    options = {bicubic(scale): 0.35, camera(scale): 0.35, s3diff(scale): 0.2, realesrgan(scale): 0.1}
    return Chain(Choice(options), Round8())


PRESETS: Mapping[str, Callable[[int], Degradation]] = {
    "bicubic": bicubic,
    "average-pool": average_pool,
    "average-pool-noisy": average_pool_noisy,
    "realesrgan": realesrgan,
    "resshift": resshift,
    "osediff": osediff,
    "s3diff": s3diff,
    "camera": camera,
    "mixed": mixed,
}
"""Every named degradation: name to a function of the scale."""


def preset(name: str, scale: int) -> Degradation:
    """Make a named degradation.

    Args:
        name: One of `PRESETS`.
        scale: Whole factor between HR and LR, 1 or more.

    Returns:
        A function of a picture (3, H, W) in [0, 1] and a CPU generator.

    Raises:
        UsageError: The name is unknown, or the scale is below 1.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(PRESETS)}"
        raise UsageError(f"no degradation is called {name!r}: {hint}")
    if scale < 1:
        raise UsageError(f"scale {scale} of the degradation {name!r} must be 1 or more")
    return PRESETS[name](scale)


def _blur(numbers: _Numbers, stage: int) -> Blur:
    return Blur(
        sizes=numbers.sizes[stage],
        sigma=numbers.sigma[stage],
        beta_generalized=numbers.beta_generalized,
        beta_plateau=numbers.beta_plateau,
        sinc=0.1,
    )


def _noise(numbers: _Numbers, stage: int) -> Degradation:
    return Choice(
        {GaussianNoise(numbers.gaussian[stage], _GREY): 0.5, PoissonNoise(numbers.poisson[stage], _GREY): 0.5}
    )


def _first(numbers: _Numbers) -> Degradation:
    """Blur, resize relative to the HR picture, noise, JPEG."""
    resize = Resize((0.2, 0.7, 0.1), numbers.factors[0])
    return Chain(_blur(numbers, 0), resize, _noise(numbers, 0), Clamp(), Jpeg(numbers.quality[0]))


def _second(numbers: _Numbers, scale: int) -> Degradation:
    """Perhaps blur, resize relative to the LR size, noise."""
    resize = Resize((0.3, 0.4, 0.3), numbers.factors[1], divisor=scale)
    return Chain(Maybe(numbers.second_blur, _blur(numbers, 1)), resize, _noise(numbers, 1))


def _last(numbers: _Numbers, scale: int) -> Degradation:
    """Resize to the LR size with a final low-pass, and JPEG, in either order."""
    resize = Resize((0.0, 0.0, 1.0), divisor=scale)
    sinc = Maybe(0.8, Sinc(numbers.sizes[1]))
    compress = Jpeg(numbers.quality[1])
    return Choice({Chain(resize, sinc, Clamp(), compress): 0.5, Chain(Clamp(), compress, resize, sinc): 0.5})
