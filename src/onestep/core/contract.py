"""What a method is: a model that restores in one pass, and an objective that trains it.

Read this first. A *model* turns a low-resolution image into a high-resolution one in a single pass;
``forward`` is a pure function of tensors, so it tiles, repeats, compiles and exports.

An *objective* writes its training step as a Python generator. It yields one named loss for every move of
the paper's algorithm, in the order of that algorithm; the loop (``onestep.train``) back-propagates each
yielded loss, steps the optimizer of its group, clears the gradients of all groups, and asks for the next.
So control flow stays readable in one function, and the loop knows no method. Rules for ``losses``: yield in
algorithm order; never yield inside a ``with``; never touch an optimizer; share tensors between moves by
ordinary local variables; draw random numbers from torch's global generator only (the loop seeds it).

Conventions: tensors are NCHW float; values are in [0, 1] everywhere except inside ``methods/`` and
``networks/``, where they are in [-1, 1]. House time runs from t = 0 (clean) to t = 1 (source).
Noise is always an argument.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

Condition = Mapping[str, Tensor]
"""What the whole image decides once, before tiling; the first axis of every tensor is the batch.

A tensor with four axes whose last two equal the LR size is a map and is cut together with the tiles.
"""

ColorFix = Literal["none", "wavelet", "adain"]


@dataclass(frozen=True)
class Pair:
    """One training batch, values in [-1, 1]."""

    lr: Tensor
    """(B, 3, h, w)"""
    hr: Tensor
    """(B, 3, h * scale, w * scale)"""


@dataclass(frozen=True)
class Loss:
    """One move of one parameter group: scalar terms, already weighted; their sum is differentiated."""

    group: str
    terms: Mapping[str, Tensor]

    @property
    def total(self) -> Tensor:
        """The scalar to differentiate."""
        return torch.stack(list(self.terms.values())).sum()


@dataclass(frozen=True)
class Traits:
    """What a caller must know about a model before calling it."""

    scale: int
    multiple_of: int = 1
    """LR sides must be multiples of this (the caller pads)."""
    minimum: int = 1
    """Smallest LR side (the caller pads)."""
    tile: int = 128
    """LR pixels; the size it was trained near."""
    overlap: int = 16
    """LR pixels shared by neighbouring tiles."""
    color: ColorFix = "none"
    """Colour fix this model wants after stitching."""
    half: bool = True
    """Whether bfloat16 keeps its quality."""


@dataclass(frozen=True)
class NoOptions:
    """For models without knobs."""


class OneStepModel(nn.Module, ABC):
    """A low-resolution image becomes a high-resolution one in a single pass."""

    Options: ClassVar[type]
    """Frozen dataclass of user knobs, every field with a default."""
    decides_on_padded: ClassVar[bool] = True
    """Whether ``condition`` is given the image padded, as ``forward`` is; if not, as it came."""
    traits: Traits

    @abstractmethod
    def noise_shape(self, lr: torch.Size) -> torch.Size:
        """Shape of the noise for an LR batch of this shape; sides are a fixed multiple of the LR sides."""

    @abstractmethod
    def condition(self, lr: Tensor, options: Any) -> Condition:
        """What the whole image (B, 3, h, w), in [-1, 1], decides once; ``options`` is an ``Options``."""

    @abstractmethod
    def forward(self, lr: Tensor, noise: Tensor, condition: Condition) -> Tensor:
        """Restore (B, 3, h, w) in [-1, 1] to (B, 3, h * scale, w * scale), nominally in [-1, 1]."""

    def sweep(self, lr: Tensor, noise: Tensor, conditions: Iterable[Condition]) -> Iterator[Tensor]:
        """One result (B, 3, H, W) after the other, per condition. Overridden where work can be shared."""
        for condition in conditions:
            yield self(lr, noise, condition)


class Objective(nn.Module, ABC):
    """How a model is trained. Owns everything that training needs and inference does not."""

    model: OneStepModel

    @abstractmethod
    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Parameters by group, one optimizer each; "model" is the group that ships."""

    def moving(self) -> Sequence[nn.Module]:
        """Frozen helpers that training changes (averages, snapshots): saved with the state of a run."""
        return ()

    def begin(self, step: int, shipped: Callable[[], AbstractContextManager[OneStepModel]]) -> None:
        """Called once before every step, however many micro-batches it has; for what changes with the step.

        ``with shipped() as model`` gives the model as it would ship, averaged.
        """

    @abstractmethod
    def losses(self, pair: Pair, step: int) -> Iterator[Loss]:
        """The training step, as a generator of moves in the order of the paper's algorithm."""
