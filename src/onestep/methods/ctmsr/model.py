"""CTMSR, the model: a consistency function that carries any noised state to its clean end in one call.

Paper: "Consistency Trajectory Matching for One-Step Generative Super-Resolution" (arXiv 2503.20349). Time is
the house's and the paper's: level 0 is the clean image x0, the last level y + sigma_max eps, where y is the
LR image brought to HR size and eps white noise.

    x_t = (1 - a_t) x0 + a_t y + s_t eps                    (a: residual, s: noise; both rise from 0)
    f(x, s, lr) = c_skip x + c_out F(x, c_noise, lr)        (f(x, 0, lr) = x whatever the network says)

Inference is f at the last level. Sections are those of the specification told in docs/methods/ctmsr.md, which
also lists the deviations from the paper and the official code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from onestep.core.contract import Condition, OneStepModel, Traits
from onestep.core.errors import UsageError
from onestep.core.interpolant import like
from onestep.networks.swin_unet import SwinUNet, SwinUNetConfig

SIGMA_DATA = 0.5
GAIN = 10.0
"""Factor on the noise level in the preconditioning (section 1.4)."""


@dataclass(frozen=True)
class CtmsrConfig:
    """Network and path of a consistency function."""

    network: SwinUNetConfig = field(default_factory=SwinUNetConfig)
    scale: int = 4
    sigma_max: float = 1.0
    """Deviation of the noise at the last level, in units of [-1, 1] images."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: One line that names the field.
        """
        if self.scale < 1:
            raise UsageError(f"scale={self.scale}: must be at least 1")
        if not self.sigma_max > 0:
            raise UsageError(f"sigma_max={self.sigma_max:g}: must be above 0")

    def build(self) -> "Ctmsr":
        """A model with fresh weights."""
        return Ctmsr(self)


@dataclass(frozen=True)
class CtmsrOptions:
    """Knobs of the model."""

    tiling: Literal["canvas", "official"] = "canvas"
    """Tiles of the house, or those of the official code (section 4); the latter need ``--tile off``."""


def levels(intervals: int, low: float, high: float, rho: float = 1.0) -> Tensor:
    """The intervals + 1 levels from ``low``, which is index 0 and clean, to ``high`` (section 1.2)."""
    steps = torch.arange(intervals + 1, dtype=torch.float64) / intervals
    start, end = low ** (1 / rho), high ** (1 / rho)
    return ((start + steps * (end - start)) ** rho).float()


def q_sample(x0: Tensor, y: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The state at a level: (1 - alpha) x0 + alpha y + sigma noise; alpha and sigma are (B,) or scalars.

    Exactly x0 at alpha = sigma = 0, and exactly y + noise at alpha = sigma = 1.
    """
    alpha, sigma = like(alpha, x0), like(sigma, x0)
    return (1 - alpha) * x0 + alpha * y + sigma * noise


def preconditioning(sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_noise of noise levels of any shape (section 1.4); the input is not rescaled."""
    s = sigma.float()
    spread = (GAIN * s).square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / spread, GAIN * s / spread.sqrt(), (s + 0.002).log() / 4


def tile_starts(length: int, tile: int = 512, stride: int = 448) -> list[int]:
    """Where the official tiles of an axis begin: the last one is moved back, none is there twice."""
    if length <= tile:
        return [0]
    return sorted({min(start, length - tile) for start in range(0, length, stride)})


class Ctmsr(OneStepModel):
    """One step: f(y + sigma_max noise, sigma_max, lr) (section 4)."""

    Options = CtmsrOptions

    def __init__(self, config: CtmsrConfig) -> None:
        super().__init__()
        self.config = config
        self.model = SwinUNet(config.network, config.scale)
        compact = config.network.head == "shuffle"
        multiple = config.network.multiple_of
        self.traits = Traits(
            config.scale,
            multiple_of=multiple,
            minimum=1 if compact else multiple,
            tile=256 if compact else 128,
            overlap=32,
            half=compact,
        )

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """Noise lives on the HR grid: (B, 3, h * scale, w * scale)."""
        return torch.Size((lr[0], 3, lr[2] * self.config.scale, lr[3] * self.config.scale))

    def lr_up(self, lr: Tensor) -> Tensor:
        """y: the LR image (B, 3, h, w) at HR size by plain bicubic interpolation, overshoots kept."""
        size = (lr.shape[-2] * self.config.scale, lr.shape[-1] * self.config.scale)
        return F.interpolate(lr, size, mode="bicubic", align_corners=False)

    def clean(self, x: Tensor, sigma: Tensor, lr: Tensor, y: Tensor | None = None) -> Tensor:
        """f: the clean end of the trajectory through x (B, 3, H, W) at noise levels sigma (B,); float32.

        ``y`` is ``lr_up(lr)`` where the caller has it already.
        """
        c_skip, c_out, c_noise = (like(one, x) for one in preconditioning(sigma))
        x = x.float()
        if not self.config.network.residual:
            return c_skip * x + c_out * self.model(x, c_noise.flatten(), lr).float()
        y = self.lr_up(lr) if y is None else y
        detail = self.model(x - y, c_noise.flatten(), lr).float()
        return c_skip * x + (1 - c_skip) * y + c_out * detail

    def condition(self, lr: Tensor, options: CtmsrOptions) -> Condition:
        """{"official": (1,)}: whether the official tiling is asked for.

        Raises:
            UsageError: There is no such tiling.
        """
        if options.tiling not in ("canvas", "official"):
            raise UsageError(f"tiling={options.tiling}: choose canvas or official")
        return {"official": torch.tensor([options.tiling == "official"])}

    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(B, 3, h, w), (B, 3, H, W) -> (B, 3, H, W), all in [-1, 1]; not clipped."""
        if "official" in condition and bool(condition["official"]):
            return self._official(lr, noise)
        return self._whole(lr, noise)

    def _whole(self, lr: Tensor, noise: Tensor) -> Tensor:
        y = self.lr_up(lr)
        sigma = noise.new_full((len(lr),), self.config.sigma_max)
        return self.clean(y + self.config.sigma_max * noise, sigma, lr, y)

    def _official(self, lr: Tensor, noise: Tensor) -> Tensor:
        """Tiles of 512 every 448 LR pixels, each with noise of its own, averaged with equal weights.

        The official code draws fresh noise per tile; here each tile reads the canvas shifted by its number
        of rows, so that tiles see independent values where they overlap.
        """
        scale = self.config.scale
        total, count = torch.zeros_like(noise), torch.zeros_like(noise[:, :1])
        for number, (top, left) in enumerate(_corners(lr)):
            tile = lr[..., top : top + 512, left : left + 512]
            place = (
                ...,
                slice(top * scale, (top + tile.shape[-2]) * scale),
                slice(left * scale, (left + tile.shape[-1]) * scale),
            )
            total[place] += self._whole(tile, noise.roll(97 * number, -2)[place])
            count[place] += 1
        return total / count


def _corners(lr: Tensor) -> Iterator[tuple[int, int]]:
    for top in tile_starts(lr.shape[-2]):
        for left in tile_starts(lr.shape[-1]):
            yield top, left
