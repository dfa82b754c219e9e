"""Small consistency functions, and a Gaussian world on which they can be trained in seconds."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from onestep.core.contract import Pair
from onestep.methods.ctmsr import ConsistencyConfig, ConsistencyTrajectory, Ctmsr, CtmsrConfig, objectives
from onestep.networks.swin_unet import SwinUNetConfig

TINY = SwinUNetConfig(
    base=32,
    multipliers=(1, 1),
    blocks=1,
    attention=(1,),
    embedding=16,
    dropout=0.0,
    swin_width=32,
    heads=2,
    window=4,
    norm="pixel",
    head="shuffle",
)
"""A compact network of two levels."""

RELEASED = replace(
    TINY, multipliers=(1, 2, 2, 2), attention=(0, 1, 2, 3), window=8, norm="group", head="convolutions"
)
"""The released architecture, one block per level and narrow."""


def lively(config: CtmsrConfig, seed: int = 0) -> Ctmsr:
    """A model whose every weight matters, in evaluation mode."""
    torch.manual_seed(seed)
    model = config.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def squared(gain: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    """A stand-in for LPIPS: the mean squared difference of each image, times a gain."""
    return lambda a, b: gain * (a - b).square().mean(dim=(1, 2, 3))


MODEL = CtmsrConfig(replace(TINY, residual=True), sigma_max=0.5)
DROPPING = CtmsrConfig(replace(TINY, dropout=0.5))


def objective(model: CtmsrConfig = MODEL, distance=None, **settings) -> ConsistencyTrajectory:
    config = ConsistencyConfig(model, **{"dtm_steps": 0, **settings})
    return ConsistencyTrajectory(config, lively(model), distance or squared()).train()


def images(count: int = 2, side: int = 16, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    hr = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    return Pair(nn.functional.avg_pool2d(hr, 4), hr)


def recorded(monkeypatch) -> list[tuple[Tensor, ...]]:
    """Arguments of every state that is formed."""
    calls: list[tuple[Tensor, ...]] = []
    plain = objectives.q_sample

    def noting(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(objectives, "q_sample", noting)
    return calls


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class PerLevel(nn.Module):
    """Stands in for the network: F = w x with one w per level, which it tells by the noise it is told."""

    def __init__(self, intervals: int) -> None:
        super().__init__()
        self.intervals = intervals
        self.gain = nn.Parameter(torch.full((intervals + 1,), 0.3))

    def level(self, c: Tensor) -> Tensor:
        """Index of c_noise = ln(s + 0.002) / 4 among evenly spaced s."""
        return (((4 * c).exp() - 0.002) * self.intervals).round().long()

    def forward(self, x: Tensor, c: Tensor, lr: Tensor) -> Tensor:
        """(B, 3, 1, 1) to the same shape."""
        return self.gain[self.level(c)].reshape(-1, 1, 1, 1) * x


def toy_model(network: nn.Module) -> Ctmsr:
    """The real model at scale 1 with a stand-in for its network."""
    model = CtmsrConfig(TINY, scale=1).build()
    model.model = network
    return model


def toy_objective(network: nn.Module, intervals: int, distance=None, **settings) -> ConsistencyTrajectory:
    """The real objective around it; squared error rules unless another distance is given."""
    config = ConsistencyConfig(intervals=(intervals, intervals), **{"dtm_steps": 0, **settings})
    return ConsistencyTrajectory(config, toy_model(network), distance or squared(1000.0))


def gaussian(count: int, deviation: float = 1.0) -> Pair:
    """Images of one pixel, x0 ~ N(0, deviation²) and y = 0."""
    return Pair(torch.zeros(count, 3, 1, 1), deviation * torch.randn(count, 3, 1, 1))


def optimise(
    objective: ConsistencyTrajectory,
    draw: Callable[[int], Pair],
    steps: int,
    *,
    count: int = 2048,
    first: int = 0,
    lr: float = 0.02,
) -> None:
    """Adam from step ``first`` on, the learning rate falling to 0 by half a cosine."""
    torch.manual_seed(first)
    optimizer = torch.optim.Adam(objective.model.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(first, first + steps):
        objective.begin(step, lambda: nullcontext(objective.model))
        for loss in objective.losses(draw(count), step):
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def one_step(model: Ctmsr, count: int = 20_000, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Noise (count, 3, 1, 1), and what the model makes of it with y = 0."""
    noise = torch.randn(count, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    lr = torch.zeros_like(noise)
    return noise, model(lr, noise, model.condition(lr, model.Options()))


def spread(model: Ctmsr) -> float:
    """Standard deviation of the one-step results of a linear model, from its slope on the noise."""
    noise, out = one_step(model)
    return float((out * noise).sum() / noise.square().sum())
