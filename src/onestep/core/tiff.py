"""TIFF where Pillow falls short.

Reading: separate planes, floating point, 32 bits, inverted grey of 16 bits. Writing: all of it, since Pillow
has no 16 bits per channel in colour, and cannot compress and keep EXIF data at once.
"""

import logging
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

import numpy as np
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from onestep.core.errors import InputError
from onestep.core.raster import Array, Raster, checked, one_line

_ORIENTATION: Final = 274
_XMP: Final = 700
_TEXTS: Final = (270, 271, 272, 305, 306, 315, 33432)
"""Description, make, model, software, date, artist, copyright."""
_POINTERS: Final = {34665: 34664, 34853: 34852}
"""Tags that point to the EXIF and the GPS directory, and unused neighbours that keep their places."""
_BYTE, _ASCII, _LONG = 1, 2, 4
"""Types of TIFF fields."""
_CLASSIC_LIMIT: Final = 2**32 - 2**25
"""Bytes of pixels from which a file is written as BigTIFF."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2


def page_size(file: IO[bytes]) -> tuple[int, int]:
    """Width and height of the first page, from its header."""
    file.seek(0)
    with _quietly(), tifffile.TiffFile(file) as tiff:
        page = cast("tifffile.TiffPage", tiff.pages[0])
        return page.imagewidth, page.imagelength


def decode_tiff(file: IO[bytes], name: str) -> Raster:
    """The first page, upright; without EXIF. ``name`` stands in messages.

    Raises:
        InputError: a compression or a kind of colour that cannot be read.
    """
    file.seek(0)
    with _quietly(), tifffile.TiffFile(file) as tiff:
        page = cast("tifffile.TiffPage", tiff.pages[0])
        photometric, turn = int(page.photometric), int(page.tags.valueof(_ORIENTATION, default=1) or 1)
        if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
            raise InputError(f"{name}: TIFF with {page.photometric!s} colours: convert it to RGB")
        try:
            array = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise InputError(f"{name}: {one_line(error)}: install it, or save without compression") from error
        if int(page.planarconfig) == 2 and array.ndim == 3:
            array = np.moveaxis(array, 0, -1)
        array = array.reshape(page.imagelength, page.imagewidth, -1)
        colors = 3 if photometric == _RGB else 1
        extra = [int(sample) for sample in page.extrasamples]
        has_alpha = extra[:1] in ([1], [2])
        array = upright(checked(array[..., : colors + has_alpha], name), turn)
        if photometric == _WHITE_IS_ZERO:
            array[..., 0] = (1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max) - array[..., 0]
        if extra[:1] == [1]:
            array = _straight(array)
        xmp = page.tags.valueof(_XMP)
        return Raster(array, icc=page.iccprofile, xmp=xmp if turn == 1 and isinstance(xmp, bytes) else None)


def encode_tiff(path: Path, raster: Raster, height: int) -> None:
    """Write (H, W, C) of uint8 or uint16, deflated, with its metadata (over 4 GB: without EXIF, GPS).

    ``height`` is that of the whole picture, which decides how large the file may become.
    """
    channels = raster.array.shape[-1]
    tags = Image.Exif()
    if raster.exif is not None:
        tags.load(raster.exif)
    extra: list[tuple[int, int, int, object, bool]] = [
        (code, _ASCII, 0, str(tags[code]), True) for code in _TEXTS if code in tags
    ]
    if raster.xmp is not None:
        extra.append((_XMP, _BYTE, len(raster.xmp), raster.xmp, True))
    big = raster.array[0].nbytes * height > _CLASSIC_LIMIT
    inner = {code: tags.get_ifd(code) for code in _POINTERS if tags.get_ifd(code) and not big}
    extra += [(_POINTERS[code], _LONG, 1, 0, True) for code in inner]
    tifffile.imwrite(
        path,
        raster.array if channels > 1 else raster.array[..., 0],
        byteorder="<",
        bigtiff=big,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        predictor=True,
        iccprofile=raster.icc,
        extratags=extra,
        metadata=None,
        software=False,
    )
    if inner:
        _append(path, inner)


@contextmanager
def _quietly() -> Generator[None]:
    """Keep tifffile from logging the faults of a file beside the error that it raises for them."""
    log = logging.getLogger("tifffile")

    def drop(_record: logging.LogRecord) -> bool:
        return False

    log.addFilter(drop)
    try:
        yield
    finally:
        log.removeFilter(drop)


def _append(path: Path, directories: Mapping[int, Mapping[int, object]]) -> None:
    """Append tag directories, and point the entries that were left free for them to them.

    tifffile writes no directory of EXIF or GPS tags; Pillow lays them out.
    """
    with tifffile.TiffFile(path) as tiff:
        tags = cast("tifffile.TiffPage", tiff.pages[0]).tags
        entries = {code: tags[_POINTERS[code]].offset for code in directories}
    with path.open("r+b") as file:
        for code, values in directories.items():
            start = file.seek(0, 2)
            file.write(b"\0" * (start % 2))
            start += start % 2
            directory = ImageFileDirectory_v2(prefix=b"II")
            for tag, value in values.items():
                directory[tag] = value
            file.write(directory.tobytes(start))
            file.seek(entries[code])
            file.write(struct.pack("<HHII", code, _LONG, 1, start))


def upright(array: Array, orientation: int) -> Array:
    """Undo a TIFF or EXIF orientation (1 to 8) on (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array.copy()


def _straight(array: Array) -> Array:
    """Colours that were multiplied by alpha, divided by it."""
    full = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    alpha = np.maximum(array[..., -1:], np.finfo(np.float32).tiny).astype(np.float64)
    color = np.minimum(array[..., :-1] * (full / alpha), full)
    color = color if array.dtype.kind == "f" else np.rint(color)
    return np.concatenate([color.astype(array.dtype), array[..., -1:]], axis=-1)
