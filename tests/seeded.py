"""Weights and pictures that every machine makes alike, for values that other packages computed from them."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dictionary of the same names and shapes, drawn by name; layers keep the variance of signals."""
    generator = torch.Generator().manual_seed(0)
    drawn: dict[str, Tensor] = {}
    for key in sorted(state):
        shape = state[key].shape
        if not state[key].is_floating_point():
            drawn[key] = state[key]
        elif len(shape) > 1:
            drawn[key] = torch.randn(shape, generator=generator) * math.sqrt(2 / state[key][0].numel())
        elif key.endswith(("running_var", "weight")):
            drawn[key] = torch.rand(shape, generator=generator) * 0.5 + 0.75
        else:
            drawn[key] = torch.randn(shape, generator=generator) * 0.1
    return drawn


def picture(side: int, phase: int = 0) -> Tensor:
    """(1, 3, side, side) in [0, 1]: two waves and a stripe pattern, by a closed form."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = torch.sin(x * 0.11 + phase) * torch.cos(y * 0.07), torch.sin(x * 0.3 + y * 0.05)
    stripes = ((x * 7 + y * 13 + phase * 5) % 64) / 63
    return torch.stack([(waves[0] + 1) / 2, (waves[1] + 1) / 2, stripes])[None].float()
