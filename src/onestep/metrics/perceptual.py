"""Distances between deep features, on images in [0, 1]."""

from collections.abc import Callable

import torch
from torch import Tensor

from onestep.networks.lpips import Lpips, Net


def lpips(net: Net, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS v0.1 between images (B, 3, H, W) in [0, 1]: (B,), 0 for equal ones; see ``networks.lpips``.

    Raises:
        InputError: (at once) its weights cannot be had; (when scoring) the images are too small for it.
    """
    model = Lpips.load(net).to(device)

    def score(sr: Tensor, hr: Tensor) -> Tensor:
        return model(sr.float() * 2 - 1, hr.float() * 2 - 1)

    return score
