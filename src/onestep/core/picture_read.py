"""Image files to arrays, with what a file says about itself.

Pillow does the work for everything it covers, tifffile the TIFF variants that Pillow lacks. What both lack is
16 bits per channel in colour: PNG and most TIFF files of that kind are decoded by Pillow twice, once for the
high and once for the low bytes of the samples.
"""

import logging
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps

from onestep.core.errors import InputError
from onestep.core.raster import Array, Raster, checked, one_line
from onestep.core.tiff import decode_tiff, page_size

_log: Final = logging.getLogger("onestep")

_READABLE: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
_DAMAGE: Final = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What decoders raise on damaged files."""
_DEEP: Final = re.compile(r"(RGB|RGBA|RGBX);16([BLN])|LA;16B")
"""Raw layouts of 16-bit samples that Pillow narrows to 8 bits."""
_OPAQUE: Final = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
_KEYED: Final = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"}
"""Modes that become another when the file names a transparent colour."""
_KEPT_TIFF_TAGS: Final = (270, 271, 272, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853)
"""Descriptive TIFF tags: all others say how this very file stores its pixels."""


def load(path: Path, max_pixels: int) -> Raster:
    """Decode the first frame of a file, upright.

    Raises:
        InputError: no such file, a folder, empty, not an image, damaged, without pixels, or with more pixels
            than allowed (which is read from the header, before anything is decoded).
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder: name a file in it")
    try:
        with path.open("rb") as file, _warnings_logged(path):
            return _decode(file, path, max_pixels)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file: check the name") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read: check its permissions") from error
    except _DAMAGE as error:
        raise InputError(f"{path}: damaged or cut short ({one_line(error)}): get a new copy") from error


def from_pillow(image: Image.Image, name: str = "image") -> Raster:
    """The content of a Pillow image, upright; ``name`` stands in messages.

    Raises:
        InputError: values that have no meaning in [0, 1].
    """
    upright = ImageOps.exif_transpose(image)
    array, same_colors = _array(upright, name)
    return replace(_metadata(upright, image.format, array), **({} if same_colors else {"icc": None}))


@contextmanager
def _warnings_logged(path: Path) -> Generator[None]:
    """Turn the warnings of decoders into lines of the log that name the file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        _log.warning("%s: %s", path, one_line(warning.message))


def _decode(file: IO[bytes], path: Path, max_pixels: int) -> Raster:
    name = _format(file, path)
    factory = Image.OPEN[name][0]
    try:
        image = factory(file, str(path))  # Image.open would add a limit of its own on pixels
    except SyntaxError:
        if name != "TIFF":
            raise
        _check_size(path, page_size(file), max_pixels)
        return replace(decode_tiff(file, str(path)), format=name)
    _check_size(path, image.size, max_pixels)
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        _log.warning("%s: has several frames or pages, only the first is used", path)
    layout = _layout(image)
    if layout is None:
        raster = from_pillow(image, str(path))
    elif _DEEP.fullmatch(layout):
        raster = _decode_deep(image, factory(BytesIO(_bytes(file)), str(path)), layout)
    else:
        raster = replace(decode_tiff(file, str(path)), exif=_exif(image))
    lossless = name != "JPEG" and (name != "WEBP" or _is_lossless_webp(file))
    return replace(raster, format=name, lossless=lossless)


def _format(file: IO[bytes], path: Path) -> str:
    """Pillow's name of the format, from the first bytes."""
    Image.init()
    prefix = file.read(16)
    file.seek(0)
    if not prefix:
        raise InputError(f"{path}: the file is empty: get a new copy")
    for name in _READABLE:
        accept = Image.OPEN[name][1] if name in Image.OPEN else None
        if accept is not None and accept(prefix) is True:
            return name
    raise InputError(f"{path}: not an image that can be read: use PNG, JPEG, WebP, TIFF or BMP")


