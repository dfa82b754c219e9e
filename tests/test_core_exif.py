import struct
from io import BytesIO

import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onestep.core import exif, xmp

MAKER_NOTE = bytes(range(40))


def block(
    order="<", orientation=6, name=b"M\xc3\xbcller\0", thumbnail=b"\xff\xd8 small \xff\xd9", size=(4000, 3000)
):
    """EXIF data written out plainly: what is not text is where the standard puts it."""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "L", 8)

    def entry(code, kind, count, value):
        form = {3: "H2x", 4: "L"}.get(kind)
        return struct.pack(order + "HHL", code, kind, count) + (
            struct.pack(order + form, value) if form and count == 1 and isinstance(value, int) else value
        )

    ifd0_at, count = 8, 5
    data_at = ifd0_at + 2 + 12 * count + 4
    inner_at = data_at + len(name) + len(name) % 2
    inner_count = 4
    note_at = inner_at + 2 + 12 * inner_count + 4
    ifd1_at = note_at + len(MAKER_NOTE)
    thumbnail_at = ifd1_at + 2 + 12 * 2 + 4
    long = lambda value: struct.pack(order + "L", value)  # noqa: E731
    ifd0 = struct.pack(order + "H", count)
    ifd0 += entry(0x0100, 3, 1, size[0]) + entry(0x0101, 3, 1, size[1]) + entry(0x0112, 3, 1, orientation)
    ifd0 += entry(0x013B, 2, len(name), long(data_at)) + entry(0x8769, 4, 1, inner_at) + long(ifd1_at)
    inner = struct.pack(order + "H", inner_count)
    inner += entry(0x9000, 7, 4, b"0232") + entry(0x927C, 7, len(MAKER_NOTE), long(note_at))
    inner += entry(0xA002, 4, 1, size[0]) + entry(0xA003, 4, 1, size[1]) + long(0)
    ifd1 = struct.pack(order + "H", 2) + entry(0x0201, 4, 1, thumbnail_at)
    ifd1 += entry(0x0202, 4, 1, len(thumbnail)) + long(0)
    octets = (
        head + ifd0 + name.ljust(len(name) + len(name) % 2, b"\0") + inner + MAKER_NOTE + ifd1 + thumbnail
    )
    return b"Exif\0\0" + octets


def tags(data):
    found = Image.Exif()
    found.load(data)
    return dict(found) | dict(found.get_ifd(0x8769)) | {"next": found._info.next}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_read_and_reset_and_the_thumbnail_goes(order, turn):
    data = block(order, turn)
    assert exif.orientation(data) == turn
    clean = exif.reset(data)
    assert exif.orientation(clean) == 1
    assert b"small" not in clean
    assert b"M\xc3\xbcller" in clean
    found = tags(clean)
    assert found["next"] == 0
    assert found == tags(data) | {0x0112: 1, "next": 0}
    assert exif.reset(clean) == clean


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("size", [(12, 9), (65535, 65536), (400_000, 3)])
def test_the_size_is_set_wherever_it_is_stated(order, size):
    found = tags(exif.resized(block(order), *size))
    assert (found[0x0100], found[0x0101]) == (found[0xA002], found[0xA003]) == size
    assert found[0x927C] == MAKER_NOTE


def test_no_byte_changes_but_those():
    data = block()
    same = exif.resized(data, 4000, 3000)
    assert same == data
    other = exif.resized(data, 4001, 3000)
    assert len(other) == len(data)
    assert sum(a != b for a, b in zip(data, other, strict=True)) == 2


