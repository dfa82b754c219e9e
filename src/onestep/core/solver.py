"""Integrate dx/dt = velocity(x, t) and say how many evaluations it took (NFE).

Source: section 2 of the OFTSR specification (samplers of the teacher).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from onestep.core.errors import UsageError

Velocity = Callable[[Tensor, float], Tensor]
"""(x (B, C, H, W), t) -> dx/dt, the same shape."""
SolverName = Literal["euler", "heun", "midpoint", "ralston", "rk45"]

RATIOS: dict[str, float] = {"heun": 1.0, "midpoint": 0.5, "ralston": 2 / 3}
"""Where the second stage of a two-stage Runge-Kutta step stands, as a share of the step."""


@dataclass(frozen=True)
class Solution:
    """The end point and the number of velocity evaluations."""

    x: Tensor
    nfe: int


def rk2_slope(velocity: Velocity, x: Tensor, t: float, dt: float, ratio: float) -> Tensor:
    """Mean velocity over [t, t + dt] by k1 + (k2 - k1) / (2 ratio), k2 taken at t + ratio dt."""
    first = velocity(x, t)
    second = velocity(x + ratio * dt * first, t + ratio * dt)
    return first + (second - first) / (2 * ratio)


def euler(velocity: Velocity, x: Tensor, start: float, end: float, steps: int) -> Solution:
    """Euler's method on a uniform grid; NFE = steps."""
    dt = (end - start) / steps
    for i in range(steps):
        x = x + dt * velocity(x, start + i * dt)
    return Solution(x, steps)


def rk2(
    velocity: Velocity,
    x: Tensor,
    start: float,
    end: float,
    steps: int,
    ratio: float = 0.5,
    last_euler: bool = False,
) -> Solution:
    """Two-stage Runge-Kutta (ratio 1 Heun, 1/2 midpoint, 2/3 Ralston) on a uniform grid.

    With ``last_euler`` the last interval is a plain Euler step, as in the official sampler (NFE 2 steps - 1).
    """
    dt, nfe = (end - start) / steps, 0
    for i in range(steps):
        t = start + i * dt
        if last_euler and i == steps - 1:
            x, nfe = x + dt * velocity(x, t), nfe + 1
        else:
            x, nfe = x + dt * rk2_slope(velocity, x, t, dt, ratio), nfe + 2
    return Solution(x, nfe)


def rk45(
    velocity: Velocity, x: Tensor, start: float, end: float, rtol: float = 1e-3, atol: float = 1e-3
) -> Solution:
    """Dormand-Prince with step control (SciPy); one error norm for the whole batch, so NFE depends on it."""
    from scipy.integrate import solve_ivp

    def flat(t: float, state: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(state).to(x).reshape(x.shape)
        return velocity(tensor, t).double().flatten().cpu().numpy()

    solution = solve_ivp(flat, (start, end), x.double().flatten().cpu().numpy(), rtol=rtol, atol=atol)
    return Solution(torch.from_numpy(solution.y[:, -1]).to(x).reshape(x.shape), int(solution.nfev))


def integrate(
    velocity: Velocity, x: Tensor, start: float, end: float, solver: SolverName, evaluations: int
) -> Solution:
    """Integrate with a solver by name and a budget of evaluations (RK45 chooses its own number).

    Raises:
        UsageError: if ``evaluations`` is below what one step of the solver needs.
    """
    check_budget(solver, evaluations)
    if solver == "rk45":
        return rk45(velocity, x, start, end)
    if solver == "euler":
        return euler(velocity, x, start, end, evaluations)
    return rk2(velocity, x, start, end, evaluations // 2, RATIOS[solver])


def check_budget(solver: SolverName, evaluations: int) -> None:
    """See that a solver can make at least one step of the evaluations it is given.

    Raises:
        UsageError: They are too few.
    """
    stages = {"rk45": evaluations, "euler": 1}.get(solver, 2)
    if evaluations < stages:
        raise UsageError(f"evaluations {evaluations} is too few: {solver} needs at least {stages}")
