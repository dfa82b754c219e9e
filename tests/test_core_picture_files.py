import errno
import struct
import zlib
from functools import cache

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from onestep.core import picture_write
from onestep.core.errors import InputError
from onestep.core.picture import as_picture, read

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: np.rot90(a[:, ::-1]),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a[:, ::-1], -1),
    8: lambda a: np.rot90(a),
}
"""What undoes each EXIF orientation."""
NAMES = ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp"]


def _array(channels, dtype=np.uint8, size=(5, 7)):
    values = np.random.default_rng(channels).integers(0, np.iinfo(dtype).max, (*size, channels))
    return (values | 1).astype(dtype)


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(array, color, *chunks):
    """A PNG file of (H, W, C) uint8 or uint16, written out plainly."""
    rows = array.astype(array.dtype.newbyteorder(">")).reshape(len(array), -1).view(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    shape = (array.shape[1], array.shape[0], 8 * array.dtype.itemsize, color, 0, 0, 0)
    body = [_chunk(b"IHDR", struct.pack(">IIBBBBB", *shape)), *chunks]
    return b"".join([b"\x89PNG\r\n\x1a\n", *body, _chunk(b"IDAT", zlib.compress(raw)), _chunk(b"IEND", b"")])


@cache  # a profile holds the second it was made in
def _metadata():
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return {"exif": exif.tobytes(), "icc_profile": icc}


def _tags(picture):
    tags = Image.Exif()
    tags.load(picture.exif)
    return tags


def _refused(path, **options):
    with pytest.raises(InputError) as refusal:
        read(path, **options)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_tiff_of_16_bits(tmp_path, channels, layout, byteorder, compression):
    array = _array(channels, np.uint16)
    path = tmp_path / "deep.tif"
    separate = layout == "separate" and channels > 1
    tifffile.imwrite(
        path,
        np.moveaxis(array, -1, 0) if separate else array,
        photometric="minisblack",
        planarconfig=None if channels == 1 else layout,
        extrasamples=["unassalpha"] if channels == 2 else None,
        byteorder=byteorder,
        compression=compression,
    )
    picture = read(path)
    assert (picture.bits, picture.format) == (16, "TIFF")
    assert np.array_equal(picture.to_uint16(), array)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["png", "tif", "webp", "deep png", "deep tif"])
def test_every_pixel_stands_upright_once(tmp_path, orientation, kind):
    deep, path = kind.startswith("deep"), tmp_path / f"a.{kind.split()[-1]}"
    array = _array(3, np.uint16 if deep else np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    if kind == "deep png":
        path.write_bytes(_png(array, 2, _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))))
    elif kind == "deep tif":
        tags = [(0x0112, 3, 1, orientation, True), (0x010F, 2, 0, "Maker", True)]
        tifffile.imwrite(path, array, photometric="rgb", extratags=tags, metadata=None, software=False)
    else:
        Image.fromarray(array).save(path, exif=exif, **({"lossless": True} if kind == "webp" else {}))
    upright = UPRIGHT[orientation](array)
    for _ in range(2):
        picture = read(path)
        assert np.array_equal(picture.to_uint16() if deep else picture.to_uint8(), upright)
        assert dict(_tags(picture)) == {0x010F: "Maker"} | ({} if path.suffix == ".tif" else {0x0112: 1})
        picture.save(path)
    with Image.open(path) as image:
        assert image.getexif().get(0x0112, 1) == 1


def test_one_level_beside_the_transparent_color_is_visible(tmp_path):
    path = tmp_path / "a.png"
    array = np.array([[[0x1234, 5, 6], [0x1235, 5, 6]]], dtype=np.uint16)
    path.write_bytes(_png(array, 2, _chunk(b"tRNS", struct.pack(">HHH", 0x1234, 5, 6))))
    assert read(path).to_uint16()[0, :, 3].tolist() == [0, 65535]


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_inks_become_colors_and_their_profile_is_dropped(tmp_path, name, caplog):
    path = tmp_path / name
    inks = {(0, 0, 0, 0): (255, 255, 255), (0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): (0, 0, 0)}
    for ink, color in inks.items():
        Image.new("CMYK", (16, 16), ink).save(path)
        assert np.allclose(read(path).to_uint8(), color, rtol=0, atol=2)
    assert not caplog.records
    Image.new("CMYK", (8, 8)).save(path, icc_profile=b"not a profile")
    assert read(path).icc is None
    assert name in caplog.text