def test_nothing_is_stated_where_nothing_was():
    plain = Image.Exif()
    plain[0x010F] = "Maker"
    data = plain.tobytes()
    assert exif.orientation(data) is None
    assert exif.resolution(data) is None
    assert tags(exif.resized(exif.reset(data), 5, 6))[0x010F] == "Maker"
    assert 0x0112 not in tags(exif.reset(data))
    assert exif.reset(b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0") is None


@pytest.mark.parametrize(
    ("unit", "dpi"), [(None, (72.0, 96.0)), (2, (72.0, 96.0)), (3, (182.88, 243.84)), (1, None)]
)
def test_resolution_is_per_inch(unit, dpi):
    made = Image.Exif()
    made[0x011A], made[0x011B] = 72.0, 96.0
    if unit is not None:
        made[0x0128] = unit
    assert exif.resolution(made.tobytes()) == (dpi and pytest.approx(dpi))


@pytest.mark.parametrize(
    "data", [b"", b"Exif\0\0", b"no tags", b"II*\0", b"MM\0*" + b"\xff" * 40, b"II+\0" + bytes(40)]
)
def test_what_is_no_exif_data_is_told(data):
    for ask in (exif.orientation, exif.reset, exif.entries, lambda d: exif.resized(d, 1, 1)):
        with pytest.raises(ValueError, match=r"TIFF|short|directory"):
            ask(data)


@given(st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=12), st.integers(0, 300))
@settings(max_examples=150, deadline=None)
def test_damage_is_told_or_survived(changes, kept):
    octets = bytearray(block())[:kept]
    for place, value in changes:
        if place < len(octets):
            octets[place] = value
    try:
        data = exif.reset(bytes(octets))
        if data is not None:
            assert exif.orientation(data) in (None, 1)
            exif.resized(data, 7, 8)
            exif.packed(exif.entries(data), 8)
    except ValueError:
        pass


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_entries_go_through_a_tiff_file_and_come_back(order, big, tmp_path):
    data, path = block(order), tmp_path / "a.tif"
    found = exif.entries(data)
    assert sorted(found) == [0x013B, exif.EXIF]
    assert found[0x013B].data == b"M\xc3\xbcller\0"
    head = b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) if big else b"II*\0" + struct.pack("<L", 8)
    path.write_bytes(head + exif.packed(found, len(head), big=big))
    with path.open("rb") as file:
        again, *_ = exif.from_tiff(file)
    assert exif.entries(again) == found
    inner = tags(again)
    assert (inner[0xA002], inner[0x9000], inner[0x927C]) == (4000, b"0232", MAKER_NOTE)


def test_tifffile_reads_what_is_packed(tmp_path):
    path = tmp_path / "a.tif"
    data = exif.entries(block(">"))
    pixel = {
        256: exif.Entry(3, 1, b"\1\0"), 257: exif.Entry(3, 1, b"\1\0"), 258: exif.Entry(3, 1, b"\x08\0"),
        262: exif.Entry(3, 1, b"\1\0"), 273: exif.Entry(4, 1, b"\0\0\0\0"), 277: exif.Entry(3, 1, b"\1\0"),
        279: exif.Entry(4, 1, b"\1\0\0\0"),
    }  # fmt: skip
    path.write_bytes(b"II*\0\x08\0\0\0" + exif.packed({**data, **pixel}, 8))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert page.tags[0x013B].value == "Müller"
        assert page.tags[exif.EXIF].value["PixelXDimension"] == 4000
    with Image.open(BytesIO(path.read_bytes())) as image:
        assert image.getexif().get_ifd(0x8769)[0x927C] == MAKER_NOTE


PACKET = b"""<x:xmpmeta><rdf:Description tiff:Orientation="6" exif:PixelXDimension='400'
exif:PixelYDimension = "300" dc:title="tiff:Orientation 6 &amp; more"><tiff:ImageWidth>400</tiff:ImageWidth>
<tiff:ImageLength> 300</tiff:ImageLength></rdf:Description></x:xmpmeta>"""


def test_packets_are_changed_where_they_state_orientation_and_size():
    assert xmp.orientation(PACKET) == 6
    assert xmp.orientation(xmp.reset(PACKET)) == 1
    changed = xmp.resized(xmp.reset(PACKET), 1600, 1200)
    expected = (
        PACKET.replace(b'Orientation="6"', b'Orientation="1"')
        .replace(b"400", b"1600")
        .replace(b"300", b"1200")
    )
    assert changed == expected
    assert xmp.orientation(b"<tiff:Orientation>8</tiff:Orientation>") == 8
    for packet in (None, b"", b"<x/>", b'tiff:Orientation="9"'):
        assert xmp.orientation(packet) == 1
    assert xmp.reset(b"<x/>") == xmp.resized(b"<x/>", 3, 4) == b"<x/>"
