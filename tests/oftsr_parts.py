"""What tests of OFTSR share: small networks whose time matters, a batch, and the random numbers of a step."""

import torch
from torch import nn

from onestep.core.contract import Pair
from onestep.networks.compact import CompactConfig
from onestep.networks.unet import UNetConfig

SMALL = CompactConfig(width=8, trunk=1, head=1, time_width=8)
GUIDED = UNetConfig(base=32, multipliers=(1, 1), attention=(), head_width=32, dropout=0.0)


def lively(model, seed=0):
    """Move every weight, so that the time matters."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)
    return model


def pair(batch=3):
    generator = torch.Generator().manual_seed(1)
    hr = torch.rand(batch, 3, 8, 10, generator=generator) * 2 - 1
    return Pair(torch.nn.functional.avg_pool2d(hr, 2), hr)


def terms(objective, batch=None, seed=5):
    """The terms of the only move, random numbers seeded."""
    torch.manual_seed(seed)
    (loss,) = objective.losses(batch or pair(), 0)
    assert loss.group == "model"
    return loss.terms


def drawn(objective, batch):
    """Start and uniform numbers, as a step of either objective draws them."""
    torch.manual_seed(5)
    field = objective.model.field
    x0 = field.start(field.lr_up(batch.lr), torch.randn_like(batch.hr))
    return x0, torch.rand(len(x0))


def every(time):
    """Make torch.rand return one number, as 0 (the least time) or 1 (the largest)."""
    return lambda *size, **options: torch.full(size, float(time))


def per_image(t):
    return t.reshape(-1, 1, 1, 1)


def mean_distance(kind, a, b):
    return (a - b).abs().mean() if kind == "l1" else (a - b).square().mean()


def asked(field, monkeypatch):
    """Keep what a field is asked: (state, time) of every evaluation."""
    calls = []
    prepare, finish = field.prepare, field.finish

    def kept(x, lr_up, lr):
        prepared = prepare(x, lr_up, lr)
        return x, prepared

    def answered(prepared, t):
        calls.append((prepared[0], t))
        return finish(prepared[1], t)

    monkeypatch.setattr(field, "prepare", kept)
    monkeypatch.setattr(field, "finish", answered)
    return calls


class PerImage(nn.Module):
    """In place of LPIPS."""

    def forward(self, a, b):
        return (a - b).square().mean((1, 2, 3))