@pytest.mark.parametrize(("name", "error"), [("a.jpg", 3), ("a.webp", 5), ("a.bmp", 0)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_formats_of_8_bits_take_every_picture(tmp_path, name, error, channels, dtype):
    ramp = np.linspace(0.1, 0.9, 32)[None, :, None] * np.iinfo(dtype).max
    array = np.broadcast_to(ramp, (24, 32, channels)).astype(dtype)
    if channels in (2, 4):
        array[..., -1] = np.iinfo(dtype).max
    as_picture(array).save(tmp_path / name)
    picture = read(tmp_path / name)
    assert picture.bits == 8
    assert (picture.width, picture.height) == (32, 24)
    expected = as_picture(array).rgb
    assert float((picture.rgb - expected).abs().max()) <= (error + 1) / 255


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_png_files_are_what_the_standard_says(tmp_path, channels):
    array = _array(channels, np.uint16, size=(70, 5))
    as_picture(array).save(tmp_path / "a.png")
    data, chunks = (tmp_path / "a.png").read_bytes(), {}
    position = 8
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        kind, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + size]
        assert zlib.crc32(kind + body) == int.from_bytes(
            data[position + 8 + size : position + 12 + size], "big"
        )
        chunks[kind] = chunks.get(kind, b"") + body
        position += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    color = {2: 4, 3: 2, 4: 6}[channels]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (5, 70, 16, color, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(70, 1 + 10 * channels)
    assert (rows[:, 0] == 1).all()
    octets = rows[:, 1:].reshape(70, 5, 2 * channels).cumsum(1, dtype=np.uint8)  # filter "Sub"
    assert np.array_equal(octets.view(">u2"), array)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_metadata_is_kept_or_stripped(tmp_path, name, dtype):
    Image.fromarray(_array(3)).save(tmp_path / "in.jpg", **_metadata(), xmp=b"<x:xmpmeta/>")
    source = read(tmp_path / "in.jpg")
    bits = 8 * np.dtype(dtype).itemsize
    source.save(tmp_path / name, bits=bits)
    kept = read(tmp_path / name)
    assert kept.bits == (bits if name in ("a.png", "a.tif") else 8)
    assert kept.icc == source.icc == _metadata()["icc_profile"]
    assert kept.xmp == b"<x:xmpmeta/>"
    assert _tags(kept)[0x010F] == "Maker"
    assert _tags(kept).get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09"
    source.save(tmp_path / name, bits=bits, keep_metadata=False)
    bare = read(tmp_path / name)
    assert (bare.icc, bare.exif, bare.xmp) == (None, None, None)
    assert b"Maker" not in (tmp_path / name).read_bytes()


def test_an_image_resized_and_saved_shows_no_hidden_color(tmp_path):
    array = np.zeros((8, 8, 4), dtype=np.uint8)
    array[...] = (0, 255, 0, 0)
    array[2:6, 2:6] = (255, 0, 0, 255)
    Image.fromarray(array).save(tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    both = (
        torch.nn.functional.interpolate(x, scale_factor=4, mode="bilinear")
        for x in (picture.rgb, picture.alpha)
    )
    rgba = torch.cat(list(both), 1)
    as_picture(rgba).save(tmp_path / "b.png")
    assert read(tmp_path / "b.png").to_uint8()[..., 1].max() == 0
    assert float(read(tmp_path / "b.png").alpha.max()) == 1


@pytest.mark.parametrize("name", [*NAMES, "deep.tif"])
def test_pictures_over_the_limit_are_refused(tmp_path, name):
    path = tmp_path / name
    if name == "deep.tif":
        array = np.moveaxis(_array(3, np.uint16, (8, 9)), -1, 0)
        tifffile.imwrite(path, array, photometric="rgb", planarconfig="separate")
    else:
        Image.fromarray(_array(3, size=(8, 9))).save(path)
    assert read(path, max_pixels=72).width == 9
    message = _refused(path, max_pixels=71)
    assert "9 x 8 pixels are over the limit of 71" in message
    assert "--max-pixels" in message


@pytest.mark.parametrize(("kind", "prefix"), [(b"iCCP", b"x\0\0"), (b"zTXt", b"x\0\0")])
def test_small_chunks_that_unpack_to_much_are_refused(tmp_path, kind, prefix):
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(_array(3), 2, _chunk(kind, prefix + zlib.compress(bytes(20_000_000), 9))))
    assert path.stat().st_size < 50_000
    _refused(path)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_deep_files_cut_short_are_refused(tmp_path, name, share):
    path = tmp_path / name
    as_picture(_array(3, np.uint16, (40, 50))).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "damaged" in _refused(path)


@pytest.mark.parametrize("name", [*NAMES, "deep.png", "deep.tif"])
def test_damage_anywhere_is_one_line_or_a_picture(tmp_path, name):
    random = np.random.default_rng(0)
    path = tmp_path / name
    as_picture(_array(3, np.uint16 if name.startswith("deep") else np.uint8)).save(path)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(60):
        broken = whole.copy()
        broken[random.integers(2, len(whole), 5)] = random.integers(0, 256, 5)
        path.write_bytes(broken.tobytes())
        try:
            read(path, max_pixels=100_000)
        except InputError:
            refused += 1
            _refused(path, max_pixels=100_000)
    assert refused > 0


@pytest.mark.parametrize("name", [*NAMES, "deep.png", "deep.tif"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_what_was_there(tmp_path, name, error, monkeypatch):
    path = tmp_path / name
    path.write_bytes(b"the old file")
    picture = as_picture(_array(3, np.uint16 if name.startswith("deep") else np.uint8))

    def fails(target, *_args, **_kwargs):
        with open(target, "wb") as file:
            file.write(b"half a f")
        raise error

    monkeypatch.setattr(Image.Image, "save", lambda _image, target, **_: fails(target))
    monkeypatch.setattr(tifffile, "imwrite", fails)
    monkeypatch.setattr(picture_write, "_write_rows", lambda file, _array: fails(file.name))
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        picture.save(path)
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"{path}: cannot be written")
        assert "No space left on device" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"the old file"
    assert [file.name for file in tmp_path.iterdir()] == [name]
    path.unlink()
    with pytest.raises((InputError, KeyboardInterrupt)):
        picture.save(path)
    assert not list(tmp_path.iterdir())


ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, row step and column step of every pass (PNG, section 8.2)."""


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (9, 17)])
def test_interlaced_png(tmp_path, channels, dtype, size):
    array = _array(channels, dtype, size)
    raw = b""
    for row, column, down, across in ADAM7:
        part = array[row::down, column::across]
        octets = part.astype(array.dtype.newbyteorder(">")).tobytes()
        if part.size:
            step = len(octets) // len(part)
            raw += b"".join(b"\0" + octets[n : n + step] for n in range(0, len(octets), step))
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", size[1], size[0], 8 * array.itemsize, color, 0, 0, 1)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(raw)), _chunk(b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    picture = read(tmp_path / "a.png")
    assert np.array_equal(picture.to_uint16() if dtype == np.uint16 else picture.to_uint8(), array)
