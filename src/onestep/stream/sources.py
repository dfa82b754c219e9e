"""Image files as flows of rows.

PNG, and TIFF in strips or tiles, are read a few rows at a time. What cannot be read so is decoded as a whole
and kept as it is stored, 3 bytes a pixel for 8-bit colour: other formats, interlaced PNG, pictures that are
stored turned, TIFF of one large strip or compressed in another way than by deflate.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
import tifffile
import torch
from torch import Tensor

from onestep.core.errors import InputError
from onestep.core.picture import Picture, from_raster
from onestep.core.picture_read import DAMAGE, check_size, describe, load
from onestep.core.raster import Array, Raster, one_line
from onestep.core.tiff import quietly, samples
from onestep.core.working import Working, working
from onestep.stream.png import open_png
from onestep.stream.rows import Window

_STRIP: Final = 128
"""Rows made into colours at a time."""
_REACH: Final = 64
"""Rows above and below in which a colour is looked for that a transparent pixel takes."""
_LARGEST_STRIP: Final = 2**26
"""Bytes of a strip or row of tiles above which a TIFF file is decoded as a whole."""
_DEFLATE: Final = (1, 8, 32946)
"""TIFF compressions that need no further library."""


class Source(Protocol):
    """A picture file, as it is stored."""

    @property
    def height(self) -> int:
        """Rows."""
        ...

    @property
    def width(self) -> int:
        """Pixels in a row."""
        ...

    def describe(self, array: Array) -> Raster:
        """What the file carries beside its pixels, around an array turned as the file asks for."""
        ...

    def rasters(self, top: int) -> Iterator[Array]:
        """Consecutive rows from ``top`` on, (n, width, C).

        Raises:
            InputError: The file is damaged or ends early.
        """
        ...


def open_rows(path: Path, max_pixels: int) -> Source:
    """The rows of a picture file.

    Raises:
        InputError: One line that names the file and the remedy.
    """
    try:
        with path.open("rb") as file:
            kind = file.read(4)
        source = _open_tiff(path) if kind[:2] in (b"II", b"MM") else open_png(path) if kind else None
        if source is not None:
            check_size(path, (source.width, source.height), max_pixels)
            marks = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
            if np.array_equal(source.describe(marks).array, marks):
                return source
    except DAMAGE:
        pass  # reading it in full says what is wrong, or shows that it can be read after all
    return _Whole(load(path, max_pixels))


@dataclass(frozen=True)
class Stored:
    """The rows of a file as tensors of the type that is stored, (1, C, n, width)."""

    source: Source

    @property
    def height(self) -> int:
        """Rows."""
        return self.source.height

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self.source.width

    def flow(self, top: int) -> Iterator[Tensor]:
        """Bands as the file gives them."""
        for array in self.source.rasters(top):
            yield torch.from_numpy(np.ascontiguousarray(array)).movedim(-1, 0)[None]


@dataclass(frozen=True)
class Seen:
    """The rows of a file as a model sees them, (1, 3, n, width), sRGB in [0, 1].

    With ``beside``, what does not go through a model instead: the rest of the colours and alpha, (1, 4, n,
    width), as ``core.working`` defines them. A transparent pixel takes the colour of the nearest visible one
    that is at most 64 rows away (in a picture in memory, at any distance).
    """

    source: Source
    beside: bool = False

    @property
    def height(self) -> int:
        """Rows."""
        return self.source.height

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self.source.width

    def flow(self, top: int) -> Iterator[Tensor]:
        """Bands of a fixed number of rows."""
        about, window = first_row(self.source), Window(Stored(self.source))
        reach = _REACH if about.array.shape[-1] in (2, 4) else 0
        for start in range(top, self.height, _STRIP):
            end = min(start + _STRIP, self.height)
            first, last = max(start - reach, 0), min(end + reach, self.height)
            array = window.read(first, last)[0].movedim(0, -1).numpy()
            picture = from_raster(Raster(array, icc=about.icc, format=about.format))
            known = working(picture)
            image = _beside(picture, known) if self.beside else known.rgb
            yield image[..., start - first : end - first, :]


def first_row(source: Source) -> Raster:
    """The first row, with what the file carries beside its pixels."""
    return source.describe(next(source.rasters(0))[:1])


def _beside(picture: Picture, known: Working) -> Tensor:
    rest = torch.zeros_like(picture.rgb) if known.rest is None else known.rest
    alpha = torch.ones_like(rest[:, :1]) if picture.alpha is None else picture.alpha
    return torch.cat([rest, alpha], 1)


def middle(source: Source, side: int) -> Tensor:
    """The middle of a picture as a model sees it, (1, 3, h, w), at most ``side`` pixels high and wide."""
    height, width = min(side, source.height), min(side, source.width)
    top, left = (source.height - height) // 2, (source.width - width) // 2
    rows = Window(Seen(source)).read(top, top + height)
    return rows[..., left : left + width].clone()


@dataclass(frozen=True)
class _Whole:
    """A decoded picture."""

    raster: Raster

    @property
    def height(self) -> int:
        return self.raster.array.shape[0]

    @property
    def width(self) -> int:
        return self.raster.array.shape[1]

    def describe(self, array: Array) -> Raster:
        return replace(self.raster, array=array)

    def rasters(self, top: int) -> Iterator[Array]:
        yield self.raster.array[top:]


@dataclass(frozen=True)
class _TiffRows:
    """The first page of a TIFF file, strip by strip, or one row of tiles after the other."""

    path: Path
    height: int
    width: int

    def describe(self, array: Array) -> Raster:
        with self.path.open("rb") as file:
            return describe(file, self.path, array)

    def rasters(self, top: int) -> Iterator[Array]:
        try:
            with quietly(), tifffile.TiffFile(self.path) as tiff:
                yield from self._bands(tiff, top)
        except InputError:
            raise
        except DAMAGE as error:
            raise InputError(
                f"{self.path}: damaged or cut short ({one_line(error)}): get a new copy"
            ) from error

    def _bands(self, tiff: tifffile.TiffFile, top: int) -> Iterator[Array]:
        page = cast("tifffile.TiffPage", tiff.pages[0])
        across = -(-self.width // page.chunks[1]) if page.is_tiled else 1
        rows = page.chunks[0]
        for start in range(top // rows * rows, self.height, rows):
            end = min(start + rows, self.height)
            band = np.zeros((end - start, self.width, page.samplesperpixel), page.dtype)
            for index in range(start // rows * across, (start // rows + 1) * across):
                tiff.filehandle.seek(page.dataoffsets[index])
                data = tiff.filehandle.read(page.databytecounts[index])
                piece, place, _ = page.decode(data, index)
                if piece is not None:
                    part = piece[0][: end - start, : self.width - place[3]]
                    band[: len(part), place[3] : place[3] + part.shape[1]] = part
            yield samples(page, band[max(top - start, 0) :], str(self.path))


def _open_tiff(path: Path) -> _TiffRows | None:
    """The rows of a TIFF file; None where they cannot be had one after the other."""
    with quietly(), tifffile.TiffFile(path) as tiff:
        page = cast("tifffile.TiffPage", tiff.pages[0])
        plain = (
            int(page.compression) in _DEFLATE
            and int(page.photometric) in (0, 1, 2)
            and int(page.planarconfig) == 1
            and str(page.dtype) in ("uint8", "uint16")
            and page.bitspersample in (8, 16)
            and [int(sample) for sample in page.extrasamples][:1] != [1]
        )
        if not plain or page.chunks[0] * page.imagewidth * page.samplesperpixel * 2 > _LARGEST_STRIP:
            return None
        if len(tiff.pages) > 1:
            logging.getLogger("onestep").warning("%s: has several pages, only the first is used", path)
        return _TiffRows(path, page.imagelength, page.imagewidth)
