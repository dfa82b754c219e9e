"""Arrays to image files: whole or not at all.

A file is written under a temporary name in its folder and renamed when it is complete.
"""

import logging
import os
import secrets
import struct
import zlib
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo, putchunk

from onestep.core import exif, xmp
from onestep.core.errors import InputError, UsageError
from onestep.core.raster import Array, Raster, one_line
from onestep.core.tiff import encode_tiff

_log: Final = logging.getLogger("onestep")

FORMATS: Final = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""What can be written, by the extension of the file name."""
DEEP_FORMATS: Final = ("PNG", "TIFF")
"""Formats that hold 16 bits per sample."""
WITHOUT_ALPHA: Final = ("JPEG",)
_LONGEST: Final = {"JPEG": 65_500, "WEBP": 16_383}
"""Longest side that a format can hold, in pixels."""
_SEGMENT: Final = 65_502
"""Bytes of metadata that fit into a JPEG segment."""
_PNG_COLORS: Final = {1: 0, 2: 4, 3: 2, 4: 6}
_PNG_STRIP: Final = 64
"""Rows compressed at a time."""


def format_of(path: Path) -> str:
    """Pillow's name of the format that the extension of a path stands for.

    Raises:
        UsageError: an extension that cannot be written.
    """
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise UsageError(f"{path}: cannot write '{path.suffix}': use one of {' '.join(FORMATS)}")
    return name


def holds_profile(name: str, icc: bytes, channels: int) -> bool:
    """Whether a file of this format (Pillow's name) can hold a profile for that many channels."""
    grey = channels <= 2 and name != "WEBP"
    return name != "BMP" and (icc[16:20] == b"RGB " or (grey and icc[16:20] == b"GRAY"))


def store(
    path: Path,
    raster: Raster,
    *,
    quality: int,
    lossless: bool,
    whole: tuple[int, int] | None = None,
    into: Path | None = None,
) -> None:
    """Write (H, W, C) of type uint8, or uint16 where the format holds it.

    Transparency that the format cannot hold is laid on white; metadata that it cannot hold is dropped; both
    with a warning in the log.

    Args:
        path: its extension decides the format.
        raster: pixels and metadata.
        quality: 1 to 100, for JPEG and lossy WebP.
        lossless: for WebP.
        whole: (height, width) of the picture that the raster is the first rows of; None: its own.
        into: a file to write instead, at once; ``path`` then only stands in messages.

    Raises:
        UsageError: an extension that cannot be written, or a quality out of range.
        InputError: the folder is missing or not writable, the disk is full, or the picture is too large for
            the format.
    """
    name = format_of(path)
    if not 1 <= quality <= 100:
        raise UsageError(f"quality {quality} is out of range: use 1 to 100")
    size = whole or raster.array.shape[:2]
    check_side(path, size)
    raster = _for_format(path, name, raster, size)
    try:
        with _replacing(path) if into is None else nullcontext(into) as part:
            if name == "TIFF":
                encode_tiff(part, raster, size[0])
            elif name == "BMP" and raster.array.shape[-1] in (2, 4):
                _write_clear_bmp(part, raster)
            elif raster.array.dtype == np.uint16 and raster.array.shape[-1] > 1:
                _write_deep_png(part, raster)
            else:
                options = _options(name, raster, quality, lossless)
                to_pillow(raster.array).save(part, format=name, **options)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{path}: cannot be written ({reason}): choose another place or format") from error


def to_pillow(array: Array) -> Image.Image:
    """(H, W, C) uint8, or (H, W, 1) uint16, as a Pillow image of mode L, LA, RGB, RGBA or I;16."""
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def encode_png(array: Array) -> bytes:
    """(H, W, C) uint8 as a PNG in memory."""
    buffer = BytesIO()
    to_pillow(array).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_jpeg(array: Array, quality: int) -> bytes:
    """(H, W, 1 or 3) uint8 as a JPEG without metadata, encoded as ``store`` does."""
    buffer = BytesIO()
    to_pillow(array).save(buffer, format="JPEG", **_options("JPEG", Raster(array), quality, lossless=False))
    return buffer.getvalue()


@contextmanager
def _replacing(path: Path) -> Generator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well and deleted otherwise."""
    part = path.with_name(f".{path.name[:64]}.{secrets.token_hex(4)}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_side(path: Path, size: tuple[int, int]) -> None:
    """Refuse, by an InputError, a picture of this size if the format of the path cannot hold it."""
    name = format_of(path)
    longest, limit = max(size), _LONGEST.get(name)
    if limit is not None and longest > limit:
        raise InputError(
            f"{path}: {name} holds at most {limit} pixels a side, not {longest}: use .png or .tif"
        )


def _for_format(path: Path, name: str, raster: Raster, size: tuple[int, int]) -> Raster:
    """The raster without what the format cannot hold."""
    array, icc = raster.array, raster.icc
    block, packet = None if raster.exif is None else _resized(path, raster.exif, size), raster.xmp
    if packet is not None:
        packet = xmp.resized(packet, size[1], size[0])
    if array.shape[-1] in (2, 4) and name in WITHOUT_ALPHA:
        _log.warning("%s: %s holds no transparency: laid on white", path, name)
        array = on_white(array)
    if icc is not None and not holds_profile(name, icc, array.shape[-1]):
        if name != "BMP":
            _log.warning("%s: the colour profile is for another kind of picture and is dropped", path)
        icc = None
    if name == "JPEG":
        for label, data in (("EXIF", block), ("XMP", packet)):
            if data is not None and len(data) > _SEGMENT:
                _log.warning("%s: %s data of %d bytes is too long for JPEG: dropped", path, label, len(data))
        block = block if block is None or len(block) <= _SEGMENT else None
        packet = packet if packet is None or len(packet) <= _SEGMENT else None
    return Raster(array, icc, block, packet, raster.dpi)


def on_white(array: Array) -> Array:
    """(H, W, 2 or 4) without its alpha, laid on white."""
    color, alpha = array[..., :-1].astype(np.float32), array[..., -1:].astype(np.float32)
    full = float(np.iinfo(array.dtype).max)
    return np.rint(full + (color - full) * (alpha / full)).astype(array.dtype)


def _resized(path: Path, block: bytes, size: tuple[int, int]) -> bytes | None:
    """EXIF data whose entries on the size of the picture, if any, are those of this picture."""
    try:
        return exif.resized(block, size[1], size[0])
    except ValueError as error:
        _log.warning("%s: EXIF data is not valid and is dropped (%s)", path, one_line(error))
        return None


def _options(name: str, raster: Raster, quality: int, lossless: bool) -> dict[str, Any]:
    """Arguments of Pillow's ``save``."""
    options: dict[str, Any] = {} if raster.dpi is None or name == "WEBP" else {"dpi": raster.dpi}
    if name == "BMP":
        return options
    options["icc_profile"] = raster.icc
    if raster.exif is not None:
        options["exif"] = raster.exif
    if name == "PNG":
        return options | {"pnginfo": _png_text(raster.xmp)}
    if raster.xmp is not None:
        options["xmp"] = raster.xmp
    if name == "JPEG":
        return options | {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    return options | {"quality": quality, "lossless": lossless, "exact": lossless}


def _png_text(xmp: bytes | None) -> PngInfo:
    info = PngInfo()
    if xmp is not None:
        info.add_itxt("XML:com.adobe.xmp", xmp.decode(errors="replace"))
    return info


def _write_deep_png(path: Path, raster: Raster) -> None:
    """PNG of 16 bits and several channels, which Pillow cannot encode, with its chunk writer (RFC 2083)."""
    height, width, channels = raster.array.shape
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _PNG_COLORS[channels], 0, 0, 0))
        if raster.dpi is not None:
            metres = (round(side / 0.0254) for side in raster.dpi)
            putchunk(file, b"pHYs", struct.pack(">IIB", *metres, 1))
        if raster.icc is not None:
            putchunk(file, b"iCCP", b"ICC Profile\0\0", zlib.compress(raster.icc))
        for kind, data, *_ in _png_text(raster.xmp).chunks:
            putchunk(file, kind, data)
        if raster.exif is not None:
            putchunk(file, b"eXIf", raster.exif.removeprefix(b"Exif\0\0"))
        _write_rows(file, raster.array)
        putchunk(file, b"IEND", b"")


