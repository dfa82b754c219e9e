"""OFTSR against its closed form (section 9): both stages, and what goes wrong without each part."""

import math

import pytest
import torch

from gaussian_toy import (
    LR,
    MU,
    SIGMA,
    START,
    TAU,
    distilled,
    early_gain,
    exact_velocity,
    gains,
    outputs,
    spread,
    student_gain,
    student_of,
    trained_teacher,
)
from onestep.core.solver import euler, rk2

TIMES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
EXACT = [student_gain(t) for t in TIMES]


@pytest.fixture(scope="module")
def teacher():
    return trained_teacher()


@pytest.fixture(scope="module")
def students(teacher):
    return {distance: distilled(teacher, distance=distance) for distance in ("l1", "l2")}


def test_the_gains_of_the_specification():
    assert EXACT[1:] == pytest.approx((0.110, 0.303, 0.618, 0.847, 0.946, 0.995, 1.0), abs=6e-4)
    early = [early_gain(t) for t in TIMES[1:]]
    assert early == pytest.approx((0.217, 0.555, 0.894, 0.986, 0.998, 1.0, 1.0), abs=6e-4)
    assert early_gain(0) == pytest.approx(0)


@pytest.mark.parametrize(
    ("ratio", "dt", "expected"),
    [(None, 0.05, 0.928), (1.0, 0.05, 0.999), (0.5, 0.05, 1.0), (None, 0.1, 0.862)],
)
def test_end_spread_of_a_chain_over_the_exact_teacher(ratio, dt, expected):
    x0 = torch.tensor([START - SIGMA, START + SIGMA], dtype=torch.float64).reshape(2, 1, 1, 1)

    def velocity(x, t):
        return exact_velocity(x, torch.full((2,), t, dtype=torch.float64))

    steps = round(1 / dt)
    end = euler(velocity, x0, 0, 1, steps).x if ratio is None else rk2(velocity, x0, 0, 1, steps, ratio).x
    assert float(end[1] - end[0]) / 2 / TAU == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_without_noise_any_number_of_evaluations_gives_the_conditional_mean(steps):
    x0 = torch.full((1, 1, 1, 1), LR, dtype=torch.float64)

    def velocity(x, t):
        return exact_velocity(x, torch.full((1,), t, dtype=torch.float64), sigma=0)

    assert euler(velocity, x0, 0, 1, steps).x.item() == pytest.approx(MU)
    assert rk2(velocity, x0, 0, 1, steps).x.item() == pytest.approx(MU)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_flow_matching_recovers_the_velocity(request, distance):
    field = (request.getfixturevalue("teacher") if distance == "l2" else trained_teacher("l1")).field
    noise = torch.randn(1000, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    lr = torch.full_like(noise, LR)
    for t in (0.05, 0.25, 0.5, 0.75, 0.95):
        x, time = (1 - t) * START + t * MU + spread(t) * noise, torch.full((1000,), t)
        with torch.no_grad():
            error = field.velocity(x, lr, lr, time) - exact_velocity(x, time)
        assert error.square().mean().sqrt().item() < 0.08 * TAU


def test_the_teacher_samples_the_posterior(teacher):
    noise = torch.randn(4096, 3, 1, 1, generator=torch.Generator().manual_seed(3))
    lr = torch.full_like(noise, LR)
    with torch.no_grad():
        out = teacher(lr, noise, teacher.condition(lr, teacher.Options(evaluations=16)))
    assert out.mean().item() == pytest.approx(MU, abs=0.03 * TAU)
    assert out.std().item() == pytest.approx(TAU, rel=0.05)


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_student_reaches_the_curve(students, distance):
    assert gains(students[distance], TIMES) == pytest.approx(EXACT, abs=0.02)


def test_psnr_falls_by_3_db_from_faithful_to_realistic(students):
    _, out = outputs(students["l2"], (0.0, 1.0), count=100_000)
    truth = MU + TAU * torch.randn(out[0].shape, generator=torch.Generator().manual_seed(4))
    faithful, realistic = ((one - truth).square().mean().item() for one in out)
    assert 10 * math.log10(realistic / faithful) == pytest.approx(3.01, abs=0.15)


def test_the_distance_to_the_posterior_falls_and_the_seed_matters_more_with_realism(students):
    times = (0.0, 0.25, 0.5, 0.75, 1.0)
    _, one = outputs(students["l2"], times, seed=1)
    _, other = outputs(students["l2"], times, seed=2)
    apart = (one - other).square().mean((1, 2, 3, 4)).sqrt() / math.sqrt(2) / TAU
    assert apart[0] < 0.02
    assert torch.all(apart.diff() > 0.1)
    assert apart[-1] == pytest.approx(1, abs=0.03)


def test_the_student_walks_the_trajectory_of_the_teacher(teacher, students):
    """x0 + t v(x0, t) is the point x_t; with the weights of the teacher it is far off (section 9, 14)."""
    times = (0.25, 0.5, 0.75, 1.0)

    def error(one):
        noise, out = outputs(one, times)
        x0 = START + SIGMA * noise
        off = [
            x0 + t * (out[i] - x0) - ((1 - t) * START + t * MU + spread(t) * noise)
            for i, t in enumerate(times)
        ]
        return torch.stack(off).square().mean((1, 2, 3, 4)).sqrt() / TAU

    trained, start = error(students["l2"]), error(student_of(teacher))
    assert torch.all(trained < 0.03)
    assert torch.all(start > 5 * trained)


def test_the_euler_rule_ends_short(teacher):
    student = distilled(teacher, steps=1000, distance="l2", solver="euler")
    assert 0.90 < gains(student, (1.0,))[0] < 0.955


def test_without_boundary_the_faithful_end_drifts(students):
    """From a student that is right: only the boundary term holds what the distillation never reaches."""
    assert gains(students["l1"], (0.0,))[0] == pytest.approx(0, abs=0.01)
    drifted = distilled(students["l1"], distance="l1", boundary=0.0)
    assert abs(gains(drifted, (0.0,))[0]) > 0.05


def test_a_large_align_weight_destroys_the_student(teacher):
    student = distilled(teacher, steps=1000, distance="l2", align=1.0)
    assert gains(student, (1.0,))[0] == pytest.approx(1.76, abs=0.1)
