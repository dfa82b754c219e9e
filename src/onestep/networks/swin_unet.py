"""The network of CTMSR: a U-Net of residual blocks at LR resolution, some of them followed by attention.

The state, folded to LR resolution by pixel unshuffling, and the LR image go in; an HR image comes out. The
noise level enters every block through an embedding. `SwinUNetConfig()` is the released architecture, module
names included: 171,518,529 parameters in 909 tensors, and 33 buffers. `SwinUNetConfig.compact()` is ours, for
CPUs: the same blocks, fewer and narrower, normalised per pixel (group normalisation costs more than a
convolution there, and makes a result depend on the whole tile), on top of the upsampled LR image, any scale.

Source: CTMSR (arXiv 2503.20349) as told in docs/methods/ctmsr.md, section 5; Karras et al., EDM
(arXiv 2206.00364), appendix F.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.core.config import at_least
from onestep.core.errors import UsageError
from onestep.networks.swin_layers import GROUPS, Conv, GroupNorm, PixelNorm, Resample, level_embedding, linear
from onestep.networks.window_attention import MakeNorm, SwinLayer

NOMINAL = 64
"""The resolution of the first level in the names of modules; any size runs."""

GAIN = 4.0
"""Factor on a state that is a difference: it is small."""


@dataclass(frozen=True)
class SwinUNetConfig:
    """Size of the network; the defaults are the released one."""

    base: int = 192
    """Channels of the first level."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, as multiples of ``base``; each level after the first halves the sides."""
    blocks: int = 4
    """Residual blocks per level on the way down (one more on the way up)."""
    attention: tuple[int, ...] = (0, 1, 2, 3)
    """Levels with window attention, counted from 0."""
    embedding: int = 768
    """Width of the embedding of the noise level."""
    dropout: float = 0.13
    """Probability of dropping an activation before a residual block's second convolution, in training."""
    swin_width: int = 192
    """Channels inside a Swin layer."""
    heads: int = 6
    window: int = 8
    """Side of an attention window."""
    norm: Literal["group", "pixel"] = "group"
    """Over groups of channels and all pixels, or over the channels of each pixel."""
    head: Literal["convolutions", "shuffle"] = "convolutions"
    """Two nearest-neighbour doublings with convolutions at HR resolution, or a pixel shuffle at the end."""
    residual: bool = False
    """Whether state and result are differences from the upsampled LR image (ours), or whole images."""

    def __post_init__(self) -> None:
        """Refuse sizes that are no network.

        Raises:
            UsageError: One line that names the field.
        """
        names = ("base", "blocks", "embedding", "swin_width", "heads", "window")
        at_least(self, names, prefix="network.")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UsageError("network.multipliers: at least one level is needed, each with 1 or more")
        if any(level not in range(len(self.multipliers)) for level in self.attention):
            raise UsageError(f"network.attention={list(self.attention)}: there is no such level")
        if self.base % 2 or self.swin_width % self.heads:
            raise UsageError("network: base must be even and swin_width a multiple of heads")
        widths = (*self.widths, self.swin_width)
        if self.norm == "group" and any(width % GROUPS for width in widths):
            raise UsageError(
                f"network: widths {widths} must be multiples of {GROUPS} for group normalisation"
            )
        if not 0 <= self.dropout < 1:
            raise UsageError(f"network.dropout={self.dropout:g}: must be from 0 to below 1")

    @classmethod
    def compact(cls) -> Self:
        """Ours: 2.9 million parameters, 0.99 million multiply-adds per LR pixel at x4."""
        return cls(
            base=64,
            multipliers=(1, 1, 1),
            blocks=2,
            attention=(1, 2),
            embedding=128,
            dropout=0.0,
            swin_width=64,
            heads=2,
            norm="pixel",
            head="shuffle",
            residual=True,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.base * multiplier for multiplier in self.multipliers)

    @property
    def multiple_of(self) -> int:
        """LR sides that are multiples of this are tiled by the windows of every level."""
        halvings = [2**level for level in range(len(self.multipliers))]
        deepest = max((halvings[level] for level in self.attention), default=0)
        return math.lcm(halvings[-1], deepest * self.window or 1)


