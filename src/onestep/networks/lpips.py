"""LPIPS, the perceptual distance of Zhang et al. 2018 (arXiv:1801.03924), version 0.1: loss and metric.

Both images pass a frozen classifier; at several depths the feature vectors of each pixel are scaled to unit
length, subtracted and squared, weighted per channel by a learned linear head, averaged over space, and the
depths are added up (equation 1 of the paper). Feature networks have torchvision's layout and key names
(``features.0.weight``), without their classifier; they are small enough to be written out here, so that
torchvision is not needed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from onestep import hub
from onestep.core.errors import InputError
from onestep.networks.state_files import fill, read_state

Net = Literal["squeeze", "alex", "vgg"]

SHIFT = (-0.030, -0.088, -0.188)
"""Subtracted per RGB channel from inputs in [-1, 1]; the ImageNet mean in that range, as LPIPS rounds it."""
SCALE = (0.458, 0.448, 0.450)
"""Divided by per RGB channel; the ImageNet deviation in that range, as LPIPS rounds it."""
_EPSILON = 1e-10

TAPS: Mapping[Net, tuple[int, ...]] = {
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
}
"""Index of the layers whose outputs are compared: the rectified ones before each pooling, and the last."""
_CHANNELS: Mapping[Net, tuple[int, ...]] = {
    "squeeze": (64, 128, 256, 384, 384, 512, 512),
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
}
MINIMUM: Mapping[Net, int] = {"squeeze": 17, "alex": 31, "vgg": 16}
"""Smallest image side, in pixels, that each feature network can take."""


class Fire(nn.Module):
    """SqueezeNet's block: 1x1 squeeze, then 1x1 and 3x3 expansions side by side, all rectified."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, 2 * expanded, H, W)."""
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


def squeeze_features(ceil_mode: bool = True) -> nn.Sequential:
    """The feature layers of SqueezeNet 1.1.

    Args:
        ceil_mode: whether pooling windows may hang over the border; other ports than torchvision's do not.
    """
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, ceil_mode=ceil_mode),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        nn.MaxPool2d(3, stride=2, ceil_mode=ceil_mode),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        nn.MaxPool2d(3, stride=2, ceil_mode=ceil_mode),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )


def alex_features() -> nn.Sequential:
    """The feature layers of AlexNet (one-tower version) up to the last rectifier."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def vgg_features() -> nn.Sequential:
    """The feature layers of VGG-16 up to the last rectifier."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(repeats):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2, stride=2))
    return nn.Sequential(*layers[:-1])


_FEATURES = {"squeeze": squeeze_features, "alex": alex_features, "vgg": vgg_features}


def unit(features: Tensor) -> Tensor:
    """Scale the feature vector of each pixel (B, C, H, W) to length one; a zero vector stays zero.

    The reference divides by the length plus 1e-10; the square root is kept away from zero here, because its
    gradient there is infinite and dead channels would turn a training loss into NaN.
    """
    squared = features.square().sum(dim=1, keepdim=True)
    return features / (squared.clamp_min(_EPSILON**2).sqrt() + _EPSILON)


class Lpips(nn.Module):
    """Perceptual distance with frozen weights; differentiable in its inputs.

    ``Lpips(net)`` is the bare wiring with random weights; ``Lpips.load(net)`` has the published ones.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Net = "squeeze") -> None:
        super().__init__()
        self.net: Net = net
        self.features = _FEATURES[net]()
        self.heads = nn.ParameterList(torch.rand(1, channels, 1, 1) for channels in _CHANNELS[net])
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, net: Net = "squeeze") -> "Lpips":
        """With the published weights, from ``ONESTEP_HOME`` or downloaded.

        Raises:
            InputError: a weight file cannot be had or does not fit.
        """
        return cls.from_files(net, hub.fetch(f"lpips-{net}-backbone"), hub.fetch(f"lpips-{net}-head"))

    @classmethod
    def from_files(cls, net: Net, backbone: Path, head: Path) -> "Lpips":
        """From a classifier's state dictionary (keys ``features.*`` or bare ``0.weight``) and an LPIPS head.

        Raises:
            InputError: a file is not a plain state dictionary, or its names or shapes do not fit.
        """
        model = cls(net)
        fill(model.features, features_of(read_state(backbone)), backbone, f"LPIPS-{net}")
        heads = {str(depth): _read_head(head, depth) for depth in range(len(model.heads))}
        fill(model.heads, heads, head, f"LPIPS-{net}")
        return model

    def train(self, mode: bool = True) -> "Lpips":
        """Stays in evaluation mode: it is a ruler, also inside an objective that trains."""
        del mode
        return super().train(False)

    def depths(self, image: Tensor) -> list[Tensor]:
        """Unit-length features of an image (B, 3, H, W) in [-1, 1] at each compared depth."""
        x = (image - self.shift) / self.scale
        found: list[Tensor] = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in TAPS[self.net]:
                found.append(unit(x))
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance between images (B, 3, H, W) in [-1, 1]: (B,), 0 for equal ones, around 1 for unlike ones.

        Raises:
            InputError: the images are smaller than ``MINIMUM`` for this network.
        """
        if min(a.shape[-2:]) < MINIMUM[self.net]:
            raise InputError(f"LPIPS-{self.net} needs sides of at least {MINIMUM[self.net]} pixels")
        distance = a.new_zeros(len(a))
        for one, other, head in zip(self.depths(a), self.depths(b), self.heads, strict=True):
            distance = distance + (head * (one - other).square()).sum(dim=1).mean(dim=(1, 2))
        return distance


def features_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The feature layers of a torchvision state dictionary, without classifier and ``features.`` prefix."""
    with_prefix = {
        key.removeprefix("features."): v for key, v in state.items() if key.startswith("features.")
    }
    return with_prefix or dict(state)


def _read_head(path: Path, depth: int) -> Tensor:
    key = f"lin{depth}.model.1.weight"
    state = read_state(path)
    if key not in state:
        raise InputError(f"{path}: not an LPIPS head: {key} is missing")
    return state[key]