def _write_rows(file: IO[bytes], array: Array) -> None:
    """The image data: big-endian samples, every row filtered by "Sub" (type 1), deflated."""
    height, width, channels = array.shape
    deflate = zlib.compressobj()
    for top in range(0, height, _PNG_STRIP):
        rows = np.ascontiguousarray(array[top : top + _PNG_STRIP], dtype=">u2")
        octets = rows.view(np.uint8).reshape(len(rows), width * channels * 2)
        filtered = np.ones((len(rows), 1 + octets.shape[1]), dtype=np.uint8)
        filtered[:, 1:] = octets
        filtered[:, 1 + 2 * channels :] -= octets[:, : -2 * channels]
        data = deflate.compress(filtered.tobytes())
        if data:
            putchunk(file, b"IDAT", data)
    putchunk(file, b"IDAT", deflate.flush())


def _write_clear_bmp(path: Path, raster: Raster) -> None:
    """BMP with alpha, which Pillow cannot encode: BITMAPV4HEADER with masks (Windows GDI)."""
    array = raster.array if raster.array.shape[-1] == 4 else raster.array[..., [0, 0, 0, 1]]
    height, width = array.shape[:2]
    across, down = (round(side / 0.0254) for side in raster.dpi or (0, 0))
    file_header = struct.pack("<2sIHHI", b"BM", 122 + array.nbytes, 0, 0, 122)
    sizes = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, array.nbytes, across, down, 0, 0)
    masks = struct.pack("<4I4s48x", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs")
    with path.open("wb") as file:
        file.write(file_header + sizes + masks)
        file.write(np.ascontiguousarray(array[::-1, :, [2, 1, 0, 3]]).tobytes())