def _bytes(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height == 0:
        raise InputError(f"{path}: has no pixels ({width} x {height}): get a new copy")
    if width * height > max_pixels:
        raise InputError(
            f"{path}: {width} x {height} pixels are over the limit of {max_pixels}:"
            " raise max_pixels (--max-pixels) if you trust the file"
        )


def _is_lossless_webp(file: IO[bytes]) -> bool:
    """Whether the (first) bitstream chunk is VP8L (RFC 9649, section 2.6)."""
    head = _bytes(file)[: 1 << 20]
    lossy, lossless = head.find(b"VP8 "), head.find(b"VP8L")
    return lossless >= 0 and (lossy < 0 or lossless < lossy)


def _layout(image: ImageFile.ImageFile) -> str | None:
    """The raw layout of samples that Pillow would narrow or misread; None where it reads all bits."""
    if image.format == "PNG" and image.tile:
        layout = str(image.tile[0].args)
        return layout if _DEEP.fullmatch(layout) else None
    if image.format == "TIFF":
        tags = cast("Any", image).tag_v2
        if len(tags.get(258, ())) > 1 and max(tags.get(258)) > 8:
            args = image.tile[0].args
            layout = str(args[0] if isinstance(args, tuple) else args)
            return layout if tags.get(284, 1) == 1 else "planes"
    return None


def _decode_deep(image: ImageFile.ImageFile, again: ImageFile.ImageFile, layout: str) -> Raster:
    """Samples of 16 bits, by reading the high and the low bytes in turn."""
    if layout == "LA;16B":
        _relayout(image, layout, "RGBA")
        cast("Any", image)._mode = "RGBA"
        upright = ImageOps.exif_transpose(image)
        octets = np.asarray(upright)
        array = octets[..., 0::2].astype(np.uint16) << 8 | octets[..., 1::2]
        return _metadata(upright, image.format, array)
    mode, order = layout.split(";16")
    order = {"N": "L" if sys.byteorder == "little" else "B"}.get(order, order)
    _relayout(again, layout, f"{mode};16{'B' if order == 'L' else 'L'}")
    upright = ImageOps.exif_transpose(image)
    array = np.asarray(upright).astype(np.uint16) << 8
    array |= np.asarray(ImageOps.exif_transpose(again))
    return _metadata(upright, image.format, _keyed(array[..., : 4 if mode == "RGBA" else 3], upright))


def _relayout(image: ImageFile.ImageFile, old: str, new: str) -> None:
    """Make Pillow's decoder unpack another layout of samples than the file's own."""
    image.tile = [
        part._replace(
            args=tuple(new if arg == old else arg for arg in part.args)
            if isinstance(part.args, tuple)
            else new
        )
        for part in image.tile
    ]


def _keyed(array: Array, image: Image.Image) -> Array:
    """Add the alpha of a single transparent colour, where a 16-bit PNG names one."""
    key = image.info.get("transparency")
    if key is None or array.shape[-1] not in (1, 3):
        return array
    visible = (array != np.asarray(key, dtype=np.uint16)).any(-1, keepdims=True)
    return np.concatenate([array, visible * np.uint16(65535)], axis=-1)


def _array(image: Image.Image, name: str) -> tuple[Array, bool]:
    """Pixels (H, W, C), and whether they are still meant in the colour space of the embedded profile."""
    mode = image.mode
    if mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{name}: samples of 32 bits: save it with 8 or 16 bits")
        return _keyed(values.astype(np.uint16)[..., None], image), True
    if mode == "F":
        return checked(np.asarray(image)[..., None], name), True
    if mode in ("CMYK", "LAB"):
        return np.array(_to_srgb(image, name)), False
    target = _OPAQUE.get(mode, "RGB")
    if "transparency" in image.info:
        target = _KEYED.get(mode, target)
    array = np.array(image.convert(target))
    return array if array.ndim == 3 else array[..., None], True


def _to_srgb(image: Image.Image, name: str) -> Image.Image:
    """CMYK and Lab to RGB, by the embedded profile where there is one."""
    profile = image.info.get("icc_profile")
    source = ImageCms.createProfile("LAB") if image.mode == "LAB" else BytesIO(profile) if profile else None
    if source is None:
        return image.convert("RGB")
    try:
        result = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError) as error:
        _log.warning("%s: the colour profile is not usable (%s)", name, one_line(error))
        return image.convert("RGB")
    return cast("Image.Image", result)


def _metadata(upright: Image.Image, name: str | None, array: Array) -> Raster:
    icc = upright.info.get("icc_profile")
    xmp = upright.info.get("xmp") or upright.info.get("XML:com.adobe.xmp")
    return Raster(
        array,
        icc=icc or None,
        exif=_exif(upright),
        xmp=xmp.encode() if isinstance(xmp, str) else xmp or None,
        format=name,
    )


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF data of an image that stands upright."""
    try:
        exif = image.getexif()
        exif.pop(ExifTags.Base.Orientation, None)
        if image.format == "TIFF" or hasattr(image, "tag_v2"):
            for tag in [tag for tag in exif if tag not in _KEPT_TIFF_TAGS]:
                del exif[tag]
        return exif.tobytes() if len(exif) else None
    except _DAMAGE as error:
        _log.warning("unreadable EXIF data is dropped (%s)", one_line(error))
        return None
