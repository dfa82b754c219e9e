"""Score distillation where the truth is known: a prior of four Gaussians in two dimensions, its score exact.

The observation tells left from right and nothing of up and down: the best mean lies between two modes.
The objective, its moves and its times are those of the method; only the networks are replaced: the generator
and the fake score by small perceptrons, the real score by the closed form.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from onestep.core.contract import Pair
from onestep.methods.osediff import OsediffTraining, ScoreDistillation
from onestep.networks.diffusion_prior import DiffusionPrior
from onestep.networks.prior_config import Schedule
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train.state import Training

MODES = torch.tensor([[x, y] for x in (-0.9, 0.9) for y in (-0.9, 0.9)])
SPREAD = 0.12
"""Standard deviation of each mode."""


def drawn(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Samples of the prior, (count, 2)."""
    which = torch.randint(4, (count,), generator=generator)
    return MODES[which] + SPREAD * torch.randn(count, 2, generator=generator)


def pair(count: int, generator: torch.Generator | None = None) -> Pair:
    """What is observed (the first coordinate, roughly) and what is true, as images of one pixel."""
    x = drawn(count, generator)
    seen = (0.5 * x[:, :1] + 0.03 * torch.randn(count, 1, generator=generator)).clamp(-1, 1)
    return Pair(seen.expand(-1, 3)[..., None, None], x[..., None, None])


def exact_clean(z_t: Tensor, abar: Tensor) -> Tensor:
    """E[z | z_t] (B, 2) under the mixture, abar (B, 1)."""
    variance = abar * SPREAD**2 + 1 - abar
    distance = z_t[:, None] - abar.sqrt()[:, None] * MODES
    share = (-distance.square().sum(-1) / (2 * variance)).softmax(-1)[..., None]
    each = MODES + abar.sqrt()[:, None] * SPREAD**2 / variance[:, None] * distance
    return (share * each).sum(1)


class Perceptron(nn.Module):
    def __init__(self, inputs: int, width: int = 96) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2),
        )

    def forward(self, *parts: Tensor) -> Tensor:
        return self.layers(torch.cat(parts, 1))


class ToyPrior(nn.Module):
    """What the objective asks of a prior; with no role acting, the exact score."""

    noised, clean = DiffusionPrior.noised, DiffusionPrior.clean
    latent, factor = 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("abar", Schedule().remaining().float())
        self.generator, self.fake = Perceptron(5), Perceptron(5)
        self.role: str | None = None
        self.text = SimpleNamespace(embed=lambda texts: torch.zeros(len(texts), 1, 1))

    def add_role(self, role: str, rank: int, *, full: bool) -> None:
        pass

    def where(self) -> torch.device:
        return torch.device("cpu")

    def parameters_of(self, role: str) -> list[nn.Parameter]:
        return list((self.generator if role == "generator" else self.fake).parameters())

    @contextmanager
    def using(self, role: str | None, parts: object = None) -> Iterator[None]:
        before, self.role = self.role, role
        yield
        self.role = before

    def epsilon(self, z_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        z, abar = z_t[..., 0, 0], self.abar[t][:, None]
        if self.role == "fake":
            level = (abar / (1 - abar)).log() / 5
            # The network corrects the score of a unit Gaussian, so that it begins near the truth.
            found = z * (1 - abar).sqrt() + self.fake(z, level, abar.sqrt(), (1 - abar).sqrt())
        else:
            found = (z - abar.sqrt() * exact_clean(z, abar)) / (1 - abar).sqrt()
        return found[..., None, None]


class ToyModel(nn.Module):
    """The generator: an observation and noise to a point."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = ToyPrior()
        self.config = SimpleNamespace(scale=1, rank_unet=4)

    def restore(self, lr_up: Tensor, noise: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        z = self.prior.generator(lr_up[:, :3, 0, 0], noise[..., 0, 0])[..., None, None]
        return z, z


def trained(mse: float, vsd: float, steps: int = 1200, batch: int = 256) -> ToyModel:
    """A generator trained with these weights of the two terms."""
    torch.manual_seed(0)
    config = OsediffTraining(mse=mse, vsd=vsd, perceptual=0.0, guidance=1.0, upsampling="bicubic")
    objective = ScoreDistillation(config, ToyModel(), None)
    moves = {
        "model": OptimizerConfig(lr=1e-3, decay_to=0.05),
        "fake": OptimizerConfig(lr=2e-3, decay_to=0.2),
    }
    settings = TrainConfig(
        steps=steps,
        batch=batch,
        optimizers={name: moves[name] for name in objective.groups()},
        ema=None,
        precision="float32",
        channels_last=False,
    )
    training = Training(objective, settings)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        training.advance([pair(batch, generator)])
    return objective.model


@torch.no_grad()
def made(model: ToyModel, count: int = 2000) -> tuple[Tensor, Tensor]:
    """What a generator makes (count, 2) of observations, and the true points."""
    generator = torch.Generator().manual_seed(2)
    given = pair(count, generator)
    z, _ = model.restore(given.lr, torch.randn(count, 2, 1, 1, generator=generator), torch.zeros(()))
    return z[..., 0, 0], given.hr[..., 0, 0]


def near_a_mode(points: Tensor, within: float = 3 * SPREAD) -> float:
    """Share of points within three deviations of a mode."""
    return float(((points[:, None] - MODES).norm(dim=-1).amin(1) < within).float().mean())
