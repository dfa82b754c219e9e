"""A tiny objective with two groups, three moves and a buffer: everything the loop must handle."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.core.contract import Loss, NoOptions, Objective, OneStepModel, Pair, Traits
from onestep.data import DataConfig
from onestep.recipe import CheckConfig, OptimizerConfig, Recipe, TrainConfig


class ToyModel(OneStepModel):
    Options = NoOptions

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.config = ToyConfig(width)
        self.traits = Traits(scale=2)
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.b = nn.Conv2d(width, 12, 3, padding=1)

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        return torch.Size((lr[0], 3, lr[2] * 2, lr[3] * 2))

    def condition(self, lr, options):
        return {}

    def forward(self, lr: Tensor, noise: Tensor, condition) -> Tensor:
        return F.pixel_shuffle(self.b(F.silu(self.a(lr))), 2) + 0.01 * noise


class ToyObjective(Objective):
    def __init__(self, width: int, poison: int) -> None:
        super().__init__()
        self.model = ToyModel(width)
        self.critic = nn.Conv2d(3, 1, 3)
        self.teacher = nn.Conv2d(3, 3, 1)
        self.poison = poison

    def groups(self):
        return {"model": list(self.model.parameters()), "critic": list(self.critic.parameters())}

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        noise = torch.randn_like(pair.hr)
        sr = self.model(pair.lr, noise, {})
        terms = {"l2": F.mse_loss(sr.float(), pair.hr), "critic": -0.1 * self.critic(sr).float().mean()}
        if step == self.poison:
            terms["l2"] = terms["l2"] * float("nan")
        yield Loss("model", terms)
        with torch.no_grad():
            fake = self.model(pair.lr, torch.randn_like(noise), {})
            goal = self.teacher(pair.hr).mean()
        yield Loss("critic", {"score": (self.critic(fake.float()).mean() - goal.float()) ** 2})


@dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    poison: int = -1

    def build(self) -> ToyObjective:
        return ToyObjective(self.width, self.poison)


def toy(**train) -> Recipe:
    fields = {
        "steps": 6,
        "batch": 4,
        "micro": 2,
        "optimizers": {
            "model": OptimizerConfig(lr=1e-2, warmup=2, decay_to=0.1),
            "critic": OptimizerConfig(kind="adamw"),
        },
        "precision": "float32",
        "save_every": 2,
        "log_every": 1,
    }
    return Recipe(
        name="toy",
        method="toy",
        objective=ToyConfig(),
        degradation="bicubic",
        data=DataConfig(crop=16, scale=2, workers=0, pictures=20),
        train=TrainConfig(**(fields | train)),
        check=CheckConfig(every=0),
    )
