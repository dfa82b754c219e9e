"""CTMSR, the training: consistency (CT), then distribution trajectory matching (DTM) on top of it.

Nothing is distilled from a diffusion model. In CT the target of a level is the network's own answer, without
gradient, at the level below on the same trajectory; at level 0 that is the true image. In DTM a frozen
snapshot of the network itself says where noised results and noised true images end; the difference tells the
network where to go. Sections are those of the specification told in docs/methods/ctmsr.md.
"""

import copy
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from onestep import checkpoint
from onestep.core.config import at_least, from_dict
from onestep.core.contract import Loss, Objective, OneStepModel, Pair
from onestep.core.errors import UsageError
from onestep.methods.ctmsr.model import Ctmsr, CtmsrConfig, levels, q_sample
from onestep.networks.lpips import Lpips


@dataclass(frozen=True)
class ConsistencyConfig:
    """Training of the consistency function; the defaults are the released single run's (section 3.3)."""

    model: CtmsrConfig = field(default_factory=CtmsrConfig)
    start: str = ""
    """Release file that the model, and the snapshot, start from; empty: fresh weights."""
    intervals: tuple[int, int] = (4, 3)
    """Intervals between levels at the first and at the last step (s0, s1)."""
    ct_steps: int = 500_000
    """Steps of consistency training alone."""
    dtm_steps: int = 2_000
    """Steps after them with distribution trajectory matching too."""
    target: Literal["train", "eval"] = "train"
    """Whether the target has dropout of its own, as in the official code, or none."""
    draw: Literal["batch", "image"] = "batch"
    """Whether a level is drawn for all images together, as in the official code, or for each."""
    perceptual_net: Literal["squeeze", "alex", "vgg", "none"] = "vgg"
    """Feature network of LPIPS; "none" (ours): the squared error in its place, which needs no weights."""
    perceptual_shift: int = 0
    """Ours: up to so many rows and columns are cut off, at random, before LPIPS looks at two images; the
    strides of its network leave blind spots on a grid, where a small model learns to hide patterns."""
    dtm_intervals: int = 3
    """M: the range of DTM's levels is a share of M + 1."""
    dtm_range: tuple[float, float] = (0.1, 0.5)
    """Levels max(1, int(low (M + 1))) to min(M + 1, int(high (M + 1))) - 1: the released numbers leave 1."""
    dtm_weight: Literal["error", "simple"] = "error"
    """w: one over the mean absolute error of the result, or 1."""
    dtm_guard: float = 1e-4
    """Ours: that error counts as at least this; 0 divides by it as it is."""
    dtm_gain: float = 1.6
    refresh: int = 1_000
    """Steps between two snapshots of the raw weights."""

    def __post_init__(self) -> None:
        """Refuse what cannot train.

        Raises:
            UsageError: One line that names the field.
        """
        at_least(self, ("ct_steps", "dtm_steps", "perceptual_shift", "dtm_guard"), 0, prefix="objective.")
        at_least(self, ("dtm_intervals", "refresh"), prefix="objective.")
        if min(self.intervals) < 1:
            raise UsageError(f"objective.intervals={list(self.intervals)}: must be at least 1")
        if self.dtm_steps:
            low, high = self.dtm_levels
            if low >= high or high - 1 > min(self.intervals):
                raise UsageError(
                    f"objective.dtm_range={list(self.dtm_range)}: leaves levels {low} to {high - 1}; "
                    f"there are 1 to {min(self.intervals)}"
                )

    @property
    def dtm_levels(self) -> tuple[int, int]:
        """First level of DTM, and the one after the last (section 3.2)."""
        count = self.dtm_intervals + 1
        low, high = self.dtm_range
        return max(1, int(low * count)), min(count, int(high * count))

    def build(self) -> "ConsistencyTrajectory":
        """The objective.

        Raises:
            UsageError: DTM from the first step on without weights to start from.
            InputError: The release file, or the weights of LPIPS, cannot be had.
        """
        if self.dtm_steps and not self.ct_steps and not self.start:
            raise UsageError("DTM needs a trained model: --set objective.start=FILE (a release file)")
        if not self.start:
            return ConsistencyTrajectory(self, self.model.build())
        model = load_ctmsr(Path(self.start))
        dropout = self.model.network.dropout
        network = replace(model.config.network, dropout=dropout)
        with_dropout = replace(model.config, network=network).build()
        with_dropout.load_state_dict(model.state_dict())
        return ConsistencyTrajectory(self, with_dropout)


def load_ctmsr(path: Path) -> Ctmsr:
    """The model of a release file.

    Raises:
        UsageError: The file holds another method.
        InputError: The file cannot be read or its tensors do not fit.
    """
    tensors, card = checkpoint.read(path)
    if card.method != "ctmsr":
        raise UsageError(f"{path}: holds the method {card.method!r}; a release file of 'ctmsr' is needed")
    model = from_dict(CtmsrConfig, card.config).build()
    checkpoint.load(model, tensors, path)
    return model


