"""What a training recipe is made of: frozen dataclasses, one field per decision.

A recipe is a function that returns a :class:`Recipe` (``onestep.recipes``); a variant of a recipe calls
another one and changes it with ``dataclasses.replace``. There are no other configuration files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any, Literal, Protocol, runtime_checkable

from onestep.core.contract import Objective
from onestep.core.errors import UsageError
from onestep.data import DataConfig


@runtime_checkable
class ObjectiveConfig(Protocol):
    """A frozen dataclass beside an objective that knows how to build it."""

    def build(self) -> Objective:
        """The objective with fresh weights, or with those that its own settings name.

        The loop puts the objective into training mode: one with frozen helpers overrides ``train`` to keep
        them in evaluation mode. The model of the objective has an attribute ``config``: the frozen dataclass
        that the card of a release file records, from which the method's table builds the same model again.
        """
        ...


@runtime_checkable
class Outlined(Protocol):
    """A configuration that can also build its objective without numbers, on the device "meta"."""

    def outline(self) -> Objective:
        """The objective as :meth:`ObjectiveConfig.build` makes it, but with nothing loaded or drawn."""
        ...


def outlined(config: ObjectiveConfig) -> Objective:
    """The objective for counting: without numbers where its configuration can do that, else built."""
    return config.outline() if isinstance(config, Outlined) else config.build()


@dataclass(frozen=True)
class OptimizerConfig:
    """How the parameters of one group move."""

    lr: float = 1e-4
    kind: Literal["adam", "adamw", "adamw8bit"] = "adam"
    """adamw8bit keeps its averages in 8 bits (library bitsandbytes, extra ``eight-bit``)."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 0
    """Steps of linear warm-up: the learning rate of step n (from 0) is ``lr * (n + 1) / warmup``."""
    decay_to: float = 1.0
    """Fraction of ``lr`` left at the last step, reached by half a cosine after the warm-up; 1 = constant."""
    halve_at: tuple[int, ...] = ()
    """Steps, counted from 0, from which on the learning rate is halved."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: int
    batch: int
    """Images per step over all ranks and micro-batches."""
    micro: int | None = None
    """Images per forward on one device; ``batch / ranks`` when None."""
    optimizers: Mapping[str, OptimizerConfig] = field(default_factory=lambda: {"model": OptimizerConfig()})
    """One per group of the objective."""
    ema: float | None = 0.999
    """Decay of the average of group "model", which is what ships; None ships the parameters themselves."""
    clip: float | None = 1.0
    """Largest norm of a group's gradient; None never clips."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """bfloat16: the objective runs under autocast; parameters, losses and optimizers stay float32."""
    channels_last: bool = True
    seed: int = 0
    save_every: int = 1000
    """Steps between two states (what a killed run continues from)."""
    log_every: int = 50
    """Steps between two lines of the log."""

    def __post_init__(self) -> None:
        """Refuse numbers that count nothing.

        Raises:
            UsageError: One line that names the field.
        """
        for name, least in (("steps", 0), ("batch", 1), ("save_every", 1), ("log_every", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"train.{name}={getattr(self, name)}: must be at least {least}")
        if self.micro is not None and self.micro < 1:
            raise UsageError(f"train.micro={self.micro}: must be at least 1")


@dataclass(frozen=True)
class CheckConfig:
    """What is looked at while training: crops of held-out pictures, restored by the averaged model."""

    every: int = 5000
    """Steps between two checks; each also writes a release file. 0 never checks."""
    images: int = 8
    """Held-out pictures used, spread evenly over the sorted list."""
    crop: int = 256
    """HR side of the centre crop of each, in pixels; rounded down to what the model takes unpadded."""
    pictures: int = 4
    """How many of them are shown in TensorBoard."""
    metrics: tuple[str, ...] = ("psnr-y", "ssim-y")
    sweep: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """Option of the model -> values to check at; empty checks the default options."""


@dataclass(frozen=True)
class CardConfig:
    """What the card of the release file says beside what the loop knows."""

    license: str = "unstated"
    """Licence of the weights."""
    limits: tuple[str, ...] = ()
    attributions: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Option of the model -> the value that a user gets without asking."""
    half: bool = True
    """Store floating-point tensors as float16."""


@dataclass(frozen=True)
class Recipe:
    """A complete training run."""

    name: str
    method: str
    """Name in ``onestep.methods.METHODS``."""
    objective: ObjectiveConfig
    degradation: str
    """Name of a preset of ``onestep.degrade``."""
    data: DataConfig
    train: TrainConfig
    check: CheckConfig = CheckConfig()
    card: CardConfig = CardConfig()


def without_folders(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a recipe as a card shows them: of paths in data and objective, the last part alone.

    A release file travels; where its maker keeps pictures and teachers is nobody's business.
    """
    return {name: _names(value) if name in ("data", "objective") else value for name, value in values.items()}


def _names(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _names(one) for name, one in value.items()}
    return PureWindowsPath(value).name if isinstance(value, str) and set(value) & {"/", "\\"} else value
