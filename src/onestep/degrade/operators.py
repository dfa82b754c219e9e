"""The single steps of a degradation: blur, resize, noise, compression, rounding.

Each is a frozen dataclass whose fields are ranges and probabilities, called with a picture (3, H, W),
float32, RGB in [0, 1], and a CPU generator. Every parameter and every noise value is drawn from that
generator. Ranges are uniform and probabilities sum to 1 unless said otherwise. Values leave [0, 1] only where
the text of a step says so.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from onestep.core.errors import UsageError
from onestep.degrade import jpeg as codec
from onestep.degrade import kernels
from onestep.degrade.chain import Size, pick, uniform

Range = tuple[float, float]
Mode = Literal["area", "bilinear", "bicubic"]
Family = Literal["iso", "aniso", "generalized-iso", "generalized-aniso", "plateau-iso", "plateau-aniso"]

MIXTURE: tuple[tuple[Family, float], ...] = (
    ("iso", 0.45),
    ("aniso", 0.25),
    ("generalized-iso", 0.12),
    ("generalized-aniso", 0.03),
    ("plateau-iso", 0.12),
    ("plateau-aniso", 0.03),
)
"""Kernel families and their probabilities, common to the four specifications."""


@dataclass(frozen=True)
class Blur:
    """Convolve with a random kernel; reflected borders.

    Source: Real-ESRGAN (arXiv 2107.10833). (Its kernels are also padded with zeros to a common side, which
    changes nothing but the layout of a batch.)

    Attributes:
        sizes: Smallest and largest kernel side, both odd; odd sides between are equally likely.
        sigma: Range of the kernel's sigma in pixels, drawn once for an isotropic kernel, else per axis.
        families: (family, probability) pairs.
        beta_generalized: Range of beta, drawn from its part below 1 or its part above 1 with probability 1/2
            each.
        beta_plateau: The same for plateau kernels.
        sinc: Probability of a circular low-pass instead, with cut-off U[pi/3, pi] below side 13, else U[pi/5,
            pi].
    """

    sizes: tuple[int, int] = (7, 21)
    sigma: Range = (0.2, 3.0)
    families: tuple[tuple[Family, float], ...] = MIXTURE
    beta_generalized: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    sinc: float = 0.0

    def kernel(self, generator: torch.Generator) -> Tensor:
        """Draw a kernel (k, k) of sum 1."""
        size = _odd(generator, self.sizes)
        if self.sinc > 0 and uniform(generator, 0.0, 1.0) < self.sinc:
            low = math.pi / 3 if size < 13 else math.pi / 5
            return kernels.sinc(size, uniform(generator, low, math.pi))
        family = self.families[pick(generator, [weight for _, weight in self.families])][0]
        sigma_x = uniform(generator, *self.sigma)
        sigma_y, angle = sigma_x, 0.0
        if family.endswith("aniso"):
            sigma_y, angle = uniform(generator, *self.sigma), uniform(generator, -math.pi, math.pi)
        if family.startswith("generalized"):
            beta = _beta(generator, self.beta_generalized)
            return kernels.generalized(size, sigma_x, sigma_y, angle, beta=beta)
        if family.startswith("plateau"):
            beta = _beta(generator, self.beta_plateau)
            return kernels.plateau(size, sigma_x, sigma_y, angle, beta=beta)
        return kernels.gaussian(size, sigma_x, sigma_y, angle)

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Blur; a sinc kernel may overshoot [0, 1]."""
        return kernels.convolve(image, self.kernel(generator))