def intervals_at(step: int, intervals: tuple[int, int], total: int) -> int:
    """N: how many intervals the levels have at a step, counted from 0, of so many (section 2.3)."""
    first, last = intervals
    each = max(total // (abs(first - last) + 1), 1)
    passed = min(step // each, abs(first - last))
    return first - passed if first >= last else first + passed


@contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Evaluation mode for the length of a ``with``; then each part is in the mode that it had."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each image (B, C, H, W): (B,)."""
    return (a - b).square().mean(dim=(1, 2, 3))


def charbonnier(a: Tensor, b: Tensor) -> Tensor:
    """Mean over everything of sqrt((a - b)^2 + 1e-12)."""
    return ((a - b).square() + 1e-12).sqrt().mean()


class ConsistencyTrajectory(Objective):
    """Both stages: CT in every step, DTM in the steps after ``ct_steps``."""

    def __init__(
        self,
        config: ConsistencyConfig,
        model: Ctmsr,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """Train a model.

        Args:
            config: How.
            model: What.
            perceptual: Distance (B,) of two images in [-1, 1]; None: what the config names.

        Raises:
            InputError: The weights of LPIPS cannot be had; the line says how to get them.
        """
        super().__init__()
        self.config = config
        self.model: Ctmsr = model  # pyright: ignore[reportIncompatibleVariableOverride]
        if perceptual is None and config.perceptual_net != "none":
            perceptual = Lpips.load(config.perceptual_net)
        self.perceptual = perceptual or squared_error
        self.snapshot = copy.deepcopy(model).eval().requires_grad_(False) if config.dtm_steps else None

    def train(self, mode: bool = True) -> Self:
        """The snapshot stays in evaluation mode."""
        super().train(mode)
        if self.snapshot is not None:
            self.snapshot.eval()
        return self

    def moving(self) -> Sequence[nn.Module]:
        """The snapshot: a resumed run needs the one it had."""
        return () if self.snapshot is None else (self.snapshot,)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """One group; target and snapshot are the model itself, now and earlier."""
        return {"model": list(self.model.parameters())}

    def begin(self, step: int, shipped: Callable[[], AbstractContextManager[OneStepModel]]) -> None:
        """Take the snapshot: of the average when DTM begins, of the raw weights every ``refresh`` steps."""
        if self.snapshot is None or step < self.config.ct_steps:
            return
        if step == self.config.ct_steps:
            with shipped() as model:
                self.snapshot.load_state_dict(model.state_dict())
        elif step % self.config.refresh == 0:
            self.snapshot.load_state_dict(self.model.state_dict())

    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        """One move: CT between two neighbouring levels (section 2.1), and DTM (section 3.2)."""
        config, x0 = self.config, pair.hr
        intervals = intervals_at(step, config.intervals, config.ct_steps + config.dtm_steps)
        sigma = levels(intervals, 0.0, self.model.config.sigma_max).to(x0.device)
        alpha = levels(intervals, 0.0, 1.0).to(x0.device)
        y = self.model.lr_up(pair.lr)
        drawn = torch.randint(intervals, (len(x0) if config.draw == "image" else 1,), device=x0.device)
        n = drawn.expand(len(x0))
        noise = torch.randn_like(x0)
        above = q_sample(x0, y, noise, alpha[n + 1], sigma[n + 1])
        below = q_sample(x0, y, noise, alpha[n], sigma[n])
        target = self.target(below, sigma[n], pair.lr, y)
        result = self.model.clean(above, sigma[n + 1], pair.lr, y)
        terms = {
            "lpips": 0.5 * self.distance(result, target).mean(),
            "charbonnier": 0.5 * charbonnier(result, target),
        }
        if self.snapshot is not None and step >= config.ct_steps:
            terms["dtm"] = self.matching(result, x0, y, pair.lr, alpha, sigma)
        yield Loss("model", terms)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS (B,) of two images, from a random corner on where the config asks for it."""
        if self.config.perceptual_shift:
            top, left = torch.randint(self.config.perceptual_shift + 1, (2,)).tolist()
            a, b = a[..., top:, left:], b[..., top:, left:]
        return self.perceptual(a, b)

    @torch.no_grad()
    def target(self, x: Tensor, sigma: Tensor, lr: Tensor, y: Tensor) -> Tensor:
        """Where the level below ends, by the weights of this very step; no gradient passes it.

        At level 0 that is the image itself (the boundary identity), so the network is not asked.
        """
        noisy = sigma > 0
        if not bool(noisy.any()):
            return x
        with nullcontext() if self.config.target == "train" else evaluating(self.model):
            if bool(noisy.all()):
                return self.model.clean(x, sigma, lr, y)
            ends = x.clone()
            ends[noisy] = self.model.clean(x[noisy], sigma[noisy], lr[noisy], y[noisy])
            return ends

    def matching(
        self, result: Tensor, x0: Tensor, y: Tensor, lr: Tensor, alpha: Tensor, sigma: Tensor
    ) -> Tensor:
        """L_DTM, a scalar: LPIPS from the result P to P - g, where g is what the snapshot says is wrong."""
        low, high = self.config.dtm_levels
        i = torch.randint(low, high, (len(x0),), device=x0.device)
        difference = self.discrepancy(result, x0, y, lr, alpha[i], sigma[i], torch.randn_like(x0))
        weight = self.weight(result, x0)
        pulled = result.detach() - difference
        return (0.5 * self.config.dtm_gain * weight * self.distance(result, pulled)).mean()

    @torch.no_grad()
    def discrepancy(
        self, result: Tensor, x0: Tensor, y: Tensor, lr: Tensor, alpha: Tensor, sigma: Tensor, noise: Tensor
    ) -> Tensor:
        """g: end point of the noised result minus that of the noised true image, by the snapshot."""
        assert self.snapshot is not None
        fake, real = (q_sample(image, y, noise, alpha, sigma) for image in (result.detach(), x0))
        ends = self.snapshot.clean(
            torch.cat([fake, real]), sigma.repeat(2), lr.repeat(2, 1, 1, 1), y.repeat(2, 1, 1, 1)
        )
        return ends[: len(x0)] - ends[len(x0) :]

    @torch.no_grad()
    def weight(self, result: Tensor, x0: Tensor) -> Tensor:
        """W (B,): one over the mean absolute error of each result, or ones."""
        if self.config.dtm_weight == "simple":
            return x0.new_ones(len(x0))
        error = (result - x0).abs().mean(dim=(1, 2, 3))
        return 1 / error.clamp(min=self.config.dtm_guard)
