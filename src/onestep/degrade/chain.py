"""Composition of degradations: in a row, one of several, perhaps, in any order.

A degradation is a function of a picture and a random generator. It keeps no state: the same picture and the
same generator state give the same pixels, in a data worker as in a test. Compositions are frozen, compare by
value, and print as the expression that makes them, so the ``repr`` of a preset is its recipe.

Some steps size their result by the picture at the entrance of the whole recipe ("to a quarter of the HR
size", whatever happened in between). Such a step has a method ``within`` that also takes that size;
compositions hand it down. A step that does not care is a plain function ``(image, generator) -> image``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from onestep.core.errors import UsageError

Size = tuple[int, int]


class Degradation(Protocol):
    """Anything that spoils a picture: (3, H, W) in [0, 1] and a CPU generator to (3, h, w)."""

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Return the degraded picture; all random numbers come from ``generator``."""
        ...


class Sized(Protocol):
    """A degradation that knows the size (H, W) of the picture at the entrance of the recipe."""

    def within(self, image: Tensor, generator: torch.Generator, size: Size) -> Tensor:
        """Return the degraded picture, given the entrance size in pixels."""
        ...


def apply(step: Degradation, image: Tensor, generator: torch.Generator, size: Size) -> Tensor:
    """Run one step, handing it the entrance size when it wants it."""
    if hasattr(step, "within"):
        return cast(Sized, step).within(image, generator, size)
    return step(image, generator)


class _Composition(ABC):
    """Called by itself, a composition is the entrance: its picture has the entrance size."""

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade (3, H, W) in [0, 1]."""
        return self.within(image, generator, (image.shape[-2], image.shape[-1]))

    @abstractmethod
    def within(self, image: Tensor, generator: torch.Generator, size: Size) -> Tensor:
        """Degrade as part of a recipe whose picture entered with ``size`` (H, W)."""


@dataclass(frozen=True, init=False, repr=False)
class Chain(_Composition):
    """All steps, one after the other: ``Chain(first, second, ...)``."""

    steps: tuple[Degradation, ...]

    def __init__(self, *steps: Degradation) -> None:
        """Chain the steps in the order given."""
        object.__setattr__(self, "steps", steps)

    def within(self, image: Tensor, generator: torch.Generator, size: Size) -> Tensor:
        """See the base."""
        for step in self.steps:
            image = apply(step, image, generator, size)
        return image

    def __repr__(self) -> str:
        return _call("Chain", [repr(step) for step in self.steps])


@dataclass(frozen=True, init=False, repr=False)
class Choice(_Composition):
    """One of several, drawn with the given weights: ``Choice({step: weight, ...})``."""

    options: tuple[tuple[Degradation, float], ...]

    def __init__(self, options: Mapping[Degradation, float]) -> None:
        """Keep the steps (hashable) and their weights, which need not sum to 1.

        Raises:
            UsageError: There is no option, or a weight is not positive.
        """
        if not options or min(options.values()) <= 0:
            raise UsageError("a Choice needs at least one step, and positive weights")
        object.__setattr__(self, "options", tuple(options.items()))

    def within(self, image: Tensor, generator: torch.Generator, size: Size) -> Tensor:
        """See the base."""
        index = pick(generator, [weight for _, weight in self.options])
        return apply(self.options[index][0], image, generator, size)

    def __repr__(self) -> str:
        return _call("Choice", [f"{step!r}: {weight!r}" for step, weight in self.options], "({", "})")


@dataclass(frozen=True, repr=False)
class Maybe(_Composition):
    """The step with a probability, else the picture as it is."""

    probability: float
    step: Degradation

    def within(self, image: Tensor, generator: torch.Generator, size: Size) -> Tensor:
        """See the base."""
        if uniform(generator, 0.0, 1.0) < self.probability:
            return apply(self.step, image, generator, size)
        return image

    def __repr__(self) -> str:
        return _call("Maybe", [repr(self.probability), repr(self.step)])


@dataclass(frozen=True, init=False, repr=False)
class Shuffle(_Composition):
    """All steps, in an order drawn anew each time (all orders equally likely)."""

    steps: tuple[Degradation, ...]

    def __init__(self, *steps: Degradation) -> None:
        """Keep the steps."""
        object.__setattr__(self, "steps", steps)

    def within(self, image: Tensor, generator: torch.Generator, size: Size) -> Tensor:
        """See the base."""
        for index in torch.randperm(len(self.steps), generator=generator).tolist():
            image = apply(self.steps[index], image, generator, size)
        return image

    def __repr__(self) -> str:
        return _call("Shuffle", [repr(step) for step in self.steps])


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """Draw one number from U[low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def pick(generator: torch.Generator, weights: Sequence[float]) -> int:
    """Draw an index with probabilities proportional to ``weights``."""
    left = uniform(generator, 0.0, sum(weights))
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return len(weights) - 1


def _call(name: str, parts: list[str], opening: str = "(", closing: str = ")") -> str:
    """Write a call, on one line if short, else one argument per line."""
    line = f"{name}{opening}{', '.join(parts)}{closing}"
    if len(line) <= 100 and "\n" not in line:
        return line
    body = "".join("    " + part.replace("\n", "\n    ") + ",\n" for part in parts)
    return f"{name}{opening}\n{body}{closing}"
