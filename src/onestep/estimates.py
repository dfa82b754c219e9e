"""How blurred and how noisy pictures are, by the degradation estimator of a release file."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from onestep import checkpoint
from onestep.core.config import from_dict
from onestep.core.errors import InputError, UsageError
from onestep.networks.degradation_estimator import DegradationEstimator, EstimatorConfig

METHOD = "degradation-estimator"
"""Of the release files, and the name of the one that comes with the package."""
_PLACES = {METHOD: ("network", "net."), "s3diff": ("estimator", "estimator.")}
"""Method of a release file -> where its card has the shape, and what names of tensors begin with."""


def load_estimator(path: Path | None = None) -> DegradationEstimator:
    """The estimator of a release file, frozen; None: the one that came with the package.

    The file may be of the estimator alone, or of S3Diff, whose part it is.

    Raises:
        UsageError: The file holds another method.
        InputError: The file cannot be read, or its tensors do not fit.
    """
    if path is None:
        path = Path(str(resources.files("onestep") / "weights" / f"{METHOD}.safetensors"))
    tensors, card = checkpoint.read(path)
    if card.method not in _PLACES:
        raise UsageError(f"{path}: holds the method {card.method!r}; a release file of {METHOD!r} is needed")
    field, prefix = _PLACES[card.method]
    shape = card.config.get(field)
    if not isinstance(shape, Mapping):
        raise InputError(f"{path}: its card describes no network; make the file again")
    net = DegradationEstimator(from_dict(EstimatorConfig, cast("Mapping[str, Any]", shape), f"{field}."))
    if card.method != METHOD:
        tensors = {name: value for name, value in tensors.items() if name.startswith(prefix)}
    own = {name.removeprefix(prefix): value for name, value in tensors.items()}
    checkpoint.load(net, own, path)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def estimate(net: DegradationEstimator, rgb: Tensor) -> tuple[float, float]:
    """Blur and noise, each from 0 to 1, of a picture (1, 3, H, W) in [0, 1] at its own size."""
    blur, noise = net(rgb.float() * 2 - 1)[0].tolist()
    return blur, noise
