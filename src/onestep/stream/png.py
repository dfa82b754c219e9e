"""PNG a few rows at a time, in and out (W3C PNG, third edition).

Reading inflates the image data piece by piece. The five row filters are undone by Pillow's decoder: some rows
are dressed as a small PNG of their own, whose first row is the last one of the rows before. What the samples
mean (palettes, 1 bit, 16 bits, transparent colours) is left to the ordinary reader, to which the rows go as
another small PNG.

Writing deflates every strip on its own, so that a file that was cut behind a strip can be continued, byte for
byte, by anybody who knows the checksum so far.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Final

import numpy as np
from PIL import Image

from onestep.core.errors import InputError
from onestep.core.picture_read import decode, describe
from onestep.core.raster import Array, Raster

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Colour type to samples per pixel."""
_ANIMATION: Final = (b"acTL", b"fcTL", b"fdAT")
_MEANING: Final = (b"PLTE", b"tRNS")
"""Chunks without which samples cannot be understood."""
_PLAIN: Final = {1: (8, 0), 2: (8, 4), 3: (8, 2), 4: (8, 6), 6: (16, 2), 8: (16, 6)}
"""Bytes per pixel to a depth and colour type of pixels so long, which is all that filters depend on."""
_READ: Final = 2**16
_BYTES: Final = 2**22
"""Of samples read at a time."""
_ADLER: Final = 65521


