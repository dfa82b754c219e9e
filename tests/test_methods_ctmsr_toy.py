"""Consistency training where its outcome is known: Gaussian and two-point worlds (sections 1.3 and 10)."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ctmsr_parts import PerLevel, gaussian, one_step, optimise, spread, squared, toy_objective
from onestep.core.contract import Pair
from onestep.core.solver import integrate
from onestep.methods.ctmsr import objectives
from onestep.methods.ctmsr.model import levels, preconditioning, q_sample


def correlation(a: float, b: float, s: float = 1.0) -> float:
    """Of two states of one trajectory at the times a and b."""
    together = (1 - a) * (1 - b) * s**2 + a * b
    return together / math.sqrt(((1 - a) ** 2 * s**2 + a**2) * ((1 - b) ** 2 * s**2 + b**2))


def ratio(intervals: int, s: float = 1.0) -> float:
    """Of the deviation of one-step results to s, at the fixed point of consistency training."""
    times = [n / intervals for n in range(intervals + 1)]
    return math.prod(correlation(a, b, s) for a, b in pairwise(times))


STATED = {(1, 1.0): 0, (2, 1.0): 0.5, (3, 1.0): 0.64, (4, 1.0): 0.72, (8, 1.0): 0.851, (16, 1.0): 0.923}
STATED |= {(64, 1.0): 0.980, (3, 0.5): 0.588, (4, 0.5): 0.681}


@pytest.mark.parametrize(("case", "value"), STATED.items())
def test_the_closed_form_gives_the_stated_ratios(case, value):
    assert ratio(*case) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize(
    ("intervals", "s", "stated"),
    [(1, 1.0, 0), (2, 1.0, 0.5), (3, 1.0, 0.64), (4, 1.0, 0.72), (3, 0.5, 0.294)],
)
def test_consistency_training_ends_at_the_fixed_point(intervals, s, stated):
    objective = toy_objective(PerLevel(intervals), intervals)
    optimise(objective, lambda count: gaussian(count, s), 400)
    assert spread(objective.model) == pytest.approx(stated, abs=0.012)


def test_absolute_errors_have_the_same_fixed_point():
    objective = toy_objective(PerLevel(3), 3, distance=squared(0.0), draw="image")
    optimise(objective, gaussian, 400)
    assert spread(objective.model) == pytest.approx(0.64, abs=0.012)


def test_unshared_noise_is_the_mean_again(monkeypatch):
    def unshared(x0: Tensor, y: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return q_sample(x0, y, torch.randn_like(noise), alpha, sigma)

    monkeypatch.setattr(objectives, "q_sample", unshared)
    objective = toy_objective(PerLevel(3), 3)
    optimise(objective, gaussian, 400)
    assert abs(spread(objective.model)) < 0.03 + ratio(1)


def test_a_gradient_through_the_target_shrinks_the_result(monkeypatch):
    def target(self, x: Tensor, sigma: Tensor, lr: Tensor, y: Tensor) -> Tensor:
        return self.model.clean(x, sigma, lr, y)

    monkeypatch.setattr(objectives.ConsistencyTrajectory, "target", target)
    objective = toy_objective(PerLevel(3), 3, draw="image")
    optimise(objective, gaussian, 2000, count=1024, lr=0.005)
    assert spread(objective.model) == pytest.approx(0.364, abs=0.012)


def test_matching_on_top_ends_at_its_own_fixed_point():
    """Gradient (P - T) + kappa g with kappa = 1: b_3 = 0.2963, where consistency alone has 0.64."""
    settings = {"ct_steps": 400, "dtm_steps": 400, "dtm_gain": 1.0, "dtm_weight": "simple", "refresh": 10_000}
    objective = toy_objective(PerLevel(3), 3, **settings)
    optimise(objective, gaussian, 400)
    assert spread(objective.model) == pytest.approx(0.64, abs=0.012)
    optimise(objective, gaussian, 400, first=400)
    c, b = 0.8, 1.0
    for k in (1, 2, 3):
        b = (b * correlation((k - 1) / 3, k / 3) + c * correlation(0, k / 3)) / (1 + c)
    assert b == pytest.approx(0.2963, abs=1e-4)
    assert spread(objective.model) == pytest.approx(0.2963, abs=0.012)


def test_matching_with_the_wrong_sign_widens_the_result(monkeypatch):
    right = objectives.ConsistencyTrajectory.discrepancy

    def wrong(self, *arguments) -> Tensor:
        return -right(self, *arguments)

    monkeypatch.setattr(objectives.ConsistencyTrajectory, "discrepancy", wrong)
    settings = {"ct_steps": 300, "dtm_steps": 150, "dtm_gain": 0.3, "dtm_weight": "simple", "refresh": 10_000}
    objective = toy_objective(PerLevel(3), 3, **settings)
    optimise(objective, gaussian, 300)
    optimise(objective, gaussian, 150, first=300)
    assert spread(objective.model) > 0.70


class Bins(nn.Module):
    """Stands in for the network: at each level a piecewise linear function of one pixel."""

    def __init__(self, intervals: int, knots: int = 81, reach: float = 4.0) -> None:
        super().__init__()
        self.told, self.reach = PerLevel(intervals), reach
        self.told.requires_grad_(False)
        self.values = nn.Parameter(torch.zeros(intervals + 1, knots))

    def forward(self, x: Tensor, c: Tensor, lr: Tensor) -> Tensor:
        """(B, 3, 1, 1) to the same shape."""
        place = (x.clamp(-self.reach, self.reach) / self.reach + 1) / 2 * (self.values.shape[1] - 1)
        below = place.floor().clamp(max=self.values.shape[1] - 2)
        row = self.told.level(c).reshape(-1, 1, 1, 1).expand(x.shape)
        left, right = (self.values[row, (below + step).long()] for step in (0, 1))
        return left + (place - below) * (right - left)


def recursion(intervals: int, points: int = 1201, reach: float = 6.0) -> float:
    """E|f_N(eps)| for x0 = ±1 and y = 0: f_k(x) = E[f_{k-1}(x_{k-1}) | x_k = x], by quadrature.

    Given x0 and x_k = (1 - t) x0 + t eps, eps and with it x_{k-1} is known.
    """
    grid = torch.linspace(-reach, reach, points, dtype=torch.float64)
    ends = grid.clone()
    times = levels(intervals, 0.0, 1.0).double()
    for before, now in pairwise(times):
        total, weight = torch.zeros_like(grid), torch.zeros_like(grid)
        for x0 in (-1.0, 1.0):
            noise = (grid - (1 - now) * x0) / now
            state = (1 - before) * x0 + before * noise
            density = (-noise.square() / 2).exp() + 1e-300
            place = ((state / reach + 1) / 2 * (points - 1)).clamp(0, points - 1.001)
            low = place.floor().long()
            total += density * torch.lerp(ends[low], ends[low + 1], place - low)
            weight += density
        ends = total / weight
    density = (-grid.square() / 2).exp()
    return float((ends.abs() * density).sum() / density.sum())


@pytest.mark.parametrize(
    ("intervals", "stated"),
    [(1, 0), (2, 0.365), (3, 0.400), (4, 0.509), (8, 0.658), (16, 0.757), (64, 0.879)],
)
def test_the_recursion_of_the_two_point_world_gives_the_stated_values(intervals, stated):
    assert recursion(intervals) == pytest.approx(stated, abs=2e-3)


@pytest.mark.parametrize(("intervals", "stated"), [(1, 0), (3, 0.400)])
def test_one_interval_is_regression_and_three_are_not(intervals, stated):
    """Between two equally likely pictures, one interval answers their mean."""

    def draw(count: int) -> Pair:
        return Pair(torch.zeros(count, 3, 1, 1), torch.randint(2, (count, 3, 1, 1)) * 2.0 - 1)

    objective = toy_objective(Bins(intervals), intervals, draw="image")
    optimise(objective, draw, 500, lr=0.08)
    assert float(one_step(objective.model)[1].abs().mean()) == pytest.approx(stated, abs=0.03)


M, S, Y = 0.3, 0.4, -0.2


def exact_end(x: Tensor, t: float) -> Tensor:
    """f for x0 | y ~ N(M, S²): where the trajectory through x ends."""
    return M + S * (x - (1 - t) * M - t * Y) / math.hypot((1 - t) * S, t)


def test_the_exact_map_is_where_the_probability_flow_ends():
    """dx/dt = (x - D) / t with the posterior mean D carries y + noise to M + S noise."""
    noise = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def slope(x: Tensor, t: float) -> Tensor:
        gain = (1 - t) * S**2 / ((1 - t) ** 2 * S**2 + t**2)
        return (x - M - gain * (x - (1 - t) * M - t * Y)) / t

    ended = integrate(slope, Y + noise, 1.0, 1e-6, "midpoint", 4000).x
    assert torch.allclose(ended, M + S * noise, atol=1e-4)
    assert torch.allclose(exact_end(Y + noise, 1.0), M + S * noise)
    for t in (0.3, 0.7):
        midway = integrate(slope, Y + noise, 1.0, t, "midpoint", 2000).x
        assert torch.allclose(exact_end(midway, t), M + S * noise, atol=1e-4)


def test_finer_levels_tend_to_the_exact_map():
    """For M = Y = 0 the exact map has ratio 1; the fixed points climb to it."""
    ratios = [ratio(n) for n in (1, 2, 4, 8, 16, 64, 1024)]
    assert ratios == sorted(ratios)
    assert ratios[-1] == pytest.approx(1, abs=2e-3)


def test_an_euler_step_with_the_true_image_lands_on_the_lower_level():
    """Why both states of a pair share their noise (section 1.3)."""
    torch.manual_seed(0)
    x0, y, noise = torch.randn(3, 4, 3, 8, 8, dtype=torch.float64)
    times = levels(4, 0.0, 1.0).double()
    for before, now in pairwise(times):
        x = q_sample(x0, y, noise, now, now)
        stepped = x + (before - now) * (x - x0) / now
        assert torch.allclose(stepped, q_sample(x0, y, noise, before, before))


def test_what_the_linear_stand_in_computes():
    """Its levels are told apart by c_noise alone, and its slope is c_skip + c_out w."""
    sigma = levels(4, 0.0, 1.0)
    c_skip, c_out, c_noise = preconditioning(sigma)
    net = PerLevel(4)
    assert net.level(c_noise).tolist() == [0, 1, 2, 3, 4]
    objective = toy_objective(net, 4)
    x = torch.ones(5, 3, 1, 1)
    out = objective.model.clean(x, sigma, x).detach()
    assert torch.allclose(out[:, 0, 0, 0], c_skip + 0.3 * c_out)
