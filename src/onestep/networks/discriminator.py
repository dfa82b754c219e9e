"""A discriminator of small trained heads on frozen features, with augmentation and one-sided smoothing.

The idea is that of Vision-aided GAN (Kumari et al., arXiv 2112.09130), in the setting of S3Diff: features of
DINO ViT-B/16 at three depths, two convolutional heads and one on the class token; on both true and generated
images DiffAugment (Zhao et al., arXiv 2006.10738). Written from the descriptions; where DINO is not at hand,
or too slow, SqueezeNet serves as features in the same layout: two maps and a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from onestep.core.errors import UsageError
from onestep.networks.lpips import Lpips

FeatureNet = Literal["dino", "squeeze"]

REAL = 0.8
"""What logits of true images are pulled to (smoothed; 0 for generated ones)."""
_HIDDEN = 128
_SLOPE = 0.2
_CUT = 0.5
_SHIFT = 0.125


class Features(Protocol):
    """What a discriminator looks at."""

    widths: Sequence[int]
    """Channels of each depth; the last depth is a vector."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] to maps (B, C, h, w), and for the last depth a vector (B, C)."""
        ...


class SqueezeFeatures(nn.Module):
    """SqueezeNet 1.1 as LPIPS has it: two depths as maps, the last as its mean over the image."""

    widths = (128, 256, 512)
    minimum = 40
    """Smallest side of an image."""
    _depths = (4, 7, 12)

    def __init__(self, lpips: Lpips) -> None:
        super().__init__()
        self.lpips = lpips

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] to (B, 128, h, w), (B, 256, h', w') and (B, 512).

        Raises:
            UsageError: The images are too small for the second depth's head.
        """
        if min(image.shape[-2:]) < self.minimum:
            raise UsageError(f"the discriminator on SqueezeNet needs sides of at least {self.minimum} pixels")
        x = (image - self.lpips.shift) / self.lpips.scale
        found: list[Tensor] = []
        for index, layer in enumerate(self.lpips.features):
            x = layer(x)
            if index in self._depths:
                found.append(x)
        return [*found[:-1], found[-1].mean((2, 3))]


class Smoothing(nn.Module):
    """The low-pass 1-3-3-1 in both directions, zeros around; with p zeros, n pixels become n + 2 p - 3."""

    kernel: Tensor

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.channels, self.padding = channels, padding
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to the same with other sides."""
        kernel = self.kernel.to(x.dtype).expand(self.channels, 1, 4, 4)
        return F.conv2d(x, kernel, padding=self.padding, groups=self.channels)


def map_head(width: int) -> nn.Sequential:
    """Logits of a map: 14 x 14 features become 3 x 3 logits."""
    return nn.Sequential(
        Smoothing(width, 2),
        spectral_norm(nn.Conv2d(width, _HIDDEN, 3, 2)),
        nn.LeakyReLU(_SLOPE),
        Smoothing(_HIDDEN, 1),
        spectral_norm(nn.Conv2d(_HIDDEN, 1, 1, 2)),
    )


def vector_head(width: int) -> nn.Sequential:
    """The logit of a vector."""
    return nn.Sequential(
        spectral_norm(nn.Linear(width, _HIDDEN)), nn.LeakyReLU(_SLOPE), spectral_norm(nn.Linear(_HIDDEN, 1))
    )


class Discriminator(nn.Module):
    """Frozen features, trained heads, and the loss of both players."""

    def __init__(self, features: nn.Module, *, augment: bool = True) -> None:
        """Fresh heads on features.

        Args:
            features: As :class:`Features` says.
            augment: Whether images are augmented before they are looked at.
        """
        super().__init__()
        self.features, self.augment = features.eval().requires_grad_(False), augment
        *maps, last = cast("Features", features).widths
        self.heads = nn.ModuleList([*(map_head(width) for width in maps), vector_head(last)])

    def train(self, mode: bool = True) -> Self:
        """The features stay in evaluation mode."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """Logits of every head, (B, 1, h, w) or (B, 1), for images (B, 3, H, W) in [-1, 1]."""
        seen = self.features(augmented(image) if self.augment else image)
        return [head(one) for head, one in zip(self.heads, seen, strict=True)]

    def loss(self, image: Tensor, *, real: bool) -> Tensor:
        """How far images are from being called true (or generated): cross-entropy, a scalar.

        The mean over each head's logits and over the batch, summed over the heads. "True" means 0.8, also
        where a generator wants its images to be called so.
        """
        terms = [
            F.binary_cross_entropy_with_logits(
                logits.float(), torch.full_like(logits, REAL if real else 0.0, dtype=torch.float32)
            )
            for logits in self(image)
        ]
        return torch.stack(terms).sum()


def augmented(image: Tensor) -> Tensor:
    """DiffAugment of (B, 3, H, W) in [-1, 1], each image on its own; differentiable, may leave [-1, 1].

    Brightness +-0.5, saturation times 0 to 2, contrast times 0.5 to 1.5, shift by up to an eighth of the
    sides, and one square of half the sides put to zero (mid-grey), as is what a shift uncovers.
    """
    size = (len(image), 1, 1, 1)
    brightness, saturation, contrast = (torch.rand(size, device=image.device) for _ in range(3))
    x = image + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    level = x.mean((1, 2, 3), keepdim=True)
    x = (x - level) * (contrast + 0.5) + level
    return _cut(_shifted(x))


def _shifted(x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    down, across = (int(side * _SHIFT + 0.5) for side in (height, width))
    padded = F.pad(x, (across, across, down, down))
    tops = torch.randint(0, 2 * down + 1, (len(x),)).tolist()
    lefts = torch.randint(0, 2 * across + 1, (len(x),)).tolist()
    pieces = [
        one[:, top : top + height, left : left + width]
        for one, top, left in zip(padded, tops, lefts, strict=True)
    ]
    return torch.stack(pieces)


def _cut(x: Tensor) -> Tensor:
    keep = torch.ones_like(x[:, :1])
    for index in range(len(x)):
        spans: list[slice] = []
        for side in x.shape[-2:]:
            cut = int(side * _CUT + 0.5)
            start = int(torch.randint(0, side + 1, ())) - cut // 2
            spans.append(slice(max(0, start), max(0, start + cut)))
        keep[index, 0, spans[0], spans[1]] = 0
    return x * keep


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which features."""

    features: FeatureNet = "dino"
    """DINO ViT-B/16 as published, or SqueezeNet, which is small."""
    augment: bool = True

    def build(self) -> Discriminator:
        """With fresh heads.

        Raises:
            InputError: The weights of the features cannot be had.
        """
        if self.features == "squeeze":
            return Discriminator(SqueezeFeatures(Lpips.load("squeeze")), augment=self.augment)
        from onestep.networks.backbones import Dino

        return Discriminator(Dino.load("dino-vitb16", "facebook/dino-vitb16"), augment=self.augment)
