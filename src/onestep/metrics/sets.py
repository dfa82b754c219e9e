"""Scores of whole sets of pictures: what such a measure offers, picture by picture, in bounded memory.

A set has one score, not one per picture. Its measure turns pictures into features, in batches and in any
order; an accumulator then takes the features of one pair after the other, in the order of the set, so that
the score does not depend on who computed the features.
"""

from typing import Protocol

from torch import Tensor


class SetAccumulator(Protocol):
    """What has been seen of two sets so far; its size does not grow with the number of pictures."""

    def add(self, sr: Tensor, hr: Tensor) -> None:
        """Take the features (D,) of a restored picture and of its true one; once per pair, in order."""
        ...

    def value(self) -> float:
        """The score of all pairs taken so far.

        Raises:
            InputError: there are too few of them; the line says how many are needed.
        """
        ...


class SetMeasure(Protocol):
    """A measure with ``needs == "set"``."""

    def features(self, image: Tensor) -> Tensor:
        """Features of images (B, 3, H, W) in [0, 1]: (B, D), float32, on the CPU.

        Raises:
            InputError: the images cannot be described, as when they are too small.
        """
        ...

    def begin(self) -> SetAccumulator:
        """An empty accumulator."""
        ...
