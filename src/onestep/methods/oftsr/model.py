"""OFTSR, the models: a conditional flow teacher, and a student whose one step lands on its trajectory.

Paper: "One-Step Flow for Image Super-Resolution with Tunable Fidelity-Realism Trade-offs" (arXiv 2412.09465).
Inside this file time is the paper's: t = 0 is the LR end, t = 1 the HR end, velocities point to HR. At its
border (``FlowField.house_velocity``) t_house = 1 - t and v_house = -v. Networks always receive 999 t.

    x0 = sqrt(1 - sigma^2) x_LR + sigma e,  x_t = (1 - t) x0 + t x1             (start and path)
    teacher: E |v([x_t; x_LR], t) - (x1 - x0)|                                   (flow matching)
    student: X(t) = x0 + t v([x0; x_LR], t) follows the teacher's ODE in t       (distillation)

``realism`` is the student's time t in one network: t -> 0 gives the conditional mean, t -> 1 a sample.
Deviations from the paper and the official code: docs/methods/oftsr.md.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.core.contract import Condition, OneStepModel, Traits
from onestep.core.errors import UsageError
from onestep.core.interpolant import source_vp
from onestep.core.solver import SolverName, check_budget, integrate
from onestep.networks.compact import CompactConfig, CompactFlow
from onestep.networks.unet import UNet, UNetConfig

_log = logging.getLogger("onestep")

EPS = 1e-3
"""Where the time range of flow and one-step inference begins (official code; section 1.1)."""


@dataclass(frozen=True)
class OftsrConfig:
    """Network and source of a flow; teacher and student have the same."""

    network: CompactConfig | UNetConfig = field(default_factory=CompactConfig)
    scale: int = 4
    sigma: float = 0.2
    """sigma_p of the paper: share of noise in the source."""
    up: Literal["bicubic", "replicate"] = "bicubic"
    """H^T: antialiased bicubic (torch), or pixel replication, the partner of average pooling."""
    most_realistic: float = 1.0
    """The student's time at realism 1; 0.99 for converted official students."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        Raises:
            UsageError: One line that names the field.
        """
        if not 0 <= self.sigma <= 1:
            raise UsageError(f"sigma={self.sigma:g}: the share of noise must be from 0 to 1")
        if self.scale < 1:
            raise UsageError(f"scale={self.scale}: must be at least 1")
        if not 0 < self.most_realistic <= 1:
            raise UsageError(f"most_realistic={self.most_realistic:g}: must be above 0 and at most 1")


@dataclass(frozen=True)
class StudentConfig(OftsrConfig):
    """The one-step student (method "oftsr")."""

    def build(self) -> "Student":
        """A student with fresh weights."""
        return Student(self)


@dataclass(frozen=True)
class TeacherConfig(OftsrConfig):
    """The multi-step teacher (method "oftsr-teacher")."""

    def build(self) -> "Teacher":
        """A teacher with fresh weights."""
        return Teacher(self)


@dataclass(frozen=True)
class StudentOptions:
    """Knobs of the student."""

    realism: float | Tensor = 1.0
    """0 faithful .. 1 realistic; one value, (B,) values, or a map (B, 1, h, w) at LR resolution."""


@dataclass(frozen=True)
class TeacherOptions:
    """Knobs of the teacher."""

    evaluations: int = 32
    """Network evaluations (RK45 chooses its own number)."""
    solver: SolverName = "midpoint"

    def __post_init__(self) -> None:
        """Refuse a budget that is below one step.

        Raises:
            UsageError: One line that says how many evaluations the solver needs.
        """
        check_budget(self.solver, self.evaluations)


class FlowField(nn.Module):
    """The velocity field v([x; x_LR], t) over either network, and the source it starts from."""

    def __init__(self, config: OftsrConfig) -> None:
        super().__init__()
        self.config = config
        if isinstance(config.network, CompactConfig):
            self.net: CompactFlow | UNet = CompactFlow(config.network, config.scale)
        else:
            self.net = UNet(config.network)

    @property
    def traits(self) -> Traits:
        """What the upscaler must know; with these overlaps, tiles stay within a grey level of the whole."""
        network, scale = self.config.network, self.config.scale
        if isinstance(network, CompactConfig):
            radius = 2 * (network.trunk + network.head) + 2
            return Traits(scale, tile=256, overlap=min(radius + 6, 64))
        multiple = network.multiple_of // math.gcd(network.multiple_of, scale)
        return Traits(scale, multiple_of=multiple, minimum=256 // scale, tile=64, half=False)

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """Noise lives on the HR grid: (B, 3, h * scale, w * scale)."""
        return torch.Size((lr[0], 3, lr[2] * self.config.scale, lr[3] * self.config.scale))

    def lr_up(self, lr: Tensor) -> Tensor:
        """H^T: the LR image (B, 3, h, w) at HR size (section 5.1)."""
        size = (lr.shape[-2] * self.config.scale, lr.shape[-1] * self.config.scale)
        if self.config.up == "replicate":
            return F.interpolate(lr, size, mode="nearest")
        return F.interpolate(lr, size, mode="bicubic", antialias=True)

    def start(self, lr_up: Tensor, noise: Tensor) -> Tensor:
        """x0, the source at t = 0; the condition stays clean (section 1.1)."""
        return source_vp(lr_up, noise, self.config.sigma)

    def prepare(self, x: Tensor, lr_up: Tensor, lr: Tensor) -> Any:
        """All of the velocity at state x that does not depend on time (for the guided U-Net: nothing)."""
        if isinstance(self.net, CompactFlow):
            return self.net.prepare(x, lr_up, lr)
        return torch.cat([x, lr_up], 1)

    def finish(self, prepared: Any, t: Tensor) -> Tensor:
        """The velocity (B, 3, H, W) at times t (B,) or, for the compact network, a map (B, 1, h, w).

        Raises:
            UsageError: A map of times for a network that takes one time per picture.
        """
        if isinstance(self.net, CompactFlow):
            return self.net.finish(prepared, 999 * (t if t.ndim == 4 else t.reshape(-1, 1, 1, 1)))
        if t.ndim == 4:
            if t.shape[-2:] != (1, 1):
                raise UsageError("this network takes one realism per picture, not a map; give one value")
            t = t.flatten()
        return self.net(prepared, 999 * t.expand(len(prepared)))[:, :3].float()

    def velocity(self, x: Tensor, lr_up: Tensor, lr: Tensor, t: Tensor) -> Tensor:
        """v([x; x_LR], t) in the paper's sign and time."""
        return self.finish(self.prepare(x, lr_up, lr), t)

    def house_velocity(self, x: Tensor, lr: Tensor, t: Tensor) -> Tensor:
        """dx/dt_house at house time t (0 clean, 1 source), for ``core.interpolant.Straight``."""
        return -self.velocity(x, self.lr_up(lr), lr, 1 - t)


