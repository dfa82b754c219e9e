"""The analytic toy of the OFTSR specification (section 9): every pixel is an independent Gaussian problem.

x0 = a + sigma e, a = sqrt(1 - sigma^2) c; x1 ~ N(mu, tau^2) independent of x0. The student's optimum maps e to
mu + k(t) e with k(t) = sigma + (s_t - sigma) / t, s_t^2 = (1 - t)^2 sigma^2 + t^2 tau^2.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from onestep.core.contract import Objective, Pair
from onestep.core.solver import euler, rk2
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
from onestep.networks.compact import CompactConfig

SIGMA, TAU, C, MU = 0.1, 0.2, 0.5, 0.2
START = math.sqrt(1 - SIGMA**2) * C
TIMES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
NETWORK = CompactConfig(width=24, trunk=1, head=2, time_width=32)


def exact_velocity(x: Tensor, t: Tensor) -> Tensor:
    t = t.reshape(-1, 1, 1, 1)
    mean = (1 - t) * START + t * MU
    variance = (1 - t) ** 2 * SIGMA**2 + t**2 * TAU**2
    return (MU - START) + (t * TAU**2 - (1 - t) * SIGMA**2) / variance * (x - mean)


class ExactField(nn.Module):
    def velocity(self, x, lr_up, lr, t):
        return exact_velocity(x, t)


class ExactTeacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.field = ExactField()


def k(t: float) -> float:
    if t == 0:
        return 0.0
    s = math.sqrt((1 - t) ** 2 * SIGMA**2 + t**2 * TAU**2)
    return (SIGMA + (s - SIGMA) / t) / TAU


def batch(size: int) -> Pair:
    return Pair(torch.full((size, 3, 1, 1), C), MU + TAU * torch.randn(size, 3, 1, 1))


def optimise(objective: Objective, steps: int, size: int = 256) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(objective.model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        for loss in objective.losses(batch(size), step):
            optimizer.zero_grad()
            loss.total.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def curve(student: Student, times=TIMES) -> list[float]:
    """The slope of (output - mu) on e, over tau, at each time."""
    noise = torch.randn(4096, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    lr = torch.full((4096, 3, 1, 1), C)
    out = student.sweep(lr, noise, [{"t": torch.full((4096, 1, 1, 1), t)} for t in times])
    return [float(((y - MU) * noise).mean() / noise.square().mean() / TAU) for y in out]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    config = FlowConfig(TeacherConfig(NETWORK, scale=1, sigma=SIGMA), distance="l2")
    objective = config.build()
    optimise(objective, 700)
    return objective.model


def distilled(teacher: Teacher, steps: int = 800, **settings) -> Student:
    student = StudentConfig(NETWORK, scale=1, sigma=SIGMA).build()
    student.load_state_dict(teacher.state_dict())
    config = replace(DistilConfig(distance="l2"), **settings)
    optimise(Distillation(config, ExactTeacher(), student), steps)
    return student


def test_the_k_curve_of_the_specification():
    expected = (0.110, 0.303, 0.618, 0.847, 0.946, 0.995, 1.0)
    assert [k(t) for t in TIMES[1:]] == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("ratio", "dt", "expected"),
    [(None, 0.05, 0.928), (1.0, 0.05, 0.999), (0.5, 0.05, 1.0), (None, 0.1, 0.862)],
)
def test_exact_teacher_chain_spread(ratio, dt, expected):
    x0 = torch.tensor([START - SIGMA, START + SIGMA], dtype=torch.float64).reshape(2, 1, 1, 1)

    def velocity(x, t):
        return exact_velocity(x, torch.full((2,), t, dtype=torch.float64))

    steps = round(1 / dt)
    end = euler(velocity, x0, 0, 1, steps).x if ratio is None else rk2(velocity, x0, 0, 1, steps, ratio).x
    assert float(end[1] - end[0]) / 2 / TAU == pytest.approx(expected, abs=1e-3)


def test_flow_matching_recovers_the_velocity(teacher):
    x = MU + 0.15 * torch.randn(1000, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    lr = torch.full((1000, 3, 1, 1), C)
    for t in (0.25, 0.5, 0.75, 0.95):
        time = torch.full((1000,), t)
        error = teacher.field.velocity(x, lr, lr, time) - exact_velocity(x, time)
        assert float(error.square().mean().sqrt()) < 0.08 * TAU


def test_teacher_samples_the_posterior(teacher):
    noise = torch.randn(4096, 3, 1, 1, generator=torch.Generator().manual_seed(3))
    lr = torch.full((4096, 3, 1, 1), C)
    with torch.no_grad():
        out = teacher(lr, noise, teacher.condition(lr, teacher.Options(evaluations=16)))
    assert float(out.mean()) == pytest.approx(MU, abs=0.02)
    assert float(out.std()) == pytest.approx(TAU, rel=0.06)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_student_reaches_the_k_curve(teacher, distance):
    reached = curve(distilled(teacher, distance=distance))
    assert reached == pytest.approx([k(t) for t in TIMES], abs=0.02)


def test_psnr_falls_by_3_01_db_from_faithful_to_realistic(teacher):
    ends = curve(distilled(teacher), (0.0, 1.0))
    fall = 10 * math.log10((1 + ends[1] ** 2) / (1 + ends[0] ** 2))
    assert fall == pytest.approx(3.01, abs=0.15)


def test_euler_ends_short(teacher):
    end = curve(distilled(teacher, solver="euler"), (1.0,))[0]
    assert 0.90 < end < 0.955


def test_without_boundary_the_faithful_end_drifts(teacher):
    assert curve(distilled(teacher, boundary=0.0), (0.0,))[0] > 0.08


def test_large_align_destroys_the_student(teacher):
    assert curve(distilled(teacher, align=1.0), (1.0,))[0] > 1.3
