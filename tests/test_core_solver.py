"""Solvers on equations with a known answer: order, where the stages stand, and honest counting."""

import math

import pytest
import torch

from onestep.core.errors import UsageError
from onestep.core.solver import RATIOS, euler, integrate, rk2, rk2_slope, rk45

START = torch.tensor([[[[1.0, -0.5]]]], dtype=torch.float64)


def swing(x, t):
    """dx/dt = x cos t, whose answer is x exp(sin t)."""
    return x * math.cos(t)


def error(solution, end):
    return float((solution.x - START * math.exp(math.sin(end))).abs().max())


def order(solve, end=1.5, steps=40):
    return math.log2(error(solve(steps), end) / error(solve(2 * steps), end))


def test_euler_is_of_first_order():
    assert order(lambda n: euler(swing, START, 0, 1.5, n)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("last_euler", [False, True])
@pytest.mark.parametrize("name", RATIOS)
def test_two_stages_are_of_second_order(name, last_euler):
    ratio = RATIOS[name]
    found = order(lambda n: rk2(swing, START, 0, 1.5, n, ratio, last_euler))
    assert found == pytest.approx(2, abs=0.1)


def test_the_ratios_are_those_of_the_names():
    assert [RATIOS[name] for name in ("heun", "midpoint", "ralston")] == pytest.approx([1, 0.5, 2 / 3])


@pytest.mark.parametrize("ratio", [1.0, 0.5, 2 / 3])
def test_the_slope_is_the_mean_slope_where_it_grows_linearly_in_time(ratio):
    slope = rk2_slope(lambda x, t: torch.full_like(x, 3 + 4 * t), START, 0.2, 0.1, ratio)
    torch.testing.assert_close(slope, torch.full_like(START, 3 + 4 * 0.25))


def test_the_slope_combines_the_stages_as_written():
    first, last = START.sin() + 0.2, (START + 2 / 3 * 0.1 * (START.sin() + 0.2)).sin() + 0.2 + 2 / 3 * 0.1
    expected = first + (last - first) / (2 * 2 / 3)
    torch.testing.assert_close(rk2_slope(lambda x, t: x.sin() + t, START, 0.2, 0.1, 2 / 3), expected)


@pytest.mark.parametrize(
    ("ratio", "last_euler", "expected"),
    [
        (1.0, False, [0.2, 0.4, 0.4, 0.6]),
        (0.5, False, [0.2, 0.3, 0.4, 0.5]),
        (2 / 3, False, [0.2, 1 / 3, 0.4, 0.4 + 2 / 15]),
        (0.5, True, [0.2, 0.3, 0.4]),
    ],
)
def test_where_the_stages_stand(ratio, last_euler, expected):
    times = []

    def velocity(x, t):
        times.append(t)
        return x

    solution = rk2(velocity, START, 0.2, 0.6, 2, ratio, last_euler)
    assert times == pytest.approx(expected)
    assert solution.nfe == len(times)


def test_the_last_interval_may_be_a_plain_euler_step():
    before = rk2(swing, START, 0, 0.8, 4, 0.5).x
    expected = before + 0.2 * swing(before, 0.8)
    torch.testing.assert_close(rk2(swing, START, 0, 1.0, 5, 0.5, last_euler=True).x, expected)


def counted(velocity):
    def count(x, t):
        count.calls += 1
        return velocity(x, t)

    count.calls = 0
    return count


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_rk45_counts_two_evaluations_and_six_per_attempt(tolerance):
    velocity = counted(swing)
    solution = rk45(velocity, START, 0, 1.5, tolerance, tolerance)
    assert solution.nfe == velocity.calls
    assert (solution.nfe - 2) % 6 == 0
    assert error(solution, 1.5) < 5 * tolerance


def test_rk45_shares_its_steps_within_a_batch():
    stiff = torch.tensor([1.0, 30.0]).reshape(2, 1, 1, 1)

    def velocity(rate):
        return lambda x, t: -rate * x

    alone = rk45(velocity(stiff[:1]), torch.ones(1, 1, 1, 1), 0, 1)
    both = rk45(velocity(stiff), torch.ones(2, 1, 1, 1), 0, 1)
    assert alone.nfe < both.nfe
    assert both.x.flatten().tolist() == pytest.approx([math.exp(-1), 0], abs=5e-3)


def test_rk45_calls_the_network_in_its_own_precision():
    kinds = set()

    def velocity(x, t):
        kinds.add((x.dtype, x.shape, type(t)))
        return -x

    solution = rk45(velocity, torch.ones(2, 3, 4, 5), 0, 1)
    assert {(dtype, shape) for dtype, shape, _ in kinds} == {(torch.float32, (2, 3, 4, 5))}
    assert solution.x.dtype == torch.float32
    assert solution.x.shape == (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("solver", "budget", "made"),
    [("euler", 7, 7), ("midpoint", 8, 8), ("heun", 9, 8), ("ralston", 2, 2), ("euler", 1, 1)],
)
def test_a_budget_is_never_exceeded(solver, budget, made):
    velocity = counted(swing)
    assert integrate(velocity, START, 0, 1, solver, budget).nfe == velocity.calls == made


def test_solvers_by_name_are_the_solvers():
    assert torch.equal(integrate(swing, START, 0, 1, "euler", 6).x, euler(swing, START, 0, 1, 6).x)
    for name, ratio in RATIOS.items():
        assert torch.equal(integrate(swing, START, 0, 1, name, 6).x, rk2(swing, START, 0, 1, 3, ratio).x)
    assert torch.equal(integrate(swing, START, 0, 1, "rk45", 0).x, rk45(swing, START, 0, 1).x)


@pytest.mark.parametrize(("solver", "budget"), [("midpoint", 1), ("heun", 0), ("euler", 0), ("euler", -3)])
def test_too_small_a_budget_is_refused(solver, budget):
    with pytest.raises(UsageError, match=f"evaluations {budget} is too few: {solver} needs at least"):
        integrate(swing, START, 0, 1, solver, budget)
