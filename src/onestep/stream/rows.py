"""Pictures of any height as flows of rows: what a stage needs of the one before it, and no more."""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor


class Flow(Protocol):
    """A picture whose rows are made one after the other, from any row on."""

    @property
    def height(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int:
        """Pixels in a row."""
        ...

    def flow(self, top: int) -> Iterator[Tensor]:
        """Bands (1, C, n, width) of any n, one after the other, of which the first begins at row ``top``."""
        ...


class Window:
    """Any rows of a flow, as long as later requests begin no higher than earlier ones.

    What may be asked for again is kept. A request that begins higher is answered, too, at the cost of
    starting the flow again.
    """

    def __init__(self, source: Flow) -> None:
        """A window at no particular place."""
        self.source = source
        self.height, self.width = source.height, source.width
        self._bands: deque[Tensor] = deque()
        self._top = self._bottom = 0
        self._flow: Iterator[Tensor] | None = None

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom``, (1, C, bottom - top, width).

        Raises:
            ValueError: There are no such rows.
        """
        if not 0 <= top < bottom <= self.height:
            raise ValueError(f"no rows {top} to {bottom} of {self.height}")
        if self._flow is None or top < self._top:
            self._bands.clear()
            self._top = self._bottom = top
            self._flow = self.source.flow(top)
        self._forget(top)
        while self._bottom < bottom:
            self._shrink(top)
            band = next(self._flow)
            self._bands.append(band)
            self._bottom += band.shape[-2]
        start, parts = self._top, list[Tensor]()
        for band in self._bands:
            end = start + band.shape[-2]
            if end > top and start < bottom:
                parts.append(band[..., max(top - start, 0) : bottom - start, :])
            start = end
        return parts[0] if len(parts) == 1 else torch.cat(parts, -2)

    def _forget(self, top: int) -> None:
        """Let go of bands that end above a row."""
        while self._bands and self._top + self._bands[0].shape[-2] <= top:
            self._top += self._bands.popleft().shape[-2]

    def _shrink(self, top: int) -> None:
        """Copy what is still needed, so that the large bands that it is a view of can go."""
        if self._bands:
            kept = [band.clone() for band in self._bands]
            kept[0] = self._bands[0][..., top - self._top :, :].clone()
            self._bands, self._top = deque(kept), top
