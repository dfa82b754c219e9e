"""The closed form of OFTSR (section 9) and a network small enough to train on it in seconds.

Every pixel is its own Gaussian problem: x0 = a + sigma e with a = sqrt(1 - sigma^2) c, and x1 ~ N(mu, tau^2)
independent of x0. On a trajectory x_t = m_t + s_t e with m_t = (1 - t) a + t mu and
s_t^2 = (1 - t)^2 sigma^2 + t^2 tau^2; the student's optimum answers mu + k(t) e.
"""

import math

import torch
from torch import Tensor, nn

from onestep.core.contract import Objective, Pair
from onestep.methods.oftsr import (
    DistilConfig,
    Distillation,
    FlowConfig,
    FlowMatching,
    Student,
    StudentConfig,
    Teacher,
    TeacherConfig,
)
from onestep.networks.unet import time_embedding

SIGMA, TAU, LR, MU = 0.1, 0.2, 0.5, 0.2
START = math.sqrt(1 - SIGMA**2) * LR


def spread(t: float) -> float:
    """s_t, the standard deviation on a trajectory."""
    return math.hypot((1 - t) * SIGMA, t * TAU)


def student_gain(t: float) -> float:
    """k(t) / tau: how much of the noise the optimal student answers with."""
    return (SIGMA + (spread(t) - SIGMA) / t) / TAU if t else 0.0


def early_gain(t: float) -> float:
    """k_T(t) / tau: the same for the teacher's early estimate x_t + (1 - t) v, from its own trajectory."""
    slope = (t * TAU**2 - (1 - t) * SIGMA**2) / spread(t)
    return (spread(t) + (1 - t) * slope) / TAU


def exact_velocity(x: Tensor, t: Tensor, sigma: float = SIGMA) -> Tensor:
    """The flow of the toy at x (B, C, H, W) and times t (B,)."""
    t = t.reshape(-1, 1, 1, 1)
    start = math.sqrt(1 - sigma**2) * LR
    variance = ((1 - t) ** 2 * sigma**2 + t**2 * TAU**2).clamp_min(1e-12)
    gain = (t * TAU**2 - (1 - t) * sigma**2) / variance
    return (MU - start) + gain * (x - (1 - t) * start - t * MU)


class ExactField(nn.Module):
    def velocity(self, x: Tensor, lr_up: Tensor, lr: Tensor, t: Tensor) -> Tensor:
        return exact_velocity(x, t)


class ExactTeacher(nn.Module):
    """What ``Distillation`` needs of a teacher, in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.field = ExactField()


class PixelNet(nn.Module):
    """Stands in for the guided network: an offset and a gain on x - x_LR, both from the time alone."""

    def __init__(self, features: int = 16, width: int = 32) -> None:
        super().__init__()
        self.features = features
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, inputs: Tensor, time: Tensor) -> Tensor:
        """([x; x_LR] (B, 6, H, W), 999 t (B,)) -> (B, 3, H, W)."""
        x, lr_up = inputs.chunk(2, 1)
        offset, gain = self.layers(time_embedding(time, self.features))[:, :, None, None].chunk(2, 1)
        return 0.3 * offset + gain * (x - lr_up)


def pixels(count: int) -> Pair:
    """A batch of the toy: images of one pixel."""
    return Pair(torch.full((count, 3, 1, 1), LR), MU + TAU * torch.randn(count, 3, 1, 1))


def optimise(objective: Objective, steps: int, count: int) -> None:
    """Train by Adam, the learning rate falling to 0 by half a cosine."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(objective.model.parameters(), lr=5e-3, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        for loss in objective.losses(pixels(count), step):
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            schedule.step()


def trained_teacher(distance: str = "l2") -> Teacher:
    """Stage 1 on sampled toy data."""
    torch.manual_seed(0)
    config = FlowConfig(TeacherConfig(scale=1, sigma=SIGMA), distance=distance)
    teacher = config.model.build()
    teacher.field.net = PixelNet()
    optimise(FlowMatching(config, teacher), steps=1000, count=1024)
    return teacher


def student_of(start: Teacher | Student) -> Student:
    """A student with the weights of a teacher, or of another student."""
    student = StudentConfig(scale=1, sigma=SIGMA).build()
    student.field.net = PixelNet()
    student.load_state_dict(start.state_dict())
    return student


def distilled(start: Teacher | Student, steps: int = 2000, **settings) -> Student:
    """Stage 2 along the exact flow; settings are those of ``DistilConfig``."""
    student = student_of(start)
    optimise(Distillation(DistilConfig(**settings), ExactTeacher(), student), steps, count=512)
    return student


@torch.no_grad()
def outputs(student: Student, times, count: int = 4096, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Noise (count, 3, 1, 1), and the student's answer to it at each time (T, count, 3, 1, 1)."""
    noise = torch.randn(count, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    lr = torch.full_like(noise, LR)
    conditions = [student.condition(lr, student.Options(realism=float(t))) for t in times]
    return noise, torch.stack(list(student.sweep(lr, noise, conditions)))


def gains(student: Student, times) -> list[float]:
    """k(t) / tau as reached: the slope of (output - mu) on the noise."""
    noise, out = outputs(student, times)
    return [float(((one - MU) * noise).mean() / noise.square().mean() / TAU) for one in out]