class Block(nn.Module):
    """A residual block that the noise level shifts, perhaps followed by a Swin layer (section 5.4)."""

    def __init__(
        self,
        config: SwinUNetConfig,
        channels: int,
        out: int,
        resample: Resample = "keep",
        *,
        attention: bool = False,
    ) -> None:
        super().__init__()
        norm = _norm(config, 1e-6)
        self.norm0 = norm(channels)
        self.conv0 = Conv(channels, out, 3, resample)
        self.affine = linear(config.embedding, out)
        self.norm1 = norm(out)
        self.dropout = nn.Dropout(config.dropout)
        self.conv1 = Conv(out, out, 3)
        plain = channels == out and resample == "keep"
        self.skip = None if plain else Conv(channels, out, 1, resample)
        self.swin_layer = None
        if attention:
            sizes = (config.swin_width, config.heads, config.window)
            self.swin_layer = SwinLayer(out, *sizes, _norm(config, 1e-5))
        with torch.no_grad():
            self.conv1.weight.mul_(1e-5)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, channels, H, W) and the embedding (B, width) give (B, out, H', W')."""
        h = self.conv0(F.silu(self.norm0(x)))
        h = h + self.affine(embedding)[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        x = (h + (x if self.skip is None else self.skip(x))) * math.sqrt(0.5)
        return x if self.swin_layer is None else self.swin_layer(x) * math.sqrt(0.5)


class SwinUNet(nn.Module):
    """F of the consistency function: state, noise level and LR image to an HR image."""

    def __init__(self, config: SwinUNetConfig, scale: int) -> None:
        """Build for one integer scale.

        Raises:
            UsageError: The released head makes x4 alone.
        """
        super().__init__()
        if config.head == "convolutions" and scale != 4:
            raise UsageError(f"scale={scale}: the released head makes x4; network.head=shuffle makes any")
        self.config, self.scale = config, scale
        folded = 3 * scale**2
        self.map_layer0 = linear(config.base, config.embedding)
        self.map_layer1 = linear(config.embedding, config.embedding)
        skips: list[int] = []
        self.enc = nn.ModuleDict(dict(_encoder(config, folded + 3, skips)))
        self.dec = nn.ModuleDict(dict(_decoder(config, skips)))
        if config.head == "convolutions":
            self.conv_up1 = nn.Conv2d(config.base, config.base, 3, padding=1)
            self.conv_up2 = nn.Conv2d(config.base, config.base, 3, padding=1)
        out = 3 if config.head == "convolutions" else folded
        self.conv_last = nn.Conv2d(config.base, out, 3, padding=1)
        self.share = nn.Linear(config.embedding, folded) if config.residual else None
        if self.share is not None:
            nn.init.zeros_(self.share.weight)
            nn.init.zeros_(self.share.bias)

    def forward(self, x: Tensor, c: Tensor, lr: Tensor) -> Tensor:
        """One evaluation.

        Args:
            x: (B, 3, h * scale, w * scale), the state; h and w multiples of 2 per halving of the sides.
            c: (B,), c_noise: the noise level as the network is told it.
            lr: (B, 3, h, w), in [-1, 1].

        Returns:
            (B, 3, h * scale, w * scale), an image or a difference as the state is.
        """
        kind = self.map_layer0.weight.dtype
        embedding = F.silu(self.map_layer0(level_embedding(c, self.config.base).to(kind)))
        embedding = F.silu(self.map_layer1(embedding))
        folded = F.pixel_unshuffle(x, self.scale)
        state = folded * GAIN if self.config.residual else folded
        h = torch.cat([state, lr], 1).to(kind, memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            h = layer(h, embedding) if isinstance(layer, Block) else layer(h)
            skips.append(h)
        for layer in self.dec.values():
            if isinstance(layer, Block):
                wanted = layer.conv0.weight.shape[1]
                h = layer(torch.cat([h, skips.pop()], 1) if h.shape[1] != wanted else h, embedding)
            else:
                h = F.silu(layer(h)) if isinstance(layer, nn.GroupNorm | nn.LayerNorm) else layer(h)
        if self.share is None:
            return self._head(h)
        return self._head(h).float() + F.pixel_shuffle(
            self.share(embedding).float()[:, :, None, None] * folded, self.scale
        )

    def _head(self, h: Tensor) -> Tensor:
        if self.config.head == "shuffle":
            return F.pixel_shuffle(self.conv_last(F.leaky_relu(h, 0.2)), self.scale)
        for layer in (self.conv_up1, self.conv_up2):
            h = F.leaky_relu(layer(F.interpolate(h, scale_factor=2.0, mode="nearest")), 0.2)
        return self.conv_last(h)


def _norm(config: SwinUNetConfig, eps: float) -> MakeNorm:
    return partial(GroupNorm if config.norm == "group" else PixelNorm, eps=eps)


def _encoder(config: SwinUNetConfig, inputs: int, skips: list[int]) -> Iterator[tuple[str, nn.Module]]:
    """Layers by name, in order (section 5.6); the channels that each leaves are put on ``skips``."""
    for level, width in enumerate(config.widths):
        name = _name(level)
        if level == 0:
            yield f"{name}_conv", Conv(inputs, width, 3)
        else:
            width = skips[-1]
            yield f"{name}_down", Block(config, width, width, "down")
        skips.append(width)
        for index in range(config.blocks):
            block = Block(config, skips[-1], config.widths[level], attention=level in config.attention)
            skips.append(config.widths[level])
            yield f"{name}_block{index}", block


def _decoder(config: SwinUNetConfig, skips: list[int]) -> Iterator[tuple[str, nn.Module]]:
    """Layers by name, in order; a block that is wider at its input takes a skip from the end of ``skips``."""
    deepest = len(config.widths) - 1
    width = skips[-1]
    for level in range(deepest, -1, -1):
        name, attention = _name(level), level in config.attention
        if level == deepest:
            yield f"{name}_in0", Block(config, width, width, attention=attention)
            yield f"{name}_in1", Block(config, width, width)
        else:
            yield f"{name}_up", Block(config, width, width, "up")
        for index in range(config.blocks + 1):
            last = attention and index == config.blocks
            block = Block(config, width + skips.pop(), config.widths[level], attention=last)
            width = config.widths[level]
            yield f"{name}_block{index}", block
    aux = Conv(width, width, 3)
    with torch.no_grad():
        aux.weight.mul_(1e-5)
    yield f"{_name(0)}_aux_norm", _norm(config, 1e-6)(width)
    yield f"{_name(0)}_aux_conv", aux


def _name(level: int) -> str:
    side = NOMINAL >> level
    return f"{side}x{side}"
