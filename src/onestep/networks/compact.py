"""A compact flow network of our own, for CPUs: everything runs at LR resolution, time enters only at the end.

The state x is seen as its difference from the upsampled LR image, folded to LR resolution by pixel
unshuffling. A *trunk* of residual blocks knows nothing of time; a *head* of residual blocks is modulated by
it. So several times for one state cost one trunk and several heads. The predicted velocity is the head's
image plus a time-dependent share of the state's own residual: that share alone carries the noise, and the
network is free for the picture (compare the analytic velocity in section 9 of the OFTSR specification).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.core.errors import UsageError


@dataclass(frozen=True)
class CompactConfig:
    """Size of the network. With the defaults: 1.0 M parameters, 0.95 M multiply-adds per LR pixel at x4."""

    width: int = 64
    """Feature channels."""
    trunk: int = 8
    """Residual blocks that do not know the time."""
    head: int = 4
    """Residual blocks that are modulated by the time."""
    time_width: int = 64
    """Width of the time embedding (even)."""
    gain: float = 5.0
    """Factor on the residual input, which is small (about 0.2)."""

    def __post_init__(self) -> None:
        """Refuse sizes that are no network.

        Raises:
            UsageError: One line that names the field.
        """
        for name, least in (("width", 1), ("trunk", 0), ("head", 1), ("time_width", 2)):
            if getattr(self, name) < least:
                raise UsageError(f"network.{name}={getattr(self, name)}: must be at least {least}")
        if self.time_width % 2:
            raise UsageError(f"network.time_width={self.time_width}: must be even")


def time_features(time: Tensor, width: int) -> Tensor:
    """Sinusoidal features, cosines first, of a time (B, 1, h, w) in [0, 999] -> (B, width, h, w)."""
    half = width // 2
    frequencies = torch.exp(
        torch.arange(half, device=time.device, dtype=torch.float32) * (-math.log(10_000.0) / half)
    )
    angles = time.float() * frequencies.reshape(1, -1, 1, 1)
    return torch.cat([angles.cos(), angles.sin()], 1)


class Block(nn.Module):
    """x + conv(act(conv(x))); with ``time_width`` the inner features are scaled and shifted by the time."""

    def __init__(self, width: int, time_width: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Conv2d(time_width, 2 * width, 1) if time_width else None
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)
            if self.modulation is not None:
                self.modulation.weight.zero_()
                nn.init.zeros_(self.modulation.bias) if self.modulation.bias is not None else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(B, width, h, w) -> the same shape; ``embedding`` (B, time_width, 1 or h, 1 or w)."""
        inference = not torch.is_grad_enabled()
        if self.modulation is None or embedding is None:
            h = self.conv1(x)
        else:
            scale, shift = self.modulation(embedding).chunk(2, 1)
            if inference and scale.numel() == len(self.conv1.weight):
                h = self._modulated(x, 1 + scale.flatten(), shift.flatten())
            else:
                h = torch.addcmul(shift, self.conv1(x), 1 + scale)
        return self.conv2(F.silu(h, inplace=inference)).add_(x)

    def _modulated(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """conv1(x) * scale + shift with both (width,) folded into the weights: no pass over the features."""
        weight = self.conv1.weight * scale.reshape(-1, 1, 1, 1)
        bias = shift if self.conv1.bias is None else torch.addcmul(shift, self.conv1.bias, scale)
        return F.conv2d(x, weight, bias, padding=1)


class CompactFlow(nn.Module):
    """Velocity of a state (B, 3, H, W), given the LR image (B, 3, h, w) and the time; values in [-1, 1]."""

    def __init__(self, config: CompactConfig, scale: int) -> None:
        """Build for one integer scale H / h (2, 3 and 4 are meant)."""
        super().__init__()
        self.config, self.scale = config, scale
        folded, width = 3 * scale**2, config.width
        self.stem = nn.Conv2d(folded + 3, width, 3, padding=1)
        self.trunk = nn.ModuleList(Block(width) for _ in range(config.trunk))
        self.time = nn.Sequential(
            nn.Conv2d(config.time_width, 2 * config.time_width, 1),
            nn.SiLU(),
            nn.Conv2d(2 * config.time_width, 2 * config.time_width, 1),
            nn.SiLU(),
        )
        self.head = nn.ModuleList(Block(width, 2 * config.time_width) for _ in range(config.head))
        self.tail = nn.Conv2d(width, folded, 3, padding=1)
        self.share = nn.Conv2d(2 * config.time_width, folded, 1)
        with torch.no_grad():
            self.tail.weight.mul_(0.1)
            self.share.weight.zero_()
        if self.share.bias is not None:
            nn.init.constant_(self.share.bias, -1.0)
        if self.tail.bias is not None:
            nn.init.zeros_(self.tail.bias)

    def prepare(self, x: Tensor, lr_up: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        """What does not depend on time: trunk features (B, width, h, w), folded residual (B, 3s², h, w)."""
        residual = F.pixel_unshuffle(x - lr_up, self.scale)
        inputs = torch.cat([residual * self.config.gain, lr], 1)
        h = self.stem(inputs.to(self.stem.weight.dtype, memory_format=torch.channels_last))
        for block in self.trunk:
            h = block(h)
        return h, residual

    def finish(self, prepared: tuple[Tensor, Tensor], time: Tensor) -> Tensor:
        """Velocity (B, 3, H, W), float32, at a time (B, 1, 1, 1) or a map (B, 1, h, w) in [0, 999]."""
        h, residual = prepared
        embedding = self.time(time_features(time, self.config.time_width).to(self.stem.weight.dtype))
        for block in self.head:
            h = block(h, embedding)
        folded = torch.addcmul(self.tail(h).float(), self.share(embedding).float(), residual)
        return F.pixel_shuffle(folded, self.scale)