@dataclass(frozen=True)
class PngRows:
    """The rows of a PNG file that is neither interlaced nor animated."""

    path: Path
    header: bytes
    """Content of IHDR."""
    others: list[tuple[bytes, bytes]]
    """The chunks beside the image data."""
    data: list[tuple[int, int]]
    """(offset, length) of the pieces of image data."""

    @property
    def height(self) -> int:
        """Rows."""
        return struct.unpack(">I", self.header[4:8])[0]

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return struct.unpack(">I", self.header[:4])[0]

    def describe(self, array: Array) -> Raster:
        """What the file carries beside its pixels, around an array turned as the file asks for."""
        return describe(self._small(np.zeros((1, self._row_bytes), np.uint8), self.others), self.path, array)

    def rasters(self, top: int) -> Iterator[Array]:
        """Consecutive rows from ``top`` on, (n, width, C), as the ordinary reader gives them.

        Raises:
            InputError: The image data is damaged or ends early.
        """
        count = max(_BYTES // self._row_bytes, 1)
        before = np.zeros(self._row_bytes, np.uint8)
        chunks = [chunk for chunk in self.others if chunk[0] in _MEANING]
        with self.path.open("rb") as file:
            inflated = _Inflated(file, self.data, self.path)
            for start in range(0, self.height, count):
                end = min(start + count, self.height)
                octets = inflated.read((end - start) * (1 + self._row_bytes))
                raw = self._unfiltered(np.frombuffer(octets, np.uint8).reshape(end - start, -1), before)
                before = raw[-1]
                if end > top:
                    small = self._small(raw[max(top - start, 0) :], chunks)
                    yield decode(small, self.path, 2**62).array

    @property
    def _pixel_bits(self) -> int:
        return self.header[8] * _SAMPLES[self.header[9]]

    @property
    def _row_bytes(self) -> int:
        return -(-self.width * self._pixel_bits // 8)

    def _unfiltered(self, rows: Array, before: Array) -> Array:
        """Rows (n, 1 + bytes) with the kind of filter in front, to bytes of samples."""
        pixel = max(self._pixel_bits // 8, 1)
        depth, color = _PLAIN[pixel]
        first = np.concatenate([np.zeros(1, np.uint8), before])[None]
        header = struct.pack(">IIBBBBB", before.size // pixel, len(rows) + 1, depth, color, 0, 0, 0)
        small = _png(header, [], np.concatenate([first, rows]))
        if depth == 8:
            array = np.asarray(Image.open(small))
        else:
            array = decode(small, self.path, 2**62).array.astype(">u2").view(np.uint8)
        return array.reshape(len(rows) + 1, -1)[1:]

    def _small(self, raw: Array, chunks: list[tuple[bytes, bytes]]) -> BytesIO:
        """Some rows of samples as a file."""
        header = self.header[:4] + struct.pack(">I", len(raw)) + self.header[8:]
        plain = np.zeros((len(raw), 1 + raw.shape[1]), np.uint8)
        plain[:, 1:] = raw
        return _png(header, chunks, plain)


def open_png(path: Path) -> PngRows | None:
    """The rows of a PNG file; None where they cannot be had one after the other.

    Raises:
        InputError: The file ends early.
    """
    with path.open("rb") as file:
        if file.read(8) != SIGNATURE:
            return None
        header, others, data = b"", list[tuple[bytes, bytes]](), list[tuple[int, int]]()
        while True:
            head = file.read(8)
            if len(head) < 8:
                raise InputError(f"{path}: damaged or cut short (no end of the file): get a new copy")
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IDAT":
                data.append((file.tell(), length))
                file.seek(length + 4, 1)
                continue
            content = file.read(length)
            file.seek(4, 1)
            if kind == b"IEND":
                break
            if kind == b"IHDR":
                header = content
            else:
                others.append((kind, content))
    known = len(header) == 13 and header[9] in _SAMPLES and header[8] in (1, 2, 4, 8, 16) and data
    animated = any(kind in _ANIMATION for kind, _ in others)
    return PngRows(path, header, others, data) if known and header[12] == 0 and not animated else None


def filtered(array: Array) -> bytes:
    """Rows (n, W, C) of uint8 or uint16 as PNG stores them: by differences to the row above ("Up").

    The first row, by differences to the pixel before ("Sub"), needs no other.
    """
    octets = np.ascontiguousarray(array, dtype=">u2" if array.dtype.itemsize == 2 else np.uint8)
    octets = octets.view(np.uint8).reshape(len(array), -1)
    pixel = octets.shape[1] // array.shape[1]
    rows = np.empty((len(array), 1 + octets.shape[1]), dtype=np.uint8)
    rows[:, 0] = 2
    np.subtract(octets[1:], octets[:-1], out=rows[1:, 1:])
    rows[0, 0] = 1
    rows[0, 1 : 1 + pixel] = octets[0, :pixel]
    np.subtract(octets[0, pixel:], octets[0, :-pixel], out=rows[0, 1 + pixel :])
    return rows.tobytes()


def deflated(data: bytes, level: int) -> bytes:
    """A piece of a deflate stream that ends at a byte and refers to nothing before it."""
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
    return deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)


def joined(first: int, second: int, length: int) -> int:
    """The Adler-32 checksum of two pieces of data, from that of each and the length of the second."""
    low = (first & 0xFFFF) + (second & 0xFFFF) - 1
    high = (first >> 16) + (second >> 16) + length * ((first & 0xFFFF) - 1)
    return (high % _ADLER) << 16 | low % _ADLER


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _png(header: bytes, chunks: list[tuple[bytes, bytes]], rows: Array) -> BytesIO:
    """A PNG in memory, of rows with their kind of filter in front, not compressed."""
    parts = [chunk(b"IHDR", header), *(chunk(*one) for one in chunks)]
    parts += [chunk(b"IDAT", zlib.compress(rows.tobytes(), 0)), chunk(b"IEND", b"")]
    return BytesIO(SIGNATURE + b"".join(parts))


class _Inflated:
    """The samples of a PNG file, read in order."""

    def __init__(self, file: IO[bytes], data: list[tuple[int, int]], path: Path) -> None:
        self._file, self._path = file, path
        self._pieces = iter(data)
        self._left = 0
        self._inflate = zlib.decompressobj()

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        parts, missing = list[bytes](), count
        try:
            while missing:
                part = self._inflate.decompress(self._inflate.unconsumed_tail, missing)
                part = part or self._inflate.decompress(self._next(), missing)
                parts.append(part)
                missing -= len(part)
        except zlib.error as error:
            raise InputError(f"{self._path}: damaged or cut short ({error}): get a new copy") from error
        return b"".join(parts)

    def _next(self) -> bytes:
        while self._left == 0:
            piece = next(self._pieces, None)
            if piece is None or self._inflate.eof:
                raise InputError(f"{self._path}: damaged or cut short (rows are missing): get a new copy")
            self._file.seek(piece[0])
            self._left = piece[1]
        part = self._file.read(min(_READ, self._left))
        self._left -= len(part)
        if not part:
            raise InputError(f"{self._path}: damaged or cut short (rows are missing): get a new copy")
        return part
