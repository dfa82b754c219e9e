"""Image files that grow by strips: PNG, TIFF (BigTIFF from 4 GB on) and JPEG.

The ordinary writer makes a small file of the first rows, with all metadata; from it come the head of the
large file and its tail. Every strip in between is compressed on its own and looks at no other. So a file that
was cut behind any strip can be continued, and ends up byte for byte as if it never had been.
"""

import functools
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from onestep.core.picture_write import encode_jpeg, format_of
from onestep.core.raster import Array
from onestep.stream.png import SIGNATURE, chunk, deflated, filtered, joined

LEVEL: Final = 1
"""Of compression: files are a tenth larger than at level 6, and written six times as fast."""
STREAMABLE: Final = ("PNG", "TIFF", "JPEG")
_STRIP_BYTES: Final = 2**23
"""Of pixels in a strip, about."""
_LONGEST_INTERVAL: Final = 65_535
"""Blocks between two restart markers of a JPEG file."""


@dataclass(frozen=True)
class Strip:
    """What the end of a file needs to know about a strip that was written."""

    end: int
    """The place in the file behind it."""
    size: int
    """Bytes before compression."""
    checksum: int
    """Adler-32 of these."""


class Sink(Protocol):
    """How rows become bytes of a file."""

    def head(self) -> bytes:
        """What comes before the first strip."""
        ...

    def strip(self, index: int, array: Array) -> tuple[bytes, int, int]:
        """A strip (n, W, C) as bytes; size and checksum of what was compressed. For any thread."""
        ...

    def tail(self, strips: Sequence[Strip]) -> tuple[bytes, list[tuple[int, bytes]]]:
        """What comes after the last strip, and (place, bytes) of the head that only now are known."""
        ...


@dataclass(frozen=True)
class PngSink:
    """One chunk of image data per strip."""

    small: bytes
    """A file of the first rows, as the ordinary writer makes it."""
    height: int
    """Rows of the large file."""

    def head(self) -> bytes:
        """Signature, header with the true height, metadata."""
        parts = [SIGNATURE]
        for kind, data in self._chunks:
            if kind == b"IDAT":
                break
            parts.append(
                chunk(kind, data[:4] + struct.pack(">I", self.height) + data[8:] if kind == b"IHDR" else data)
            )
        return b"".join(parts)

    def strip(self, index: int, array: Array) -> tuple[bytes, int, int]:
        """Filtered, deflated."""
        rows = filtered(array)
        data = deflated(rows, LEVEL)
        return chunk(b"IDAT", data if index else b"\x78\x01" + data), len(rows), zlib.adler32(rows)

    def tail(self, strips: Sequence[Strip]) -> tuple[bytes, list[tuple[int, bytes]]]:
        """An empty last block, the checksum of all strips, metadata that stands behind."""
        checksum = functools.reduce(lambda one, two: joined(one, two.checksum, two.size), strips, 1)
        last = chunk(b"IDAT", b"\x03\x00" + struct.pack(">I", checksum))
        kinds = [kind for kind, _ in self._chunks]
        behind = self._chunks[len(kinds) - kinds[::-1].index(b"IDAT") :]
        return last + b"".join(chunk(*one) for one in behind), []

    @functools.cached_property
    def _chunks(self) -> list[tuple[bytes, bytes]]:
        found, at = list[tuple[bytes, bytes]](), len(SIGNATURE)
        while at < len(self.small):
            length, kind = struct.unpack_from(">I4s", self.small, at)
            found.append((kind, self.small[at + 8 : at + 8 + length]))
            at += 12 + length
        return found


