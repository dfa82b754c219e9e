"""Layers of the network of CTMSR: embedding of the noise level, normalisations, convolutions that resample.

Source: CTMSR (arXiv 2503.20349) as told in docs/methods/ctmsr.md, sections 5.2, 5.4 and 5.8.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32
"""Groups of every group normalisation."""

Resample = Literal["keep", "down", "up"]


def level_embedding(c: Tensor, width: int) -> Tensor:
    """Sinusoids of c (B,), in float32: (B, width), first all sines, then all cosines.

    Frequency j of width / 2 is 10000^(-j / (width / 2 - 1)): the end point is included.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=c.device) / max(half - 1, 1)
    angles = c.float()[:, None] * torch.pow(10_000.0, -steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with 32 groups, computed in float32."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(GROUPS, channels, eps=eps)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return super().forward(input.float()).to(input.dtype)


class PixelNorm(nn.LayerNorm):
    """Normalisation of each pixel over its channels: a result never depends on how far a tile reaches."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Conv(nn.Module):
    """A convolution, perhaps after halving (2x2 means) or doubling (nearest) the sides."""

    resample_filter: Tensor

    def __init__(self, channels: int, out: int, kernel: int, resample: Resample = "keep") -> None:
        super().__init__()
        self.resample: Resample = resample
        self.weight = nn.Parameter(torch.empty(out, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.xavier_uniform_(self.weight)
        if resample != "keep":  # held by the published files; both resamplings are written out below
            self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25, dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, H', W')."""
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


def linear(features: int, out: int) -> nn.Linear:
    """A linear layer as the network starts with it: Xavier-uniform weights, no bias."""
    layer = nn.Linear(features, out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
