"""TIFF where Pillow falls short.

Reading: separate planes, floating point, 32 bits, inverted grey of 16 bits. Writing: all of it, since Pillow
has no 16 bits per channel in colour, and cannot compress and keep EXIF data at once.
"""

import logging
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

import numpy as np
import tifffile

from onestep.core import exif, xmp
from onestep.core.errors import InputError
from onestep.core.raster import Array, Raster, checked, one_line, upright

_ORIENTATION: Final = 274
_XMP: Final = 700
_POINTERS: Final = {exif.EXIF: 34664, exif.GPS: 34852}
"""Tags that point to the EXIF and the GPS directory, and unused neighbours that keep their places."""
_BYTE, _LONG, _LONG8 = 1, 4, 16
"""Types of TIFF fields."""
_CLASSIC_LIMIT: Final = 2**32 - 2**25
"""Bytes of pixels from which a file is written as BigTIFF."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2


def page_size(file: IO[bytes]) -> tuple[int, int]:
    """Width and height of the first page, from its header."""
    file.seek(0)
    with quietly(), tifffile.TiffFile(file) as tiff:
        page = cast("tifffile.TiffPage", tiff.pages[0])
        return page.imagewidth, page.imagelength


def decode_tiff(file: IO[bytes], name: str) -> Raster:
    """The first page, upright; without EXIF and XMP. ``name`` stands in messages.

    Raises:
        InputError: a compression or a kind of colour that cannot be read.
    """
    file.seek(0)
    with quietly(), tifffile.TiffFile(file) as tiff:
        page = cast("tifffile.TiffPage", tiff.pages[0])
        photometric, turn = int(page.photometric), int(page.tags.valueof(_ORIENTATION) or 0)
        if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
            raise InputError(
                f"{name}: damaged, or TIFF with colours of a kind that is not read (photometric "
                f"{photometric}): get a new copy, or convert it to RGB"
            )
        try:
            array = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            raise InputError(f"{name}: {one_line(error)}: install it, or save without compression") from error
        if int(page.planarconfig) == 2 and array.ndim == 3:
            array = np.moveaxis(array, 0, -1)
        array = samples(page, array.reshape(page.imagelength, page.imagewidth, -1), name)
        packet = page.tags.valueof(_XMP)
        packet = packet if isinstance(packet, bytes) else None
        return Raster(upright(array, turn or xmp.orientation(packet)), icc=page.iccprofile)


def samples(page: tifffile.TiffPage, array: Array, name: str) -> Array:
    """Some rows (n, W, all samples) of a page as colours, 0 being black, and straight alpha if there is any.

    Raises:
        InputError: values that have no meaning in [0, 1].
    """
    photometric, extra = int(page.photometric), [int(sample) for sample in page.extrasamples]
    colors, has_alpha = 3 if photometric == _RGB else 1, extra[:1] in ([1], [2])
    array = checked(array[..., : colors + has_alpha], name)
    if photometric == _WHITE_IS_ZERO:
        full = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
        array = np.concatenate([full - array[..., :1], array[..., 1:]], axis=-1)
    return _straight(array) if extra[:1] == [1] else array


def encode_tiff(path: Path, raster: Raster, height: int) -> None:
    """Write (H, W, C) of uint8 or uint16, deflated, with its metadata; over 4 GB as BigTIFF.

    ``height`` is that of the whole picture, which decides how large the file may become.

    Raises:
        ValueError: the EXIF data of the raster is none.
    """
    channels = raster.array.shape[-1]
    described = {} if raster.exif is None else exif.entries(raster.exif)
    inner = {code: entry for code, entry in described.items() if not isinstance(entry, exif.Entry)}
    extra: list[tuple[int, int, int, object, bool]] = [
        (code, entry.kind, entry.count, entry.data, True)
        for code, entry in described.items()
        if isinstance(entry, exif.Entry)
    ]
    if raster.xmp is not None:
        extra.append((_XMP, _BYTE, len(raster.xmp), raster.xmp, True))
    extra += [(_POINTERS[code], _LONG, 1, 0, True) for code in inner]
    tifffile.imwrite(
        path,
        raster.array if channels > 1 else raster.array[..., 0],
        byteorder="<",
        bigtiff=raster.array[0].nbytes * height > _CLASSIC_LIMIT,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        predictor=True,
        iccprofile=raster.icc,
        resolution=raster.dpi,
        resolutionunit=None if raster.dpi is None else "INCH",
        extratags=extra,
        metadata=None,
        software=False,
    )
    if inner:
        _append(path, inner)


@contextmanager
def quietly() -> Generator[None]:
    """Keep tifffile from logging the faults of a file beside the error that it raises for them."""
    log = logging.getLogger("tifffile")

    def drop(_record: logging.LogRecord) -> bool:
        return False

    log.addFilter(drop)
    try:
        yield
    finally:
        log.removeFilter(drop)


def _append(path: Path, directories: exif.Directory) -> None:
    """Append tag directories, and point the entries that were left free for them to them.

    tifffile writes no directory of EXIF or GPS tags.
    """
    with tifffile.TiffFile(path) as tiff:
        tags, big = cast("tifffile.TiffPage", tiff.pages[0]).tags, tiff.is_bigtiff
        entries = {code: tags[_POINTERS[code]].offset for code in directories}
    with path.open("r+b") as file:
        for code, directory in directories.items():
            assert not isinstance(directory, exif.Entry)
            start = file.seek(0, 2)
            file.write(b"\0" * (start % 2))
            start += start % 2
            file.write(exif.packed(directory, start, big=big))
            file.seek(entries[code])
            file.write(
                struct.pack("<HHQQ", code, _LONG8, 1, start)
                if big
                else struct.pack("<HHII", code, _LONG, 1, start)
            )


def _straight(array: Array) -> Array:
    """Colours that were multiplied by alpha, divided by it."""
    full = 1.0 if array.dtype.kind == "f" else float(np.iinfo(array.dtype).max)
    alpha = np.maximum(array[..., -1:], np.finfo(np.float32).tiny).astype(np.float64)
    color = np.minimum(array[..., :-1] * (full / alpha), full)
    color = color if array.dtype.kind == "f" else np.rint(color)
    return np.concatenate([color.astype(array.dtype), array[..., -1:]], axis=-1)