class Student(OneStepModel):
    """One step: x0 + (1 - eps) v([x0; x_LR], realism) (section 3.5)."""

    Options = StudentOptions

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.field = FlowField(config)
        self.traits = self.field.traits

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """(B, 3, H, W)."""
        return self.field.noise_shape(lr)

    def condition(self, lr: Tensor, options: StudentOptions) -> Condition:
        """{"t": (B, 1, 1, 1) or a map (B, 1, h, w)}: the student's time."""
        t = torch.as_tensor(options.realism, dtype=torch.float32, device=lr.device)
        if t.ndim < 4:
            t = t.reshape(-1, 1, 1, 1).expand(len(lr), 1, 1, 1)
        return {"t": t * self.config.most_realistic}

    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(B, 3, h, w), (B, 3, H, W) -> (B, 3, H, W), all in [-1, 1]; not clipped."""
        return next(self.sweep(lr, noise, [condition]))

    def sweep(self, lr: Tensor, noise: Tensor, conditions: Iterable[Condition]) -> Iterator[Tensor]:
        """Several realisms of the same picture and noise; the time-independent part is computed once."""
        lr_up = self.field.lr_up(lr)
        x0 = self.field.start(lr_up, noise)
        prepared = self.field.prepare(x0, lr_up, lr)
        for condition in conditions:
            yield torch.add(x0, self.field.finish(prepared, condition["t"]), alpha=1 - EPS)


class Teacher(OneStepModel):
    """The flow itself: integrates from x0, placed at t = eps, to t = 1 in many evaluations (section 2)."""

    Options = TeacherOptions

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.field = FlowField(config)
        self.traits = self.field.traits

    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """(B, 3, H, W)."""
        return self.field.noise_shape(lr)

    def condition(self, lr: Tensor, options: TeacherOptions) -> Condition:
        """Solver and budget as tensors (1,)."""
        solver = get_args(SolverName).index(options.solver)
        return {"solver": torch.tensor([solver]), "evaluations": torch.tensor([options.evaluations])}

    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """(B, 3, h, w), (B, 3, H, W) -> (B, 3, H, W), all in [-1, 1]; not clipped."""
        lr_up = self.field.lr_up(lr)

        def velocity(x: Tensor, t: float) -> Tensor:
            return self.field.velocity(x, lr_up, lr, x.new_full((len(x),), t))

        solver: SolverName = get_args(SolverName)[int(condition["solver"])]
        budget = int(condition["evaluations"])
        solution = integrate(velocity, self.field.start(lr_up, noise), EPS, 1.0, solver, budget)
        _log.info("%s: %d network evaluations", solver, solution.nfe)
        return solution.x
