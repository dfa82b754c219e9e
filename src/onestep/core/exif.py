"""EXIF data: patched in place where it stays a block, copied entry by entry into and out of TIFF files.

A block of EXIF data is a small TIFF file (EXIF 2.32, section 4.5). It is not decoded and encoded again: texts
in other encodings, types of fields, and notes of makers that point into the block would suffer from that.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Final

from onestep.core import xmp

PREFIX: Final = b"Exif\0\0"
"""What JPEG puts before a block."""
ORIENTATION: Final = 274
EXIF, GPS, INTEROP = 34665, 34853, 40965
"""Entries that point to further directories."""
DESCRIPTIVE: Final = (
    *(269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249),  # names, makers, dates, ratings
    *(33432, 33723, *range(40091, 40096)),  # copyright, IPTC, titles as Windows writes them
)
"""Entries of a TIFF file that are not about how this very file stores its pixels."""
_RESOLUTION, _UNIT, _XMP = (282, 283), 296, 700
_WIDTHS, _HEIGHTS = (256, 40962), (257, 40963)
_INSIDE: Final = {EXIF: (INTEROP,), GPS: (), INTEROP: ()}
_ITEM: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 1, 7: 1, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}
"""Bytes that are swapped together, by type of field."""
_ITEMS: Final = {5: 2, 10: 2}
"""How many of them make one value, where that is not one."""
_SHORT, _LONG = 3, 4
_LONGEST: Final = 2**24
"""Bytes of an entry; longer ones are left out."""


@dataclass(frozen=True)
class Entry:
    """One field of a directory, its values packed in little-endian order."""

    kind: int
    """Type of field, 1 to 13 (TIFF 6.0, page 15)."""
    count: int
    data: bytes


Directory = Mapping[int, "Entry | Directory"]
"""Entries, and further directories, by tag."""


@dataclass(frozen=True)
class _Place:
    """Where an entry of a directory is."""

    code: int
    kind: int
    count: int
    entry: int
    value: int

    @property
    def size(self) -> int:
        return self.count * _ITEM[self.kind] * _ITEMS.get(self.kind, 1)


class _Tiff:
    """Directories of a TIFF file, BigTIFF included; says ValueError to what is none."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        head = self._read(0, 8)
        self.order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        magic = struct.unpack(f"{self.order}H", head[2:4])[0] if self.order else 0
        if magic not in (42, 43):
            raise ValueError("no TIFF header")
        self.big = magic == 43
        self.long = "Q" if self.big else "L"
        self.first = self.number(8 if self.big else 4, self.long)

    def number(self, at: int, kind: str) -> int:
        """An unsigned integer of struct's type."""
        return int(struct.unpack(self.order + kind, self._read(at, struct.calcsize(self.order + kind)))[0])

    def places(self, at: int) -> tuple[list[_Place], int]:
        """The entries of the directory at an offset, and where its pointer to the next directory is.

        Raises:
            ValueError: There is no directory at the offset.
        """
        head, step, inline = (8, 20, 8) if self.big else (2, 12, 4)
        count = self.number(at, "Q" if self.big else "H")
        if count > 4096:
            raise ValueError("no directory")
        found: list[_Place] = []
        for entry in range(at + head, at + head + step * count, step):
            code, kind = self.number(entry, "H"), self.number(entry + 2, "H")
            kind = 4 if self.big and kind in (16, 18) else kind
            number = self.number(entry + 4, self.long)
            if kind in _ITEM and 0 < number <= _LONGEST:
                place = _Place(code, kind, number, entry, entry + step - inline)
                if place.size > inline:
                    place = _Place(code, kind, number, entry, self.number(place.value, self.long))
                found.append(place)
        return found, at + head + step * count

    def data(self, place: _Place) -> bytes:
        """The values of an entry, little-endian."""
        data = self._read(place.value, place.size)
        item = _ITEM[place.kind]
        if self.order == "<" or item == 1:
            return data
        return b"".join(data[n : n + item][::-1] for n in range(0, len(data), item))

    def inside(self, place: _Place) -> int:
        """Where the directory is that an entry points to."""
        return self.number(place.value, self.long)

    def walk(self, at: int, into: tuple[int, ...] = (EXIF, GPS)) -> Iterator[_Place]:
        """All entries of a directory and of those that it points to; what is damaged there is left out."""
        for place in self.places(at)[0]:
            yield place
            if place.code in into:
                try:
                    yield from list(self.walk(self.inside(place), _INSIDE[place.code]))
                except ValueError:
                    continue

    def _read(self, at: int, size: int) -> bytes:
        if at >= 2**63:
            raise ValueError("cut short")
        self.file.seek(at)
        data = self.file.read(size)
        if len(data) < size:
            raise ValueError("cut short")
        return data


