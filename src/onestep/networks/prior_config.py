"""Shapes of a latent diffusion prior: Stable Diffusion's block types at any size, without any download.

Numbers only; nothing heavy is imported. ``DiffusionPrior.build`` makes the networks.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onestep.core.errors import UsageError


@dataclass(frozen=True)
class VaeShape:
    """The autoencoder (diffusers ``AutoencoderKL``)."""

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    """Residual blocks per level of the encoder; the decoder has one more."""
    latent: int = 4
    """Channels of a latent."""
    groups: int = 32
    """Of every group normalisation."""
    scaling: float = 0.18215
    """What latents are multiplied by before they are diffused, which gives them unit variance."""

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return 2 ** (len(self.channels) - 1)

    def arguments(self) -> dict[str, Any]:
        """For ``AutoencoderKL``."""
        count = len(self.channels)
        return {
            "down_block_types": ("DownEncoderBlock2D",) * count,
            "up_block_types": ("UpDecoderBlock2D",) * count,
            "block_out_channels": self.channels,
            "layers_per_block": self.layers,
            "latent_channels": self.latent,
            "norm_num_groups": self.groups,
            "scaling_factor": self.scaling,
        }


@dataclass(frozen=True)
class UNetShape:
    """The noise predictor (diffusers ``UNet2DConditionModel``): cross-attention everywhere but last."""

    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    """Residual blocks per level on the way down; one more on the way up."""
    heads: tuple[int, ...] = (5, 10, 20, 20)
    """Attention heads per level."""
    groups: int = 32
    sample: int = 64
    """Side of the latents that it was trained at."""

    def arguments(self, latent: int, text: int) -> dict[str, Any]:
        """For ``UNet2DConditionModel``, with so many channels per latent and per token."""
        plain = len(self.channels) - 1
        return {
            "sample_size": self.sample,
            "in_channels": latent,
            "out_channels": latent,
            "down_block_types": ("CrossAttnDownBlock2D",) * plain + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * plain,
            "block_out_channels": self.channels,
            "layers_per_block": self.layers,
            "attention_head_dim": self.heads,  # diffusers' name; it counts heads
            "norm_num_groups": self.groups,
            "cross_attention_dim": text,
            "use_linear_projection": True,
        }


@dataclass(frozen=True)
class TextShape:
    """The text encoder (transformers ``CLIPTextModel``); the last hidden state is what conditions."""

    width: int = 1024
    inner: int = 4096
    layers: int = 23
    heads: int = 16
    vocabulary: int = 49408
    length: int = 77
    """Tokens per prompt, the two that mark begin and end included."""

    def arguments(self) -> dict[str, Any]:
        """For ``CLIPTextConfig``."""
        return {
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.length,
            "hidden_act": "gelu",
            "pad_token_id": 0,
            "bos_token_id": self.vocabulary - 2,
            "eos_token_id": self.vocabulary - 1,
        }


@dataclass(frozen=True)
class Schedule:
    """How much of a latent is left at a time: z_t = sqrt(abar_t) z + sqrt(1 - abar_t) n, t = 0 .. steps-1."""

    steps: int = 1000
    start: float = 0.00085
    """First beta."""
    end: float = 0.012
    """Last beta; between them the square roots are evenly spaced ("scaled linear")."""

    def remaining(self) -> Tensor:
        """abar, (steps,), float64."""
        betas = torch.linspace(
            math.sqrt(self.start), math.sqrt(self.end), self.steps, dtype=torch.float64, device="cpu"
        ).square()
        return torch.cumprod(1 - betas, 0)


@dataclass(frozen=True)
class PriorConfig:
    """A whole prior; the defaults are Stable Diffusion 2.1-base."""

    vae: VaeShape = field(default_factory=VaeShape)
    unet: UNetShape = field(default_factory=UNetShape)
    text: TextShape = field(default_factory=TextShape)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        """Refuse shapes that no network has.

        Raises:
            UsageError: One line that names the field.
        """
        for name, shape in (("vae", self.vae), ("unet", self.unet)):
            if any(width % shape.groups for width in shape.channels):
                raise UsageError(
                    f"prior.{name}: channels {shape.channels} are not all multiples of groups={shape.groups}"
                )
        heads, widths = self.unet.heads, self.unet.channels
        if len(heads) != len(widths) or any(w % h for w, h in zip(widths, heads, strict=False)):
            raise UsageError(f"prior.unet: heads {heads} do not divide channels {widths}")

    @classmethod
    def tiny(cls) -> "PriorConfig":
        """For tests: the same block types, 32 channels at most, latents of half the side."""
        return cls(
            VaeShape(channels=(8, 16), layers=1, groups=4, scaling=0.5),
            UNetShape(channels=(16, 32), layers=1, heads=(2, 4), groups=4, sample=8),
            TextShape(width=16, inner=32, layers=1, heads=2, vocabulary=514),
        )

    @classmethod
    def mini(cls) -> "PriorConfig":
        """Small enough to be trained on two CPU cores: 96-pixel pictures, latents of a quarter."""
        return cls(
            VaeShape(channels=(32, 64, 64), layers=1, groups=16, scaling=1.0),
            UNetShape(channels=(64, 96, 160), layers=1, heads=(2, 3, 5), groups=16, sample=24),
            TextShape(width=64, inner=128, layers=1, heads=2, vocabulary=514),
        )
