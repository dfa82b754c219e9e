"""DISTS, structure and texture similarity (Ding, Ma, Wang and Simoncelli, 2020; arXiv:2004.07728).

Both images pass VGG-16, whose pooling is replaced by a smooth one (the root of squares under a Hann window).
At six depths, the image itself being the first, every channel is compared by its mean (texture) and by its
covariance (structure); learned weights, which sum to one, mix the 2950 similarities.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep import hub
from onestep.core.errors import InputError
from onestep.networks.lpips import TAPS, features_of, vgg_features
from onestep.networks.state_files import fill, read_state

MINIMUM = 16
"""Smallest side, in pixels: one at the deepest layer."""
CHANNELS = (3, 64, 128, 256, 512, 512)
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
_C = 1e-6
_FLOOR = 1e-12


def dists(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """DISTS between images (B, 3, H, W) in [0, 1]: (B,), 0 for equal ones; images are not resized.

    Raises:
        InputError: (at once) its weights cannot be had; (when scoring) a side is below 16 pixels.
    """
    model = Dists.from_files(hub.fetch("lpips-vgg-backbone"), hub.fetch("dists")).to(device)

    def score(sr: Tensor, hr: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(sr, hr)

    return score


class Dists(nn.Module):
    """The distance with frozen weights; differentiable in its inputs.

    ``Dists()`` is the bare wiring with random weights.
    """

    mean: Tensor
    deviation: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg_features()
        self.alpha = nn.Parameter(torch.rand(1, sum(CHANNELS), 1, 1))
        self.beta = nn.Parameter(torch.rand(1, sum(CHANNELS), 1, 1))
        line = torch.tensor([0.5, 1.0, 0.5])
        window = torch.outer(line, line)
        self.register_buffer("window", window / window.sum(), persistent=False)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_files(cls, backbone: Path, weights: Path) -> "Dists":
        """From a VGG-16 state dictionary and the authors' ``weights.pt`` (alpha and beta).

        Raises:
            InputError: a file is not a plain state dictionary, or its names or shapes do not fit.
        """
        model = cls()
        fill(model.features, features_of(read_state(backbone)), backbone, "DISTS")
        mixing = nn.ParameterDict({"alpha": model.alpha, "beta": model.beta})
        fill(mixing, read_state(weights), weights, "DISTS")
        return model

    def depths(self, image: Tensor) -> list[Tensor]:
        """The image (B, 3, H, W) in [0, 1], and its features after each of the five stages."""
        found, x = [image], (image - self.mean) / self.deviation
        for index, layer in enumerate(self.features):
            x = self._pool(x) if isinstance(layer, nn.MaxPool2d) else layer(x)
            if index in TAPS["vgg"]:
                found.append(x)
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance between images (B, 3, H, W) in [0, 1]: (B,).

        Raises:
            InputError: a side is below ``MINIMUM``.
        """
        if min(a.shape[-2:]) < MINIMUM:
            raise InputError(f"DISTS needs sides of at least {MINIMUM} pixels")
        total = self.alpha.sum() + self.beta.sum()
        alphas = (self.alpha / total).split(CHANNELS, dim=1)
        betas = (self.beta / total).split(CHANNELS, dim=1)
        similarity = a.new_zeros(len(a))
        for x, y, alpha, beta in zip(
            self.depths(a.float()), self.depths(b.float()), alphas, betas, strict=True
        ):
            texture, structure = _compare(x, y)
            similarity = similarity + (alpha * texture + beta * structure).sum(dim=(1, 2, 3))
        return 1 - similarity

    def _pool(self, x: Tensor) -> Tensor:
        """Half size, by the root of the weighted mean of squares."""
        kernel = self.window.expand(x.shape[1], 1, 3, 3)
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + _FLOOR).sqrt()


def _compare(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Texture and structure similarity of every channel, (B, C, 1, 1) each."""
    axes = (2, 3)
    mean_x, mean_y = x.mean(axes, keepdim=True), y.mean(axes, keepdim=True)
    texture = (2 * mean_x * mean_y + _C) / (mean_x.square() + mean_y.square() + _C)
    variance_x = (x - mean_x).square().mean(axes, keepdim=True)
    variance_y = (y - mean_y).square().mean(axes, keepdim=True)
    covariance = (x * y).mean(axes, keepdim=True) - mean_x * mean_y
    return texture, (2 * covariance + _C) / (variance_x + variance_y + _C)
