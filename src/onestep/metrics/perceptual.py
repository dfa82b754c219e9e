"""Distances between deep features, on images in [0, 1]."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from onestep import hub
from onestep.core.errors import InputError
from onestep.networks.lpips import TAPS, Fire, Lpips, Net, squeeze_features, unit
from onestep.networks.onnx_weights import initializers
from onestep.networks.state_files import fill

_CAFFE_MEAN = (104.0, 117.0, 123.0)
"""Of blue, green and red, 0 to 255: what networks trained with Caffe subtract."""
_PARTS = ("squeeze", "expand1x1", "expand3x3")
_SMALLEST = 31
"""Smallest side that the port takes, in pixels: its pooling leaves out what is no whole window."""


def lpips(net: Net, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS v0.1 between images (B, 3, H, W) in [0, 1]: (B,), 0 for equal ones; see ``networks.lpips``.

    Raises:
        InputError: (at once) its weights cannot be had; (when scoring) the images are too small for it.
    """
    model = Lpips.load(net).to(device)

    def score(sr: Tensor, hr: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(sr.float() * 2 - 1, hr.float() * 2 - 1)

    return score


def squeezenet_onnx(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Cosine distance of the features of another SqueezeNet, without learned weights: (B,), 0 to 1.

    The network is the SqueezeNet 1.1 of Windows Machine Learning, a port from Caffe in half precision that
    shares no weights with LPIPS: a second opinion on scores of models that were trained with LPIPS. Pictures
    are blue, green, red from 0 to 255 less Caffe's mean. At seven depths (after the first convolution and
    after fire modules 3, 5, 6, 7, 8 and 9) one minus the cosine between the feature vectors of each pixel is
    averaged over the picture; the score is the mean over depths.

    Raises:
        InputError: (at once) its weights cannot be had; (when scoring) a side is below 31 pixels.
    """
    layers = _squeezenet(device)
    mean = torch.tensor(_CAFFE_MEAN, device=device).view(1, 3, 1, 1)

    def depths(image: Tensor) -> list[Tensor]:
        x, found = image.flip(1).float() * 255 - mean, list[Tensor]()
        for index, layer in enumerate(layers):
            x = layer(x)
            if index in TAPS["squeeze"]:
                found.append(unit(x))
        return found

    def score(sr: Tensor, hr: Tensor) -> Tensor:
        if min(sr.shape[-2:]) < _SMALLEST:
            raise InputError(f"feature-squeezenet-onnx needs sides of at least {_SMALLEST} pixels")
        with torch.inference_mode():
            squares = [(a - b).square().sum(dim=1) for a, b in zip(depths(sr), depths(hr), strict=True)]
            return torch.stack([square.mean(dim=(1, 2)) / 2 for square in squares]).mean(dim=0)

    return score


def _squeezenet(device: torch.device) -> nn.Sequential:
    """Its feature layers, from the initializers of the ONNX file."""
    path = hub.fetch("squeezenet-onnx")
    held = initializers(path)
    layers = squeeze_features(ceil_mode=False)
    places = {"0": "conv1"}
    fires = [index for index, layer in enumerate(layers) if isinstance(layer, Fire)]
    for number, index in enumerate(fires, 2):
        places |= {f"{index}.{part}": f"fire{number}/{part}{'1x1' * (part == 'squeeze')}" for part in _PARTS}
    ends = {"weight": "w_0", "bias": "b_0"}
    names = {f"{ours}.{end}": f"{theirs}_{ends[end]}" for ours, theirs in places.items() for end in ends}
    state = {ours: held[theirs] for ours, theirs in names.items() if theirs in held}
    fill(layers, state, path, "feature-squeezenet-onnx")
    return layers.requires_grad_(False).eval().to(device)
