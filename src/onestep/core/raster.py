"""The content of an image file as an array: what readers return and writers take."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from onestep.core.errors import InputError

Array = npt.NDArray[Any]

_STRIP: Final = 256
"""Rows converted at a time."""


@dataclass(frozen=True, eq=False)
class Raster:
    """Pixels as they are stored, and what the file says beside them."""

    array: Array
    """(H, W, C), uint8, uint16 or float32 in [0, 1]; C is 1 grey, 2 grey + alpha, 3 RGB or 4 RGBA."""
    icc: bytes | None = None
    exif: bytes | None = None
    """With "Exif" prefix; orientation 1 if any, and without thumbnail: pixels stand upright."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    format: str | None = None
    """Pillow's name of the format."""
    lossless: bool = True
    """False for JPEG and lossy WebP."""


def checked(array: Array, name: str) -> Array:
    """Pixels of any depth as uint8, uint16 or float32 in [0, 1].

    Args:
        array: bool, uint8, uint16, uint32 (of which the upper half is kept) or floating point in [0, 1].
        name: stands in messages.

    Raises:
        InputError: another type, not finite, or far outside of [0, 1]; a small overshoot is clamped.
    """
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size <= 2:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if kind == "u" and size == 4:
        return (array >> 16).astype(np.uint16)
    if kind == "f":
        low, high = float(array.min()), float(array.max())
        if not math.isfinite(low) or not math.isfinite(high):
            raise InputError(f"{name}: some values are no numbers: replace those that are NaN or infinite")
        if low >= -0.5 and high <= 1.5:
            return array.astype(np.float32).clip(0, 1)
        raise InputError(f"{name}: values from {low:g} to {high:g}: scale them to 0 ... 1")
    raise InputError(f"{name}: samples of type {array.dtype}: use uint8, uint16 or float in 0 ... 1")


def pixels(image: Image.Image, mode: str) -> Array:
    """(H, W, C) of a Pillow image as L, LA, RGB or RGBA; some rows at a time, for whole copies are large."""
    out = np.empty((image.height, image.width, len(mode)), np.uint8)
    for top in range(0, image.height, _STRIP):
        rows = out[top : top + _STRIP]
        part = image.crop((0, top, image.width, top + len(rows))).convert(mode)
        rows[:] = np.asarray(part).reshape(rows.shape)
    return out


def upright(array: Array, orientation: int) -> Array:
    """Undo a TIFF or EXIF orientation (1 to 8) on (H, W, C)."""
    if orientation == 1:
        return array
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array.copy()


def one_line(error: object) -> str:
    """The message of an error or warning, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