@dataclass(frozen=True)
class Sinc:
    """Convolve with a random circular low-pass, whose ringing may overshoot [0, 1]; reflected borders.

    Attributes:
        sizes: Smallest and largest kernel side, both odd.
        cutoff: Range of the cut-off in radians per pixel.
    """

    sizes: tuple[int, int] = (7, 21)
    cutoff: Range = (math.pi / 3, math.pi)

    def kernel(self, generator: torch.Generator) -> Tensor:
        """Draw a kernel (k, k) of sum 1."""
        return kernels.sinc(_odd(generator, self.sizes), uniform(generator, *self.cutoff))

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Filter."""
        return kernels.convolve(image, self.kernel(generator))


@dataclass(frozen=True)
class Resize:
    """Resize by a random factor in a random mode, without antialiasing (torch ``interpolate``).

    Attributes:
        directions: Probabilities of up, down, keep.
        factors: (lo, hi): up draws the factor from U[1, hi], down from U[lo, 1], keep is 1.
        modes: Equally likely interpolation modes. Bicubic may overshoot [0, 1].
        divisor: None: the factor is relative to the current picture. A number d: relative to 1/d of the
            picture that entered the recipe, so the result has floor(floor(H / d) * factor) lines (and columns
            alike).
    """

    directions: tuple[float, float, float]
    factors: Range = (1.0, 1.0)
    modes: tuple[Mode, ...] = ("area", "bilinear", "bicubic")
    divisor: int | None = None

    def factor(self, generator: torch.Generator) -> float:
        """Draw the factor."""
        direction = pick(generator, self.directions)
        if direction == 2:
            return 1.0
        low, high = self.factors
        return uniform(generator, 1.0, high) if direction == 0 else uniform(generator, low, 1.0)

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Resize a picture that is itself the entrance of the recipe."""
        return self.within(image, generator, (image.shape[-2], image.shape[-1]))

    def within(self, image: Tensor, generator: torch.Generator, size: Size) -> Tensor:
        """Resize inside a recipe that a picture of ``size`` (H, W) entered."""
        factor = self.factor(generator)
        mode = self.modes[pick(generator, (1.0,) * len(self.modes))]
        if self.divisor is None:
            if factor == 1.0:
                return image
            height, width = (math.floor(side * factor) for side in image.shape[-2:])
            if min(height, width) > 0:
                return functional.interpolate(image[None], scale_factor=factor, mode=mode)[0]
        else:
            height, width = (math.floor(side // self.divisor * factor) for side in size)
            if (height, width) == tuple(image.shape[-2:]):
                return image
        target = (max(1, height), max(1, width))
        return functional.interpolate(image[None], size=target, mode=mode)[0]


@dataclass(frozen=True)
class Crop:
    """Keep the top left part whose sides are multiples of a number.

    Attributes:
        multiple: The number, usually the scale.
    """

    multiple: int

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Crop at the bottom and on the right.

        Raises:
            UsageError: A side is smaller than ``multiple``.
        """
        height, width = (side // self.multiple * self.multiple for side in image.shape[-2:])
        if min(height, width) == 0:
            size = f"{image.shape[-1]}x{image.shape[-2]}"
            raise UsageError(f"a picture of {size} pixels is too small to be reduced {self.multiple} times")
        return image[..., :height, :width]


@dataclass(frozen=True)
class Downsample:
    """Reduce by a whole factor.

    Attributes:
        factor: How many times smaller; the sides must be multiples of it (see `Crop`).
        kernel: ``"bicubic"``: torch ``interpolate`` with antialias (a = -0.5), which may overshoot [0, 1];
            ``"area"``: mean of factor x factor pixels.
    """

    factor: int
    kernel: Literal["bicubic", "area"] = "bicubic"

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Reduce."""
        if self.kernel == "area":
            return functional.avg_pool2d(image[None], self.factor)[0]
        size = (image.shape[-2] // self.factor, image.shape[-1] // self.factor)
        return functional.interpolate(image[None], size=size, mode="bicubic", antialias=True)[0]


@dataclass(frozen=True)
class GaussianNoise:
    """Add white Gaussian noise.

    Attributes:
        sigma: Range of the standard deviation in 8-bit levels (1/255).
        grey: Probability that the three channels get the same noise.
        clip: Clamp to [0, 1] afterwards.
    """

    sigma: Range
    grey: float = 0.0
    clip: bool = True

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Add the noise."""
        sigma = uniform(generator, *self.sigma) / 255
        shared = self.grey > 0 and uniform(generator, 0.0, 1.0) < self.grey
        noise = torch.randn((1 if shared else image.shape[0], *image.shape[1:]), generator=generator)
        noisy = image + sigma * noise
        return noisy.clamp(0, 1) if self.clip else noisy


@dataclass(frozen=True)
class PoissonNoise:
    """Add shot noise, scale * (Poisson(v x) / v - x), x being the picture rounded to 8 bit.

    v is 2^ceil(log2 n) with n the number of different 8-bit values in x; its standard deviation is
    scale * sqrt(x / v). Grey noise is made from the luma of the picture and added to all channels.
    Source: Real-ESRGAN (arXiv 2107.10833).

    Attributes:
        scale: Range of the strength.
        grey: Probability that the three channels get the same noise.
        clip: Clamp to [0, 1] afterwards.
    """

    scale: Range
    grey: float = 0.0
    clip: bool = True

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Add the noise."""
        scale = uniform(generator, *self.scale)
        clean = image.detach()
        if self.grey > 0 and uniform(generator, 0.0, 1.0) < self.grey:
            clean = (0.2989 * clean[0] + 0.587 * clean[1] + 0.114 * clean[2])[None]
        levels = (clean * 255).round().clamp(0, 255)
        different = int(torch.bincount(levels.to(torch.int64).flatten(), minlength=256).count_nonzero())
        peak = 2.0 ** math.ceil(math.log2(different))
        clean = levels / 255
        noise = torch.poisson(clean * peak, generator=generator) / peak - clean
        noisy = image + scale * noise
        return noisy.clamp(0, 1) if self.clip else noisy


@dataclass(frozen=True)
class Jpeg:
    """Compress and decompress at a random quality; see `onestep.degrade.jpeg`.

    Attributes:
        quality: Range; real numbers for ``"tensor"``, whole numbers (both ends included) for ``"libjpeg"``.
        convention: Of the codec.
    """

    quality: Range
    convention: codec.Convention = "tensor"

    def draw(self, generator: torch.Generator) -> float:
        """Draw the quality."""
        low, high = self.quality
        if self.convention == "libjpeg":
            return math.floor(uniform(generator, math.ceil(low), math.floor(high) + 1))
        return uniform(generator, low, high)

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Compress; gradients, if asked for, pass straight through the rounding."""
        quality = self.draw(generator)
        return codec.jpeg(image, quality, convention=self.convention, differentiable=image.requires_grad)


@dataclass(frozen=True)
class Clamp:
    """Clamp to [0, 1]."""

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Clamp."""
        return image.clamp(0, 1)


@dataclass(frozen=True)
class Round8:
    """Clamp to [0, 1] and round to multiples of 1/255, as a file of 8 bit does (ties to even)."""

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Round; gradients, if asked for, are zero."""
        return (image * 255).round().clamp(0, 255) / 255


def _odd(generator: torch.Generator, sizes: tuple[int, int]) -> int:
    low, high = sizes
    return low + 2 * math.floor(uniform(generator, 0, (high - low) // 2 + 1))


def _beta(generator: torch.Generator, bounds: Range) -> float:
    low, high = bounds
    if uniform(generator, 0.0, 1.0) < 0.5:
        return uniform(generator, low, 1.0)
    return uniform(generator, 1.0, high)