@dataclass(frozen=True)
class TiffSink:
    """The small file as it is, strips, and a directory that replaces that of the small file."""

    small: bytes
    """A file of the first rows, as the ordinary writer makes it."""
    height: int
    """Rows of the large file."""
    rows: int
    """Rows in a strip; the last one may have fewer."""

    def head(self) -> bytes:
        """The small file: its metadata stay in use."""
        return self.small + b"\0" * (-len(self.small) % 16)

    def strip(self, index: int, array: Array) -> tuple[bytes, int, int]:
        """Differences along the rows (predictor 2), deflated."""
        differences = array.astype(array.dtype.newbyteorder("<"))
        np.subtract(array[:, 1:], array[:, :-1], out=differences[:, 1:])
        data = zlib.compress(differences.tobytes(), LEVEL)
        return data, differences.nbytes, 0

    def tail(self, strips: Sequence[Strip]) -> tuple[bytes, list[tuple[int, bytes]]]:
        """The directory of the small file with other places and sizes; the head is made to point to it."""
        big = self.small[2] == 43
        kind, long, entry, counted = (16, "<Q", "<HHQ8s", "<Q") if big else (4, "<I", "<HHI4s", "<H")
        ends = [len(self.head()), *(strip.end for strip in strips)]
        arrays = {
            _OFFSETS: ends[:-1],
            _COUNTS: [after - before for before, after in pairwise(ends)],
        }
        out = b"\0" * (-ends[-1] % 16)
        entries: dict[int, bytes] = {}
        for tag, (old, count, value) in self._entries(entry, counted).items():
            if tag in arrays:
                packed = struct.pack(f"<{len(strips)}{'Q' if big else 'I'}", *arrays[tag])
                place = struct.pack(long, ends[-1] + len(out))
                if len(packed) > len(place):
                    out += packed + b"\0" * (-len(packed) % 16)
                old, count, value = kind, len(strips), place if len(packed) > len(place) else packed
            elif tag in (_HEIGHT, _ROWS):
                number = self.height if tag == _HEIGHT else self.rows
                old, count, value = 4, 1, struct.pack("<I", number)
            entries[tag] = struct.pack(entry, tag, old, count, value.ljust(8 if big else 4, b"\0"))
        where = ends[-1] + len(out)
        out += struct.pack(counted, len(entries)) + b"".join(entries.values()) + struct.pack(long, 0)
        return out, [(8 if big else 4, struct.pack(long, where))]

    def _entries(self, entry: str, counted: str) -> dict[int, tuple[int, int, bytes]]:
        """Tag to (type, count, value or place) of the small file's directory."""
        at = struct.unpack_from("<Q" if counted == "<Q" else "<I", self.small, 8 if counted == "<Q" else 4)[0]
        (number,) = struct.unpack_from(counted, self.small, at)
        at += struct.calcsize(counted)
        size = struct.calcsize(entry)
        rows = (struct.unpack_from(entry, self.small, at + k * size) for k in range(number))
        return {tag: (kind, count, value) for tag, kind, count, value in rows}


@dataclass(frozen=True)
class JpegSink:
    """The blocks of every strip, encoded apart, between restart markers."""

    small: bytes
    """A file of the first rows, as the ordinary writer makes it."""
    height: int
    """Rows of the large file."""
    rows: int
    """Rows in a strip; the last one may have fewer."""
    quality: int

    def head(self) -> bytes:
        """Everything before the blocks, with the true height and the number of blocks in a strip."""
        head, blocks = self.small[: self._scan], 0
        at = 2
        while at < len(head):
            kind, length = struct.unpack_from(">HH", head, at)
            if kind == _FRAME:
                height, width = struct.pack(">H", self.height), struct.unpack_from(">H", head, at + 7)[0]
                head = head[: at + 5] + height + head[at + 7 :]
                across, down = block_size(self.quality) if head[at + 9] > 1 else (8, 8)
                blocks = -(-width // across) * (self.rows // down)
            if kind == _SCAN:
                break
            at += 2 + length
        return head[:at] + struct.pack(">HHH", _INTERVAL, 4, blocks) + head[at:]

    def strip(self, index: int, array: Array) -> tuple[bytes, int, int]:
        """The blocks, behind their restart marker."""
        data = encode_jpeg(array, self.quality)
        marker = struct.pack(">H", _RESTART + (index - 1) % 8) if index else b""
        return marker + data[scan_start(data) : -2], array.nbytes, 0

    def tail(self, strips: Sequence[Strip]) -> tuple[bytes, list[tuple[int, bytes]]]:
        """The marker of the end."""
        return struct.pack(">H", _END), []

    @property
    def _scan(self) -> int:
        return scan_start(self.small)


_HEIGHT, _OFFSETS, _ROWS, _COUNTS = 257, 273, 278, 279
"""Tags of TIFF."""
_FRAME, _SCAN, _INTERVAL, _RESTART, _END = 0xFFC0, 0xFFDA, 0xFFDD, 0xFFD0, 0xFFD9
"""Markers of JPEG."""


def scan_start(data: bytes) -> int:
    """Where the blocks of a baseline JPEG file begin."""
    at = 2
    while True:
        kind, length = struct.unpack_from(">HH", data, at)
        at += 2 + length
        if kind == _SCAN:
            return at


def block_size(quality: int) -> tuple[int, int]:
    """Width and height of the blocks of colour that a JPEG file is made of, at this quality."""
    return (8, 8) if quality >= 90 else (16, 16)


def strip_rows(path: Path, width: int, pixel_bytes: int, quality: int) -> int:
    """How many rows a strip shall have."""
    rows = max(_STRIP_BYTES // (width * pixel_bytes), 1)
    if format_of(path) != "JPEG":
        return rows
    across, down = block_size(quality)
    most = _LONGEST_INTERVAL // -(-width // across)
    return max(min(rows // down, most), 1) * down


def make_sink(path: Path, small: bytes, height: int, rows: int, quality: int) -> Sink:
    """The sink of a path, by its extension."""
    name = format_of(path)
    if name == "JPEG":
        return JpegSink(small, height, rows, quality)
    return PngSink(small, height) if name == "PNG" else TiffSink(small, height, rows)
