"""XMP packets: what they say about orientation and size, read and changed in the text itself.

A property is an attribute or an element (XMP specification, part 1, section 7); no parser is needed for those
whose value is a number, and the rest of the packet stays as it is.
"""

import re
from typing import Final

_ORIENTATION: Final = "tiff:Orientation"
_WIDTHS: Final = ("tiff:ImageWidth", "exif:PixelXDimension")
_HEIGHTS: Final = ("tiff:ImageLength", "exif:PixelYDimension")


def orientation(packet: bytes | None) -> int:
    """How the picture is turned, 1 (upright) to 8; 1 where the packet does not say."""
    found = _pattern(_ORIENTATION).search(packet or b"")
    turn = int(found[2]) if found else 1
    return turn if 1 <= turn <= 8 else 1


def reset(packet: bytes) -> bytes:
    """The packet with orientation 1, if it states one."""
    return _with(packet, _ORIENTATION, 1)


def resized(packet: bytes, width: int, height: int) -> bytes:
    """The packet with the size of the picture, where it states one, set to this."""
    for names, side in ((_WIDTHS, width), (_HEIGHTS, height)):
        for name in names:
            packet = _with(packet, name, side)
    return packet


def _with(packet: bytes, name: str, value: int) -> bytes:
    return _pattern(name).sub(rb"\g<1>%d" % value, packet)


def _pattern(name: str) -> re.Pattern[bytes]:
    """The number of a property: ``name="6"``, ``name='6'`` or ``<name>6</name>``."""
    return re.compile(rb"(\b%s(?:\s*=\s*[\"']|\s*>)\s*)(\d{1,9})" % name.encode())
