"""One endless field of noise per seed, drawn in blocks when a window of it is needed.

A tile, a strip, a worker or another engine that asks for the same elements gets the same values, and no
canvas is ever held in memory.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from onestep.core.errors import UsageError

BLOCK: Final = 256
"""Side of a block, in canvas elements."""
_CACHED_BLOCKS: Final = 24
"""Kept in one tensor: blocks that come and go between the large tensors of a network would leave holes in the
heap of the process (measured: 250 MB for a picture of 2 million pixels at x4)."""


def pool_bytes(channels: int) -> int:
    """What a canvas of so many channels holds in memory at most."""
    return _CACHED_BLOCKS * channels * BLOCK**2 * 4


class NoiseCanvas:
    """Standard normal noise over the quarter plane row >= 0, column >= 0, fixed by a seed.

    The plane is divided into blocks of 256 x 256 elements (all channels together). Each block has a generator
    of its own, seeded by numpy's ``SeedSequence`` with the seed as entropy and (block row, block column) as
    spawn key: neighbouring blocks and neighbouring seeds are independent. Everything is drawn on the CPU, so
    that values do not depend on the device.
    """

    def __init__(self, seed: int, channels: int, origin: int = 0) -> None:
        """A canvas of ``channels`` channels.

        Args:
            seed: any integer from 0 up.
            channels: channels of the noise; 0 for models that take none.
            origin: the row that windows count from, for an image that is a part of another.

        Raises:
            UsageError: the seed is negative.
            ValueError: the number of channels is negative.
        """
        if seed < 0:
            raise UsageError(f"seed {seed} is negative: use an integer from 0 up")
        if channels < 0:
            raise ValueError(f"channels must not be negative, got {channels}")
        self.seed: Final = seed
        self.channels: Final = channels
        self._origin: Final = origin
        self._pool: Tensor | None = None
        self._slots: dict[tuple[int, int], int] = {}
        """Block to its place in the pool, the least recently used first."""

    def window(self, top: int, left: int, height: int, width: int) -> Tensor:
        """The elements of a rectangle: (1, channels, height, width), float32, on the CPU.

        Raises:
            ValueError: the rectangle is empty or begins above or left of the canvas.
        """
        if top < 0 or left < 0 or height < 1 or width < 1:
            raise ValueError(f"no such window of the canvas: {top=} {left=} {height=} {width=}")
        out = torch.empty(1, self.channels, height, width)
        if self.channels == 0:
            return out
        top += self._origin
        for row in range(top // BLOCK, (top + height - 1) // BLOCK + 1):
            rows_out, rows_in = _cut(row, top, height)
            for column in range(left // BLOCK, (left + width - 1) // BLOCK + 1):
                columns_out, columns_in = _cut(column, left, width)
                out[0, :, rows_out, columns_out] = self._block(row, column)[:, rows_in, columns_in]
        return out

    def _block(self, row: int, column: int) -> Tensor:
        """Block (row, column), (channels, 256, 256); valid until the next call."""
        if self._pool is None:
            self._pool = torch.empty(_CACHED_BLOCKS, self.channels, BLOCK, BLOCK)
        slot = self._slots.pop((row, column), None)
        if slot is None:
            full = len(self._slots) == _CACHED_BLOCKS
            slot = self._slots.pop(next(iter(self._slots))) if full else len(self._slots)
            key = np.random.SeedSequence(self.seed, spawn_key=(row, column))
            generator = np.random.Generator(np.random.PCG64(key))
            generator.standard_normal(dtype=np.float32, out=self._pool[slot].numpy())
        self._slots[row, column] = slot
        return self._pool[slot]


def _cut(block: int, start: int, length: int) -> tuple[slice, slice]:
    """Where a block meets [start, start + length): as slices of the interval and of the block."""
    first = max(start, block * BLOCK)
    last = min(start + length, (block + 1) * BLOCK)
    return slice(first - start, last - start), slice(first - block * BLOCK, last - block * BLOCK)
