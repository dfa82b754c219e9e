"""How blurred and how noisy a picture is: the degradation estimator of MM-RealSR, which S3Diff uses.

Two independent branches, one for blur and one for noise: a convolution, residual blocks without
normalisation, the mean over the picture, two linear layers, a sigmoid. The scores are ranks, not sigmas: 0
is clean, 1 is the worst of the training; "blur" includes reduction, "noise" includes JPEG. Names of modules
are the official ones (``body.1.6.weight``: branch, layer). Source: Mou et al. 2022 (arXiv 2205.04910).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.core.errors import UsageError

SCORES = ("blur", "noise")
"""What the columns of the output, and the branches, stand for."""
_GAIN = 5.0
"""What the first filters of a fresh network are multiplied by where they see the picture itself."""
_FLAT = 2 / 255
"""Contrast, in [0, 1], below which a part of a picture counts as flat; rounding alone has a seventh of it."""
_BAND = 512
"""Rows of a picture that are in memory at once."""


@dataclass(frozen=True)
class EstimatorConfig:
    """Shape of each branch; the defaults are the published ones (2,351,362 parameters in 80 tensors)."""

    widths: tuple[int, ...] = (64, 64, 64, 128)
    """Channels of each stage."""
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of each stage."""
    strides: tuple[int, ...] = (1, 1, 2)
    """Reduction between stages; a convolution stands there where it or the width changes something."""
    hidden: int = 512
    """Width between the two linear layers."""
    window: int = 0
    """Side of the window in which contrast is evened out beside the picture as it is; 0: not at all."""

    def __post_init__(self) -> None:
        """Refuse stages that do not line up, and windows without a middle.

        Raises:
            UsageError: One line that names the field.
        """
        if not len(self.widths) == len(self.blocks) == len(self.strides) + 1:
            raise UsageError("estimator: widths and blocks need one entry per stage, strides one less")
        if self.window < 0 or (self.window and self.window % 2 == 0):
            raise UsageError(f"estimator: window={self.window}: must be odd, or 0")

    @classmethod
    def compact(cls) -> "EstimatorConfig":
        """A fortieth of the multiply-adds: what this project trains and ships.

        Three reductions, so that a feature vector stands for 8 x 8 pixels, as a block of JPEG does; and
        pictures are also seen with even contrast, since blur is in the shape of edges, not in their height.
        """
        return cls(widths=(16, 32, 48, 64), blocks=(1, 1, 1, 1), strides=(2, 2, 2), hidden=128, window=17)

    @property
    def channels(self) -> int:
        """Of what the first convolution sees: :func:`evened`, where there is a window."""
        return 7 if self.window else 3

    @property
    def stride(self) -> int:
        """Pixels per feature vector, along a side."""
        return math.prod(self.strides)

    @property
    def reach(self) -> int:
        """Pixels that a feature vector sees in each direction, rounded up to a multiple of ``stride``."""
        reach, step = 1 + self.window // 2, 1
        for index, count in enumerate(self.blocks):
            reach += 2 * count * step
            if index < len(self.strides) and self.changes(index):
                reach += step
                step *= self.strides[index]
        return -(-reach // self.stride) * self.stride

    def changes(self, stage: int) -> bool:
        """Whether a convolution stands between a stage and the next."""
        return self.strides[stage] > 1 or self.widths[stage] != self.widths[stage + 1]


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(x))), 3x3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():  # without normalisation, a block must begin near the identity
            self.conv2.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same."""
        return x + self.conv2(torch.relu(self.conv1(x)))


class DegradationEstimator(nn.Module):
    """A picture to its scores of blur and noise."""

    def __init__(self, config: EstimatorConfig) -> None:
        super().__init__()
        self.config = config
        branches = range(len(SCORES))
        first, last = config.widths[0], config.widths[-1]
        self.conv_first = nn.ModuleList(nn.Conv2d(config.channels, first, 3, padding=1) for _ in branches)
        self.body = nn.ModuleList(nn.Sequential(*_layers(config)) for _ in branches)
        self.fc_degree = nn.ModuleList(
            nn.Sequential(nn.Linear(last, config.hidden), nn.ReLU(), nn.Linear(config.hidden, 1))
            for _ in branches
        )
        self._look_closely()

    @torch.no_grad()
    def _look_closely(self) -> None:
        """Begin with filters that see detail alone: blur and noise are in nothing else."""
        for branch in range(len(SCORES)):
            first = cast("nn.Conv2d", self.conv_first[branch]).weight
            detail = first[:, :6]
            detail.sub_(detail.mean((2, 3), keepdim=True))
            first[:, :3].mul_(_GAIN)
            for layer in cast("nn.Sequential", self.body[branch]):
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")

    def forward(self, image: Tensor) -> Tensor:
        """Scores (B, 2) in (0, 1), float32: blur, noise.

        Args:
            image: (B, 3, H, W) in [-1, 1], RGB, at its own size: neither enlarged nor padded. (Official
                weights expect [0, 1]; that is what the branches get.)
        """
        return torch.sigmoid(self.logits(image))

    def logits(self, image: Tensor) -> Tensor:
        """What the scores are the sigmoid of."""
        image = image / 2 + 0.5
        sums: list[list[Tensor]] = [[] for _ in SCORES]
        for seen, rows in self._bands(image):
            for branch, found in enumerate(sums):
                features = self.body[branch](self.conv_first[branch](seen))
                found.append(features[..., rows, :].float().sum((2, 3)))
        height, width = (-(-side // self.config.stride) for side in image.shape[-2:])
        means = [torch.stack(found).sum(0) / (height * width) for found in sums]
        with torch.autocast(image.device.type, enabled=False):
            return torch.cat([head(mean) for head, mean in zip(self.fc_degree, means, strict=True)], 1)

    def _bands(self, image: Tensor) -> Iterator[tuple[Tensor, slice]]:
        """What the first convolution sees, band by band with its surroundings; rows of features to keep."""
        stride, reach, rows = self.config.stride, self.config.reach, image.shape[-2]
        for top in range(0, rows, _BAND):
            start, end = max(0, top - reach), min(rows, top + _BAND + reach)
            seen = image[..., start:end, :]
            kept = (top - start) // stride
            last = top + _BAND >= rows
            yield (
                evened(seen, self.config.window) if self.config.window else seen,
                slice(kept, None if last else kept + _BAND // stride),
            )


def evened(image: Tensor, window: int) -> Tensor:
    """(B, 7, H, W): the picture, its detail with even contrast, and how high the contrast was.

    With m the mean of each colour in a window around each pixel, s^2 the mean of the three colours' variances
    there, e = 2 / 255 and c = sqrt(s^2 + e^2): x, (x - m) / c, and log(c / e) / 4.

    Args:
        image: (B, 3, H, W) in [0, 1].
        window: Side of the window; odd. At borders it is cut off.
    """
    image = image.float()

    def mean(x: Tensor) -> Tensor:
        for size, pad in (((window, 1), (window // 2, 0)), ((1, window), (0, window // 2))):
            x = F.avg_pool2d(x, size, 1, pad, count_include_pad=False)
        return x

    centred = image - 0.5  # the difference of squares below is then of small numbers
    middle = mean(centred)
    spread = (mean(centred.square()) - middle.square()).mean(1, keepdim=True).clamp_min(0)
    contrast = (spread + _FLAT**2).sqrt()
    return torch.cat([image, (centred - middle) / contrast, (contrast / _FLAT).log() / 4], 1)


def _layers(config: EstimatorConfig) -> Iterator[nn.Module]:
    for stage, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
        for _ in range(count):
            yield ResidualBlock(width)
        if stage < len(config.strides) and config.changes(stage):
            yield nn.Conv2d(width, config.widths[stage + 1], 3, config.strides[stage], 1)
