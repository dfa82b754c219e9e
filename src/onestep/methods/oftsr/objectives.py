"""OFTSR, the training: flow matching for the teacher, then distillation along its trajectories.

Time is the paper's (0 = LR end, 1 = HR end); sections are those of the paper's specification as told in
docs/methods/oftsr.md.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from onestep import checkpoint
from onestep.core.config import from_dict
from onestep.core.contract import Loss, Objective, OneStepModel, Pair
from onestep.core.errors import UsageError
from onestep.core.interpolant import like
from onestep.core.solver import RATIOS
from onestep.methods.oftsr.model import EPS, OftsrConfig, Student, StudentConfig, Teacher, TeacherConfig
from onestep.networks.lpips import Lpips
from onestep.networks.unet import UNetConfig

Distance = Literal["l1", "l2"]


def distance(kind: Distance, a: Tensor, b: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Mean absolute or squared difference over everything (sections 1.2 and 3.2), weighted per image."""
    difference = a - b
    return (weight * (difference.abs() if kind == "l1" else difference.square())).mean()


@dataclass(frozen=True)
class FlowConfig:
    """Training of the teacher (section 1.2)."""

    model: TeacherConfig = field(default_factory=TeacherConfig)
    distance: Distance = "l1"
    perceptual: float = 0.0
    """Ours, not in the paper: weight of t * LPIPS between the clean estimate x_t + (1 - t) v and HR."""
    perceptual_net: Literal["squeeze", "alex", "vgg"] = "squeeze"

    def build(self) -> "FlowMatching":
        """The objective with fresh weights."""
        return FlowMatching(self, self.model.build())


class FlowMatching(Objective):
    """Stage 1: the teacher learns the velocity x1 - x0 of straight lines from noisy LR to HR."""

    def __init__(self, config: FlowConfig, model: Teacher) -> None:
        super().__init__()
        self.config = config
        self.model: Teacher = model  # pyright: ignore[reportIncompatibleVariableOverride]
        self.perceptual = Lpips.load(config.perceptual_net) if config.perceptual > 0 else None

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """One group."""
        return {"model": list(self.model.parameters())}

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        """One move: D(v([x_t; x_LR], t), x1 - x0), t ~ U[eps, 1]."""
        flow = self.model.field
        lr_up = flow.lr_up(pair.lr)
        x0 = flow.start(lr_up, torch.randn_like(pair.hr))
        t = torch.rand(len(x0), device=x0.device) * (1 - EPS) + EPS
        x_t = (1 - like(t, x0)) * x0 + like(t, x0) * pair.hr
        v = flow.velocity(x_t, lr_up, pair.lr, t)
        terms = {"flow": distance(self.config.distance, v, pair.hr - x0)}
        if self.perceptual is not None:
            clean = x_t + (1 - like(t, x0)) * v
            terms["lpips"] = self.config.perceptual * (t * self.perceptual(clean, pair.hr)).mean()
        yield Loss("model", terms)


def load_teacher(path: Path) -> Teacher:
    """The teacher of a release file.

    Raises:
        UsageError: if the file holds another method.
        InputError: if the file cannot be read or its tensors do not fit.
    """
    tensors, card = checkpoint.read(path)
    if card.method != "oftsr-teacher":
        raise UsageError(
            f"{path}: holds the method {card.method!r}; a release file of 'oftsr-teacher' is needed"
        )
    teacher = from_dict(TeacherConfig, card.config).build()
    checkpoint.load(teacher, tensors, path)
    return teacher