def orientation(block: bytes) -> int | None:
    """How the picture is turned, 1 (upright) to 8; None where the block does not say.

    Raises:
        ValueError: it is no EXIF data.
    """
    tiff = _block(_bare(block))
    turns = [tiff.data(place)[0] for place in tiff.places(tiff.first)[0] if place.code == ORIENTATION]
    return turns[0] if turns and 1 <= turns[0] <= 8 else None


def resolution(block: bytes) -> tuple[float, float] | None:
    """Pixels per inch, across and down; None where the block does not say.

    Raises:
        ValueError: it is no EXIF data.
    """
    return _resolution(_block(_bare(block)))


def reset(block: bytes) -> bytes | None:
    """The block with orientation 1, if it states one, and without the thumbnail.

    Returns:
        With the prefix; None where there are no entries.

    Raises:
        ValueError: it is no EXIF data.
    """
    octets = bytearray(_bare(block))
    tiff = _block(octets)
    places, after = tiff.places(tiff.first)
    if not places:
        return None
    for place in places:
        if place.code == ORIENTATION:
            _put(octets, tiff, place, 1)
    octets[after : after + 4] = bytes(4)
    return PREFIX + bytes(octets[: max(after + 4, _end(tiff))])


def resized(block: bytes, width: int, height: int) -> bytes:
    """The block with the size of the picture, where it states one, set to this.

    Raises:
        ValueError: it is no EXIF data.
    """
    octets = bytearray(_bare(block))
    tiff = _block(octets)
    for place in tiff.walk(tiff.first):
        if place.code in _WIDTHS + _HEIGHTS:
            _put(octets, tiff, place, width if place.code in _WIDTHS else height)
    return PREFIX + bytes(octets)


def entries(block: bytes) -> Directory:
    """The descriptive entries of a block, and its directories ``EXIF`` and ``GPS``.

    Raises:
        ValueError: it is no EXIF data.
    """
    tiff = _block(_bare(block))
    return _copied(tiff, tiff.first, (EXIF, GPS), DESCRIPTIVE)


def from_tiff(file: IO[bytes]) -> tuple[bytes | None, bytes | None, tuple[float, float] | None]:
    """What the first page of a TIFF file says that is not about how it stores its pixels.

    Returns:
        A block with its descriptive entries, or None; the XMP packet, or None; pixels per inch, across
        and down when it stands upright.

    Raises:
        ValueError: it is no TIFF file, or cut short.
    """
    tiff = _Tiff(file)
    found = _copied(tiff, tiff.first, (EXIF, GPS), (*DESCRIPTIVE, ORIENTATION, _XMP))
    kept = {code: entry for code, entry in found.items() if code not in (ORIENTATION, _XMP)}
    turn, packet = (found.get(code) for code in (ORIENTATION, _XMP))
    packet = packet.data if isinstance(packet, Entry) else None
    turned = turn.data[0] if isinstance(turn, Entry) else xmp.orientation(packet)
    dpi = _resolution(tiff)
    dpi = (dpi[1], dpi[0]) if dpi and 5 <= turned <= 8 else dpi
    block = PREFIX + b"II*\0\x08\0\0\0" + packed(kept, 8) if kept else None
    return block, packet and xmp.reset(packet), dpi


