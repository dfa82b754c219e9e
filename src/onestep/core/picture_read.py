"""Image files to arrays, with what a file says about itself.

Pillow does the work for everything it covers, tifffile the TIFF variants that Pillow lacks. What both lack is
16 bits per channel in colour: PNG and most TIFF files of that kind are decoded by Pillow twice, once for the
high and once for the low bytes of the samples.
"""

import logging
import math
import re
import struct
import sys
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
from PIL import Image, ImageCms, ImageFile

from onestep.core import exif, xmp
from onestep.core.errors import InputError
from onestep.core.raster import Array, Raster, checked, one_line, pixels, upright
from onestep.core.tiff import decode_tiff, page_size

_log: Final = logging.getLogger("onestep")

_READABLE: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
DAMAGE: Final = (
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
    UserWarning,
)
"""What decoders raise on damaged files (the last where Python is told to make errors of warnings)."""
_DEEP: Final = re.compile(r"(RGB|RGBA|RGBX);16([BLN])|LA;16B")
"""Raw layouts of 16-bit samples that Pillow narrows to 8 bits."""
_OPAQUE: Final = {"1": "L", "L": "L", "LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
_KEYED: Final = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"}
"""Modes that become another when the file names a transparent colour."""
_BITS, _PHOTOMETRIC, _PLANAR = 258, 262, 284
"""TIFF tags."""


_NAMELESS: Final = ""
"""Files with names Pillow maps into memory, which it gets wrong for grey TIFF files that lie on a side."""


def load(path: Path, max_pixels: int) -> Raster:
    """Decode the first frame of a file, upright.

    Raises:
        InputError: no such file, a folder, empty, not an image, damaged, without pixels, or with more pixels
            than allowed (which is read from the header, before anything is decoded).
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder: name a file in it")
    try:
        with path.open("rb") as file:
            return decode(file, path, max_pixels)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file: check the name") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read: check its permissions") from error
    except DAMAGE as error:
        raise InputError(f"{path}: damaged or cut short ({one_line(error)}): get a new copy") from error


def from_pillow(image: Image.Image, name: str = "image") -> Raster:
    """The content of a Pillow image, upright; ``name`` stands in messages.

    Raises:
        InputError: values that have no meaning in [0, 1].
    """
    image.load()
    array, same_colors = _array(image, name)
    raster = _described(array, image, name)
    return raster if same_colors else replace(raster, icc=None)


def decode(file: IO[bytes], path: Path, max_pixels: int) -> Raster:
    """Decode what an open file holds, as ``load`` does; ``path`` stands in messages.

    Raises:
        InputError: not an image, without pixels, or with more pixels than allowed.
        Exception: whatever a decoder makes of damaged data.
    """
    name = _format(file, path)
    factory = Image.OPEN[name][0]
    try:
        image = factory(file, _NAMELESS)  # Image.open would add a limit of its own on pixels
    except SyntaxError as error:
        if name != "TIFF":
            raise InputError(
                f"{path}: damaged or without pixels ({one_line(error)}): get a new copy"
            ) from error
        check_size(path, page_size(file), max_pixels)
        return replace(_with_tags(decode_tiff(file, str(path)), file, str(path)), format=name)
    check_size(path, image.size, max_pixels)
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        _log.warning("%s: has several frames or pages, only the first is used", path)
    layout = _layout(image)
    if layout is None:
        raster = from_pillow(image, str(path))
    elif _DEEP.fullmatch(layout):
        file.seek(0)
        again = factory(BytesIO(file.read()), _NAMELESS)
        raster = _decode_deep(image, again, layout, str(path))
    else:
        raster = decode_tiff(file, str(path))
    if name == "TIFF":
        raster = _with_tags(raster, file, str(path))
    lossless = name != "JPEG" and (name != "WEBP" or _is_lossless_webp(file))
    return replace(raster, format=name, lossless=lossless)


def describe(file: IO[bytes], path: Path, array: Array) -> Raster:
    """What an open file says beside its pixels, around an array that is turned upright as they would be."""
    name = _format(file, path)
    raster = _described(array, Image.OPEN[name][0](file, str(path)), str(path))
    raster = _with_tags(raster, file, str(path)) if name == "TIFF" else raster
    return replace(raster, format=name)


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


def check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    """Refuse, by an InputError, pictures without pixels or with more than allowed."""
    width, height = size
    if width * height == 0:
        raise InputError(f"{path}: has no pixels ({width} x {height}): get a new copy")
    if width * height > max_pixels:
        raise InputError(
            f"{path}: {width} x {height} pixels are over the limit of {max_pixels}:"
            " raise max_pixels (--max-pixels) if you trust the file"
        )


def _is_lossless_webp(file: IO[bytes]) -> bool:
    """Whether the first bitstream chunk is VP8L (RFC 9649, section 2.6)."""
    file.seek(12)
    while len(header := file.read(8)) == 8:
        kind, size = header[:4], int.from_bytes(header[4:], "little")
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        file.seek(16 if kind == b"ANMF" else size + size % 2, 1)
    return False


def _layout(image: ImageFile.ImageFile) -> str | None:
    """The raw layout of samples that Pillow would narrow or misread; None where it reads all bits."""
    if image.format == "PNG" and image.tile:
        layout = str(image.tile[0].args)
        return layout if _DEEP.fullmatch(layout) else None
    if image.format == "TIFF":
        tags = cast("Any", image).tag_v2
        bits, photometric = tags.get(_BITS, (1,)), tags.get(_PHOTOMETRIC)
        if max(bits) > 8 and (photometric == 0 or (photometric in (1, 2) and len(bits) > 1)):
            args = image.tile[0].args
            layout = str(args[0] if isinstance(args, tuple) else args)
            return layout if tags.get(_PLANAR, 1) == 1 else "planes"
    return None


def _decode_deep(image: ImageFile.ImageFile, again: ImageFile.ImageFile, layout: str, name: str) -> Raster:
    """Samples of 16 bits, by reading the high bytes, and from a second opening the low bytes."""
    if layout == "LA;16B":
        _relayout(image, layout, "RGBA")
        cast("Any", image)._mode = "RGBA"
        image.load()
        octets = np.asarray(image)
        return _described(octets[..., 0::2].astype(np.uint16) << 8 | octets[..., 1::2], image, name)
    mode, order = layout.split(";16")
    order = {"N": "L" if sys.byteorder == "little" else "B"}.get(order, order)
    _relayout(again, layout, f"{mode};16{'B' if order == 'L' else 'L'}")
    image.load()
    again.load()
    array = np.asarray(image).astype(np.uint16) << 8
    array |= np.asarray(again)
    return _described(_keyed(array[..., : 4 if mode == "RGBA" else 3], image), image, name)


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
    return pixels(image, target), True


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


def _described(array: Array, image: Image.Image, name: str) -> Raster:
    """The array of a decoded image, turned upright, with what the image says beside it."""
    info = image.info
    packet: str | bytes | None = info.get("xmp") or info.get("XML:com.adobe.xmp")
    packet = packet.encode() if isinstance(packet, str) else packet or None
    block, turn = _exif(image), None
    try:
        turn = None if block is None else exif.orientation(block)
        block = None if block is None else exif.reset(block)
    except ValueError as error:
        _log.warning("%s: EXIF data is not readable and is dropped (%s)", name, one_line(error))
        block = None
    if image.format == "TIFF":  # Pillow turns these itself
        turn = cast("int", image.getexif().get(exif.ORIENTATION, 1))
    turn = turn or xmp.orientation(packet)
    dpi = _dpi(image, block)
    return Raster(
        upright(array, turn),
        icc=info.get("icc_profile") or None,
        exif=block,
        xmp=None if packet is None else xmp.reset(packet),
        dpi=dpi if dpi is None or turn < 5 else (dpi[1], dpi[0]),
        format=image.format,
    )


def _exif(image: Image.Image) -> bytes | None:
    """The block of EXIF data as it is in the file, or as it was made in memory."""
    block, text = image.info.get("exif"), image.info.get("Raw profile type exif")
    if block:
        return cast("bytes", block)
    if isinstance(text, str):
        try:
            return bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            return b""
    made = image.getexif()
    if len(made) == 0:
        return None
    octets = made.tobytes()
    return exif.from_tiff(BytesIO(octets.removeprefix(exif.PREFIX)))[0] if image.format == "TIFF" else octets


def _with_tags(raster: Raster, file: IO[bytes], name: str) -> Raster:
    try:
        block, packet, dpi = exif.from_tiff(file)
    except ValueError as error:
        _log.warning("%s: tags are not readable and are dropped (%s)", name, one_line(error))
        return replace(raster, exif=None)
    return replace(raster, exif=block, xmp=packet, dpi=dpi)


def _dpi(image: Image.Image, block: bytes | None) -> tuple[float, float] | None:
    """Pixels per inch, where the file states them; Pillow assumes some where not."""
    info = image.info
    assumed = image.format == "TIFF" or (
        image.format in ("JPEG", "MPO") and info.get("jfif_unit") not in (1, 2)
    )
    if "dpi" in info and not assumed:
        across, down = (float(side) for side in info["dpi"])
        return (across, down) if 0 < across < math.inf and 0 < down < math.inf else None
    return None if block is None else exif.resolution(block)