@dataclass(frozen=True)
class DistilConfig:
    """Training of the student (section 3); defaults are those of the released runs."""

    teacher: str = ""
    """Release file of the teacher; the student starts from its weights."""
    variant: Literal["trajectory", "pinn", "boot"] = "trajectory"
    """The paper's loss, or one of its ablations (section 3.2)."""
    solver: Literal["euler", "heun", "midpoint", "ralston"] = "midpoint"
    dt: float = 0.05
    t_range: tuple[float, float] = (0.01, 0.99)
    distance: Distance = "l1"
    align: float = 0.01
    boundary: float = 0.1
    clamp: bool = True
    """Whether s = t + dt stops at 1, where the teacher's time ends (section 3.3)."""
    align_slope: Literal["first", "mean"] = "first"
    """Which slope of the teacher the align term uses: the first stage, or the solver's mean."""
    align_gradient: bool = False
    """Whether the align term's gradient also goes through X(t) and the teacher's answer to it."""
    target: Literal["online", "average"] = "online"
    """Whose v(t) stands behind SG in the distillation term: the student as it is, or its moving average."""
    target_decay: float = 0.999
    """Decay of that average per step."""
    boundary_time: float = 0.0
    """The time of the boundary term: 0 as written, or eps, the earliest that the teacher was trained on."""
    dropout: float | None = None
    """The student's dropout (guided network); None keeps the teacher's."""
    perceptual: float = 0.0
    """Ours, not in the paper: weight of s^2 * LPIPS between the student's output x0 + v(s) and HR."""
    perceptual_net: Literal["squeeze", "alex", "vgg"] = "squeeze"

    def __post_init__(self) -> None:
        """Refuse what cannot train.

        Raises:
            UsageError: One line that names the field.
        """
        low, high = self.t_range
        if not 0 < self.dt <= 1:
            raise UsageError(f"objective.dt={self.dt:g}: must be above 0 and at most 1")
        if not 0 < low < high < 1:
            raise UsageError(f"objective.t_range={low:g},{high:g}: must rise strictly inside 0 to 1")
        if self.target == "average" and self.variant == "pinn":
            raise UsageError("objective.target=average: the variant pinn stops no gradient; leave it online")
        if not 0 <= self.target_decay < 1:
            raise UsageError(f"objective.target_decay={self.target_decay:g}: must be from 0 to below 1")

    def build(self) -> "Distillation":
        """The objective; its student starts from the teacher's weights.

        Raises:
            UsageError: if no teacher is named or its file does not fit.
        """
        if not self.teacher:
            raise UsageError("distillation needs a teacher: --set objective.teacher=FILE (a release file)")
        teacher = load_teacher(Path(self.teacher))
        config = StudentConfig(**{f.name: getattr(teacher.config, f.name) for f in fields(OftsrConfig)})
        if self.dropout is not None:
            if not isinstance(config.network, UNetConfig):
                raise UsageError("objective.dropout: this network has no dropout; leave it out")
            config = replace(config, network=replace(config.network, dropout=self.dropout))
        student = config.build()
        student.load_state_dict(teacher.state_dict())
        return Distillation(self, teacher, student)


