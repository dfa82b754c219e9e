"""Plain resampling as models without parameters: the baselines that every table needs.

Kernel and antialiasing are Pillow's (bicubic with a = -0.5, Lanczos with three lobes).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from onestep.core.contract import Condition, NoOptions, OneStepModel, Traits
from onestep.core.resize import resize


@dataclass(frozen=True)
class ResampleConfig:
    """Which kernel, and by which factor."""

    kernel: Literal["bicubic", "lanczos"] = "bicubic"
    scale: int = 4

    def build(self) -> "Resample":
        """The model; it has no weights."""
        return Resample(self)


class Resample(OneStepModel):
    """Upsample by a fixed kernel."""

    Options = NoOptions

    def __init__(self, config: ResampleConfig) -> None:
        super().__init__()
        self.config = config
        self.traits = Traits(config.scale, tile=256, overlap=16, half=False)

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """No noise is used."""
        return torch.Size((lr[0], 0, lr[2], lr[3]))

    def condition(self, lr: Tensor, options: NoOptions) -> Condition:
        """Nothing."""
        return {}

    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> (B, 3, h * scale, w * scale); overshoots are not clipped."""
        size = (lr.shape[-2] * self.config.scale, lr.shape[-1] * self.config.scale)
        return resize(lr, size, self.config.kernel, convention="pillow")