def packed(directory: Directory, at: int, *, big: bool = False) -> bytes:
    """A directory, little-endian, for a place at this (even) offset of a file; ``big`` for BigTIFF."""
    long, head, step = ("Q", "<Q", 20) if big else ("L", "<H", 12)
    inline = step - 4 - struct.calcsize(f"<{long}")
    body = struct.pack(head, len(directory))
    free = at + len(body) + step * len(directory) + inline
    beyond = b""
    for code, entry in sorted(directory.items()):
        if isinstance(entry, Entry):
            kind, count, data = entry.kind, entry.count, entry.data
        else:
            kind, count, data = 16 if big else _LONG, 1, struct.pack(f"<{long}", free + len(beyond))
            beyond += packed(entry, free + len(beyond), big=big)
        if len(data) > inline:
            start = free + len(beyond)
            beyond += data + b"\0" * (len(data) % 2)
            data = struct.pack(f"<{long}", start)
        body += struct.pack(f"<HH{long}", code, kind, count) + data.ljust(inline, b"\0")
    return body + bytes(inline) + beyond


def _bare(block: bytes) -> bytes:
    return re.sub(b"^(Exif\0\0){1,2}", b"", block)


def _resolution(tiff: _Tiff) -> tuple[float, float] | None:
    found = {p.code: tiff.data(p) for p in tiff.places(tiff.first)[0] if p.code in (*_RESOLUTION, _UNIT)}
    sides = [struct.unpack("<LL", found.get(code, b"").ljust(8, b"\0")[:8]) for code in _RESOLUTION]
    unit = {1: 0.0, 3: 2.54}.get(found.get(_UNIT, b"\2")[0], 1.0)
    if unit == 0 or any(above == 0 or below == 0 for above, below in sides):
        return None
    return unit * sides[0][0] / sides[0][1], unit * sides[1][0] / sides[1][1]


def _block(octets: bytes | bytearray) -> _Tiff:
    tiff = _Tiff(BytesIO(octets))
    if tiff.big:
        raise ValueError("EXIF data is never BigTIFF")
    return tiff


def _put(octets: bytearray, tiff: _Tiff, place: _Place, value: int) -> None:
    """Set an entry that holds one whole number; one of 16 bits becomes one of 32 where it must."""
    if place.count != 1 or place.kind not in (_SHORT, _LONG):
        return
    kind = _LONG if value > 65535 else place.kind
    struct.pack_into(f"{tiff.order}H", octets, place.entry + 2, kind)
    octets[place.value : place.value + 4] = struct.pack(
        f"{tiff.order}{'L' if kind == _LONG else 'H2x'}", value
    )


def _end(tiff: _Tiff) -> int:
    """Where the last of what is still referred to ends; a thumbnail usually comes after it."""
    end = 0
    for place in tiff.walk(tiff.first):
        end = max(end, place.value + place.size)
        if place.code in _INSIDE:
            try:
                end = max(end, tiff.places(tiff.inside(place))[1] + 4)
            except ValueError:
                continue
    return end


def _copied(tiff: _Tiff, at: int, into: tuple[int, ...], only: tuple[int, ...] | None = None) -> Directory:
    """A directory as entries; what is damaged is left out."""
    found: dict[int, Entry | Directory] = {}
    for place in tiff.places(at)[0]:
        try:
            if place.code in into:
                inner = _copied(tiff, tiff.inside(place), _INSIDE[place.code])
                if inner:
                    found[place.code] = inner
            elif only is None or place.code in only:
                found[place.code] = Entry(place.kind, place.count, tiff.data(place))
        except ValueError:
            continue
    return found