class Distillation(Objective):
    """Stage 2: X(t) = x0 + t v_student(t) obeys the teacher's ODE for every t, from x0 alone."""

    def __init__(self, config: DistilConfig, teacher: Teacher, student: Student) -> None:
        super().__init__()
        self.config = config
        self.model: Student = student  # pyright: ignore[reportIncompatibleVariableOverride]
        self.teacher: Teacher = teacher.eval().requires_grad_(False)
        self.perceptual = Lpips.load(config.perceptual_net) if config.perceptual > 0 else None
        averaged = config.target == "average"
        self.average = copy.deepcopy(student).requires_grad_(False) if averaged else None

    def train(self, mode: bool = True) -> Self:
        """The teacher stays in evaluation mode (section 3.3), and so does an average."""
        super().train(mode)
        self.teacher.eval()
        if self.average is not None:
            self.average.eval()
        return self

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """The student; the teacher is frozen."""
        return {"model": list(self.model.parameters())}

    def moving(self) -> Sequence[nn.Module]:
        """The average behind SG, where there is one."""
        return () if self.average is None else (self.average,)

    @torch.no_grad()
    def begin(self, step: int, shipped: Callable[[], AbstractContextManager[OneStepModel]]) -> None:
        """Move the average behind SG towards the student."""
        if self.average is not None:
            for slow, live in zip(self.average.parameters(), self.model.parameters(), strict=True):
                slow.lerp_(live, 1 - self.config.target_decay)

    def slopes(self, x: Tensor, lr_up: Tensor, lr: Tensor, t: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's first-stage slope at (x, t) and its mean slope over [t, t + dt] (section 3.2)."""
        first = self.teacher.field.velocity(x, lr_up, lr, t)
        if self.config.solver == "euler":
            return first, first
        ratio = RATIOS[self.config.solver]
        second = self.teacher.field.velocity(x + ratio * like(dt, x) * first, lr_up, lr, t + ratio * dt)
        return first, first + (second - first) / (2 * ratio)

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        """One move: distil + align + boundary; HR enters through its LR image, and LPIPS where asked for."""
        flow, config = self.model.field, self.config
        lr_up = flow.lr_up(pair.lr)
        x0 = flow.start(lr_up, torch.randn_like(lr_up))
        low, high = config.t_range
        t = torch.rand(len(x0), device=x0.device) * (high - low) + low
        s = (t + config.dt).clamp(max=1) if config.clamp else t + config.dt
        earliest = torch.full_like(t, config.boundary_time)
        prepared = flow.prepare(x0, lr_up, pair.lr)
        v_t, v_s, v_0 = (flow.finish(prepared, time) for time in (t, s, earliest))
        t_, s_ = like(t, x0), like(s, x0)
        with torch.no_grad():
            held = v_t if self.average is None else self.average.field.velocity(x0, lr_up, pair.lr, t)
            first, mean = self.slopes(x0 + t_ * held, lr_up, pair.lr, t, s - t)
            start = self.teacher.field.velocity(x0, lr_up, pair.lr, earliest)
        along = first, mean
        if config.align_gradient or self.average is not None:
            with torch.set_grad_enabled(config.align_gradient):
                along = self.slopes(x0 + t_ * v_t, lr_up, pair.lr, t, s - t)
        slope = along[0] if config.align_slope == "first" else along[1]
        held = v_t if config.variant == "pinn" else held
        terms = {
            "distil": distil_term(config, x0, held, v_s, first, mean, t_, s_),
            "align": config.align * distance(config.distance, (1 - t_) * v_t, (1 - t_) * slope),
            "boundary": config.boundary * distance(config.distance, v_0, start),
        }
        if self.perceptual is not None:
            terms["lpips"] = config.perceptual * (s**2 * self.perceptual(x0 + v_s, pair.hr)).mean()
        yield Loss("model", terms)


def distil_term(
    config: DistilConfig,
    x0: Tensor,
    v_t: Tensor,
    v_s: Tensor,
    first: Tensor,
    mean: Tensor,
    t: Tensor,
    s: Tensor,
) -> Tensor:
    """The distillation term of section 3.2 for a pair of times t < s (B, 1, 1, 1); a scalar.

    ``first`` and ``mean`` are the teacher's slopes at X(t) and over [t, s]. Gradients reach ``v_s``, and in
    the PINN variant also ``v_t`` as in its equation.
    """
    dt = s - t
    if config.variant == "pinn":
        return distance(config.distance, (s / dt) * (v_s - v_t) + v_t, first)
    if config.variant == "boot":
        share = 1 - t * (1 - s) / (s * (1 - t))
        x_t, x_teacher = x0 + v_t.detach(), x0 + t * v_t.detach() + (1 - t) * first
        target = x_t + share * (x_teacher - x_t)
        power = 1 if config.distance == "l1" else 2
        return distance(config.distance, x0 + v_s, target, share**-power)
    return distance(config.distance, v_s, (v_t + (dt / s) * (mean - v_t)).detach())
