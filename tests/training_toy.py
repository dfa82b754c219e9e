"""A tiny objective with two groups, three moves, noise and a buffer: everything the loop must handle."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.core.contract import Loss, Objective, OneStepModel, Pair, Traits
from onestep.data import DataConfig
from onestep.recipe import CardConfig, CheckConfig, OptimizerConfig, Recipe, TrainConfig


@dataclass(frozen=True)
class ToyOptions:
    gain: float = 1.0


@dataclass(frozen=True)
class ToyModelConfig:
    width: int = 4


class ToyModel(OneStepModel):
    Options = ToyOptions

    def __init__(self, config: ToyModelConfig) -> None:
        super().__init__()
        self.config, self.traits = config, Traits(scale=2)
        self.a = nn.Conv2d(3, config.width, 3, padding=1)
        self.b = nn.Conv2d(config.width, 12, 3, padding=1)

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        return torch.Size((lr[0], 3, lr[2] * 2, lr[3] * 2))

    def condition(self, lr: Tensor, options: ToyOptions):
        return {"gain": lr.new_full((len(lr), 1, 1, 1), options.gain)}

    def forward(self, lr: Tensor, noise: Tensor, condition) -> Tensor:
        return condition["gain"] * F.pixel_shuffle(self.b(F.silu(self.a(lr))), 2) + 0.1 * noise


class ToyObjective(Objective):
    def __init__(self, config: "ToyConfig") -> None:
        super().__init__()
        self.config = config
        self.model = ToyModel(config.model)
        self.critic = nn.Conv2d(3, 1, 3)
        self.teacher = nn.Conv2d(3, 3, 1)
        self.register_buffer("last", torch.zeros(()))

    def groups(self):
        return {"model": list(self.model.parameters()), "critic": list(self.critic.parameters())}

    def sr(self, pair: Pair) -> Tensor:
        noise = torch.randn_like(pair.hr) * self.config.noise
        return self.model(pair.lr, noise, self.model.condition(pair.lr, ToyOptions())).float()

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        self.last.fill_(step)
        sr = self.sr(pair)
        poison = float("nan") if step == self.config.poison else 1.0
        yield Loss(
            "model", {"l2": poison * F.mse_loss(sr, pair.hr), "fool": -0.1 * self.critic(sr).float().mean()}
        )
        with torch.no_grad():
            fake, goal = self.sr(pair), self.teacher(pair.hr).float().mean((1, 2, 3))
        yield Loss("critic", {"score": (self.critic(fake).float().mean((1, 2, 3)) - goal).square().mean()})
        yield Loss("model", {"l1": F.l1_loss(self.sr(pair), pair.hr)})


@dataclass(frozen=True)
class ToyConfig:
    model: ToyModelConfig = field(default_factory=ToyModelConfig)
    noise: float = 1.0
    poison: int = -1

    def build(self) -> ToyObjective:
        return ToyObjective(self)


OPTIMIZERS = {
    "model": OptimizerConfig(lr=1e-2, warmup=2, decay_to=0.1),
    "critic": OptimizerConfig(kind="adamw", lr=1e-3, weight_decay=0.1),
}


def toy(objective: ToyConfig | None = None, **train: Any) -> Recipe:
    """Six steps of four 16-pixel crops; keywords change the loop."""
    config = TrainConfig(
        steps=6, batch=4, micro=2, optimizers=OPTIMIZERS, precision="float32", save_every=2, log_every=1
    )
    return Recipe(
        name="toy",
        method="toy",
        objective=objective or ToyConfig(),
        degradation="bicubic",
        data=DataConfig(crop=16, scale=2, workers=0, pictures=60),
        train=replace(config, **train),
        check=CheckConfig(every=0, images=2, crop=33, sweep={"gain": (0.0, 1.0)}),
        card=CardConfig(license="CC0-1.0", limits=("everything",), defaults={"gain": 0.5}),
    )


def build(recipe):
    torch.manual_seed(0)
    return recipe.objective.build()


def same(a, b):
    """Whether two states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
