"""The guided-diffusion style U-Net: the full-size velocity network of OFTSR.

An encoder and a decoder of residual blocks over six levels, joined by skips; the time modulates every
residual block by a scale and a shift after its second normalisation; a few levels add self-attention. Every
residual branch ends in a layer that starts at zero, and so does the network: a fresh one answers exactly 0.

Module names and their order are those of the published checkpoints, which store an unnamed list in the order
of ``parameters()``: do not rename or reorder (``time_embed``, ``input_blocks``, ``middle_block``,
``output_blocks``, ``out``). There are no buffers.

Source: OFTSR (arXiv 2412.09465), section 5.1 and its published configurations; Dhariwal & Nichol, "Diffusion
Models Beat GANs on Image Synthesis" (arXiv 2105.05233), section 3 and appendix.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

GROUPS = 32
"""Groups of every normalisation; all channel counts are multiples of it."""

Convolution = TypeVar("Convolution", nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class UNetConfig:
    """Size of a `UNet`. Defaults: the FFHQ and DIV2K network of OFTSR, 93,567,366 parameters."""

    base: int = 128
    """Channels of the first level; the time embedding is four times as wide."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    """Channels of each level, as multiples of `base`; each level after the first halves the sides."""
    blocks: int = 1
    """Residual blocks per level on the way down (one more on the way up)."""
    attention: tuple[int, ...] = (16,)
    """Down-sampling factors (not sizes) that get self-attention; the middle always has it."""
    head_width: int = 64
    """Channels per attention head."""
    inputs: int = 6
    """Channels in: the state, then the up-sampled LR image."""
    outputs: int = 6
    """Channels out: OFTSR uses the first three."""
    dropout: float = 0.1
    """Probability of dropping an activation before a residual block's last convolution, in training."""

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that no network can be built from."""
        for level, channels in enumerate(self.widths):
            if channels < 1 or channels % GROUPS:
                raise ValueError(
                    f"level {level} has {channels} channels, which is not a multiple of {GROUPS}"
                )
            attends = 2**level in self.attention or level == len(self.widths) - 1
            if attends and channels % self.head_width:
                raise ValueError(f"{channels} channels cannot be split into heads of {self.head_width}")
        if not self.multipliers or self.blocks < 1 or self.base % 2:
            raise ValueError("a U-Net needs at least one level, one block per level and an even base width")
        for factor in self.attention:
            if factor not in (2**level for level in range(len(self.multipliers))):
                raise ValueError(f"attention at a down-sampling factor of {factor}, which is not a level")

    @classmethod
    def ffhq(cls) -> Self:
        """The published FFHQ and DIV2K network: 93,567,366 parameters in 362 tensors."""
        return cls()

    @classmethod
    def imagenet(cls) -> Self:
        """The published ImageNet network: 552,820,998 parameters in 566 tensors."""
        return cls(base=256, blocks=2, attention=(8, 16, 32))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.base * multiplier for multiplier in self.multipliers)

    @property
    def multiple_of(self) -> int:
        """Image sides must be multiples of this (32 for the published networks)."""
        return 2 ** (len(self.multipliers) - 1)

    def build(self) -> "UNet":
        """A fresh network of this size, on torch's default device."""
        return UNet(self)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, in the order of ``parameters()``; allocates nothing."""
        with torch.device("meta"):
            network = self.build()
        return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoids of a time (B,), in float32: (B, width), first all cosines, then all sines.

    Frequency i of width / 2 is 10000^(-i / (width / 2)). The time is used as it is passed: OFTSR passes
    999 * t, fractional, so t must not be rounded to half precision before.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.pow(10_000.0, -steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Norm(nn.GroupNorm):
    """Group normalisation with 32 groups, computed in float32 at least; the result has the input's dtype."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels, eps=1e-5)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...)."""
        wide = torch.promote_types(input.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.group_norm(input.to(wide), self.num_groups, weight, bias, self.eps).to(input.dtype)


class ResBlock(nn.Module):
    """A residual block that the time modulates; it may halve or double the sides, on both branches."""

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        dropout: float,
        resample: Literal["keep", "down", "up"] = "keep",
    ) -> None:
        super().__init__()
        self.resample: Literal["keep", "down", "up"] = resample
        self.in_layers = nn.Sequential(Norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out))
        last = _zero(nn.Conv2d(out, out, 3, padding=1))
        self.out_layers = nn.Sequential(Norm(out), nn.SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def _resize(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, channels, H, W) and the time embedding (B, embedding) give (B, out, H', W')."""
        norm, activation, convolution = self.in_layers
        h = convolution(self._resize(activation(norm(x))))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        norm, activation, dropout, convolution = self.out_layers
        h = torch.addcmul(shift, norm(h), 1 + scale)
        return self.skip_connection(self._resize(x)) + convolution(dropout(activation(h)))


class Attention(nn.Module):
    """Self-attention over all positions, in the published channel layout.

    The 3C channels of ``qkv`` are split into heads first, and each head's run into query, key and value.
    """

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        flat = x.flatten(2)
        heads = self.qkv(self.norm(flat)).unflatten(1, (-1, 3, self.head_width))
        query, key, value = heads.transpose(-1, -2).unbind(2)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.proj_out(mixed.transpose(-1, -2).flatten(1, 2)).view_as(x)


class Stage(nn.ModuleList):
    """Layers in a row, of which only the residual blocks see the time embedding."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(layers)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Run all layers on (B, C, H, W)."""
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """The network of a `UNetConfig`: image-like input and one time per image to image-like output.

    ``checkpointing`` (may be changed at any time) recomputes each stage in the backward pass instead of
    storing it: less memory, about one more forward pass of work, the same gradients.
    """

    def __init__(self, config: UNetConfig, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = checkpointing
        widths, embedding = config.widths, 4 * config.base
        self.time_embed = nn.Sequential(
            nn.Linear(config.base, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        skips = [widths[0]]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(config.inputs, widths[0], 3, padding=1))])
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.input_blocks.append(Stage(*_layers(config, skips[-1], level)))
                skips.append(width)
            if level + 1 < len(widths):
                self.input_blocks.append(Stage(_block(config, width, width, "down")))
                skips.append(width)
        width = widths[-1]
        self.middle_block = Stage(
            _block(config, width, width), Attention(width, config.head_width), _block(config, width, width)
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for last in [False] * config.blocks + [True]:
                layers = list(_layers(config, width + skips.pop(), level))
                width = widths[level]
                if last and level:
                    layers.append(_block(config, width, width, "up"))
                self.output_blocks.append(Stage(*layers))
        self.out = nn.Sequential(
            Norm(width), nn.SiLU(), _zero(nn.Conv2d(width, config.outputs, 3, padding=1))
        )

    def _run(self, stage: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            result: Tensor = checkpoint(stage, h, embedding, use_reentrant=False)  # pyright: ignore[reportAssignmentType]
            return result
        return stage(h, embedding)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """One evaluation.

        Args:
            x: (B, inputs, H, W), nominally in [-1, 1]; H and W are multiples of ``config.multiple_of``.
            t: (B,), one time per image, float and fractional, already in the network's unit (OFTSR passes
                999 * t, t of the paper). Maps of times are not possible here: the time acts on whole images.

        Returns:
            (B, outputs, H, W).

        Raises:
            ValueError: The sides do not fit, or t is not one time per image.
        """
        multiple = self.config.multiple_of
        if x.shape[-2] % multiple or x.shape[-1] % multiple:
            raise ValueError(f"sides {tuple(x.shape[-2:])} are not multiples of {multiple}")
        if t.shape != x.shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}; one time per image, ({len(x)},), is needed")
        waves = time_embedding(t, self.config.base)
        embedding = self.time_embed(waves.to(next(self.time_embed.parameters()).dtype))
        skips: list[Tensor] = []
        h = x
        for stage in self.input_blocks:
            h = self._run(stage, h, embedding)
            skips.append(h)
        h = self._run(self.middle_block, h, embedding)
        for stage in self.output_blocks:
            h = self._run(stage, torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)


def _zero(layer: Convolution) -> Convolution:
    """The layer, with weight and bias 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _block(
    config: UNetConfig, channels: int, out: int, resample: Literal["keep", "down", "up"] = "keep"
) -> ResBlock:
    return ResBlock(channels, out, 4 * config.base, config.dropout, resample)


def _layers(config: UNetConfig, channels: int, level: int) -> Iterator[nn.Module]:
    """A residual block into a level, and attention where the level's down-sampling factor asks for it."""
    yield _block(config, channels, config.widths[level])
    if 2**level in config.attention:
        yield Attention(config.widths[level], config.head_width)
