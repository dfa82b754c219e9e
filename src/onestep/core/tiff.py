"""The TIFF variants that Pillow lacks: separate planes, floating point, 16 bits per channel in colour."""

from pathlib import Path
from typing import IO, Final, cast

import numpy as np
import tifffile

from onestep.core.errors import InputError
from onestep.core.raster import Array, Raster, checked, one_line

_ORIENTATION: Final = 274
_XMP: Final = 700
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2


def page_size(file: IO[bytes]) -> tuple[int, int]:
    """Width and height of the first page, from its header."""
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = cast("tifffile.TiffPage", tiff.pages[0])
        return page.imagewidth, page.imagelength


def decode_tiff(file: IO[bytes], name: str) -> Raster:
    """The first page, upright; without EXIF. ``name`` stands in messages.

    Raises:
        InputError: a compression or a kind of colour that cannot be read.
    """
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = cast("tifffile.TiffPage", tiff.pages[0])
        photometric, turn = int(page.photometric), int(page.tags.valueof(_ORIENTATION, default=1) or 1)
        if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
            raise InputError(f"{name}: TIFF with {page.photometric!s} colours: convert it to RGB")
        try:
            array = page.asarray()
        except ValueError as error:
            raise InputError(f"{name}: {one_line(error)}: save it as a plain TIFF or as PNG") from error
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


def encode_tiff(path: Path, raster: Raster) -> None:
    """Write (H, W, C) of uint16, deflated, with ICC and XMP."""
    channels = raster.array.shape[-1]
    tifffile.imwrite(
        path,
        raster.array,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="zlib",
        predictor=True,
        iccprofile=raster.icc,
        extratags=() if raster.xmp is None else ((_XMP, 1, len(raster.xmp), raster.xmp, True),),
        metadata=None,
        software=False,
    )


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
