"""What happens to a picture on its way, as flows: each gives the rows that the whole picture would have.

A model and the colour fix do exactly what they do to a whole picture. Resizing computes its weights in double
precision where torch, for a whole picture, has single precision: the results agree to 3e-7 for factors that
are powers of two, and for other factors to 0.003 at 60 000 rows (where torch's positions are rounded).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from onestep.core.color import REACH, wavelet
from onestep.core.resize import Kernel, resize, taps
from onestep.core.tiling import Grid, faded, grid
from onestep.onepass import Band, Engine
from onestep.plan import rounded_up, shared
from onestep.stream.rows import Flow, Window

STRIP = 128
"""Rows that a stage without tiles works on at a time."""


@dataclass(frozen=True)
class Held:
    """An image in memory, (1, C, h, w)."""

    image: Tensor

    @property
    def height(self) -> int:
        """Rows."""
        return self.image.shape[-2]

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self.image.shape[-1]

    def flow(self, top: int) -> Iterator[Tensor]:
        """All of it at once."""
        yield self.image[..., top:, :]


@dataclass(frozen=True)
class Restored:
    """What a model makes of LR rows, (1, 3, h, w) in [0, 1], before the colour fix."""

    source: Flow
    engine: Engine
    options: Any
    """The model's; without maps, which stand in ``maps``."""
    seed: int
    tile: int
    overlap: int | None
    seen: Tensor | None
    """What decides the model's condition; None: every row of tiles decides its own."""
    maps: Mapping[str, Flow] = field(default_factory=dict[str, Flow])
    """Options that have a value for every LR pixel, (1, 1, h, w)."""

    @property
    def height(self) -> int:
        """Rows."""
        return self.source.height * self.engine.model.traits.scale

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self.source.width * self.engine.model.traits.scale

    def flow(self, top: int) -> Iterator[Tensor]:
        """Bands in [0, 1]; a row of tiles at a time."""
        scale, rows, fade = self.engine.model.traits.scale, self._grid.rows, self._grid.fade
        window = Window(self.source)
        maps = {name: Window(source) for name, source in self.maps.items()}
        first = next(k for k, (_, end) in enumerate(rows) if end * scale > top)
        carry: Tensor | None = None
        for k in range(first, len(rows)):
            start, end = rows[k]
            band = self._band(window, maps, start, end)
            if carry is not None:
                shares = carry.shape[-2]
                band[..., :shares, :] = faded(carry.mT, band.mT, fade * scale).mT
            done = (rows[k + 1][0] if k + 1 < len(rows) else end) - start
            carry = band[..., done * scale :, :].clone()
            skipped = max(top - start * scale, 0)
            finished = band[..., skipped : min(done * scale, self.height - start * scale), :]
            del band
            if finished.shape[-2]:
                yield finished.clamp_(0, 1)
            del finished

    @cached_property
    def _grid(self) -> Grid:
        traits = self.engine.model.traits
        height, width = (
            rounded_up(max(side, traits.minimum), traits.multiple_of)
            for side in (self.source.height, self.source.width)
        )
        noise = self.engine.model.noise_shape(torch.Size((1, 3, height, width)))
        return grid(
            height,
            width,
            tile=self.tile,
            overlap=shared(self.overlap, self.tile, traits),
            ratio=Fraction(noise[-1], width),
            multiple_of=traits.multiple_of,
            minimum=traits.minimum,
        )

    def _band(self, window: Window, maps: Mapping[str, Window], start: int, end: int) -> Tensor:
        """One row of tiles, its columns blended, not clipped."""
        padding = self._grid.rows[-1][1] - window.height
        parts = {name: _padded(values, start, end, padding) for name, values in maps.items()}
        (out,), _ = self.engine.restore(
            _padded(window, start, end, padding),
            [dataclasses.replace(self.options, **parts)],
            seed=self.seed,
            tile=self.tile,
            overlap=self.overlap,
            band=Band(start, None if maps else self.seen),
        )
        return out


@dataclass(frozen=True)
class Recolored:
    """Rows with the low frequencies of a reference of the same size (the colour fix "wavelet")."""

    source: Flow
    reference: Flow

    @property
    def height(self) -> int:
        """Rows."""
        return self.source.height

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self.source.width

    def flow(self, top: int) -> Iterator[Tensor]:
        """Bands in [0, 1]."""
        image, reference = Window(self.source), Window(self.reference)
        for start in range(top, self.height, STRIP):
            end = min(start + STRIP, self.height)
            span = max(start - REACH, 0), min(end + REACH, self.height)
            fixed = wavelet(image.read(*span), reference.read(*span))
            yield fixed[..., start - span[0] : end - span[0], :]


@dataclass(frozen=True)
class Resized:
    """Rows of a flow at another size, antialiased."""

    source: Flow
    size: tuple[int, int]
    """(height, width)."""
    kernel: Kernel = "bicubic"
    clip: bool = True
    """Whether values are kept in [0, 1]."""

    @property
    def height(self) -> int:
        """Rows."""
        return self.size[0]

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self.size[1]

    def flow(self, top: int) -> Iterator[Tensor]:
        """Bands of a fixed number of rows."""
        window = Window(self.source)
        for start in range(top, self.height, STRIP):
            end = min(start + STRIP, self.height)
            first, weights = taps(start, end, window.height, self.height, self.kernel)
            rows = window.read(first, first + weights.shape[1])
            rows = resize(rows, (rows.shape[-2], self.width), self.kernel)
            band = weights.to(rows.dtype) @ rows
            yield band.clamp_(0, 1) if self.clip else band


def _padded(window: Window, start: int, end: int, padding: int) -> Tensor:
    """Rows ``start`` to ``end`` of a flow that is padded below as ``core.tiling.fit`` pads an image."""
    height = window.height
    if end <= height:
        return window.read(start, end)
    first = max(min(start, height - 1 - padding), 0)
    rows = window.read(first, height)
    rows = F.pad(rows, (0, 0, 0, padding), mode="reflect" if padding < height else "replicate")
    return rows[..., start - first : end - first, :]
