import logging
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from onestep.core.errors import InputError
from onestep.core.picture import read
from onestep.core.picture_read import load

RNG = np.random.default_rng(1)
COLOR = Image.fromarray(RNG.integers(0, 256, (10, 8, 3), dtype=np.uint8)).resize((24, 40))


def _same(path, expected):
    out = read(path).to_uint8()
    expected = np.asarray(expected)
    return np.array_equal(out, expected.reshape((*expected.shape[:2], -1)))


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, depth, color, rows, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + extra
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("extension", ["png", "tif", "bmp", "ppm"])
def test_exact_formats(tmp_path, extension):
    for mode in ("RGB", "L"):
        path = tmp_path / f"a.{extension}"
        COLOR.convert(mode).save(path)
        assert _same(path, COLOR.convert(mode))
        assert read(path).grey == (mode == "L")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_rows_are_converted_as_the_whole_is(mode, monkeypatch, tmp_path):
    monkeypatch.setattr("onestep.core.raster._STRIP", 7)
    image = COLOR.quantize(32) if mode == "P" else COLOR.convert(mode)
    image.save(tmp_path / "a.png", **({"transparency": bytes(range(32))} if mode == "P" else {}))
    with Image.open(tmp_path / "a.png") as again:
        expected = np.asarray(again.convert({"1": "L", "P": "RGBA"}.get(mode, mode)))
    found = load(tmp_path / "a.png", 10**6).array
    assert np.array_equal(found, expected.reshape(found.shape))


def test_the_format_is_told_by_content_not_by_name(tmp_path):
    COLOR.save(tmp_path / "a.jpg", format="PNG")
    assert read(tmp_path / "a.jpg").format == "PNG"
    assert _same(tmp_path / "a.jpg", COLOR)


def test_palette_one_bit_and_keyed_colours(tmp_path):
    palette = COLOR.quantize(32)
    palette.save(tmp_path / "p.png")
    assert _same(tmp_path / "p.png", palette.convert("RGB"))
    palette.save(tmp_path / "pk.png", transparency=3)
    out = read(tmp_path / "pk.png")
    assert np.array_equal(out.alpha[0, 0].numpy() == 0, np.asarray(palette) == 3)
    COLOR.convert("1").save(tmp_path / "b.png")
    assert _same(tmp_path / "b.png", COLOR.convert("1").convert("L"))
    COLOR.convert("1").save(tmp_path / "b.tif")
    assert _same(tmp_path / "b.tif", COLOR.convert("1").convert("L"))
    key = COLOR.getpixel((0, 0))
    COLOR.save(tmp_path / "k.png", transparency=key)
    out = read(tmp_path / "k.png")
    assert np.array_equal(out.alpha[0, 0].numpy() == 0, (np.asarray(COLOR) == key).all(-1))
    grey = COLOR.convert("L")
    grey.save(tmp_path / "g.png", transparency=grey.getpixel((0, 0)))
    out = read(tmp_path / "g.png")
    assert out.grey
    assert np.array_equal(out.alpha[0, 0].numpy() == 0, np.asarray(grey) == grey.getpixel((0, 0)))


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_of_every_kind(tmp_path, color, channels):
    array = RNG.integers(1, 65536, (5, 6, channels), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    (tmp_path / "a.png").write_bytes(_png(6, 5, 16, color, rows))
    out = read(tmp_path / "a.png")
    assert out.bits == 16
    assert out.grey == (channels <= 2)
    assert np.array_equal(out.to_uint16(), array)


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3)])
def test_16_bit_png_with_a_transparent_colour(tmp_path, color, channels):
    array = RNG.integers(0, 65536, (5, 6, channels), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    key = _chunk(b"tRNS", array[2, 3].astype(">u2").tobytes())
    (tmp_path / "a.png").write_bytes(_png(6, 5, 16, color, rows, key))
    out = read(tmp_path / "a.png").to_uint16()
    assert out.shape == (5, 6, channels + 1)
    hidden = np.zeros((5, 6), dtype=bool)
    hidden[2, 3] = True
    assert np.array_equal(out[..., -1], np.where(hidden, 0, 65535))
    assert np.array_equal(out[~hidden][:, :-1], array[~hidden])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif", "deep.png", "alpha.png"])
def test_orientation_is_applied_once(tmp_path, name, orientation):
    # What a viewer shows: transposed for 5 to 8, then turned over as the EXIF standard says.
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = (255, 0, 0)
    upright[:8, 12:] = (0, 255, 0)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    path, exif = tmp_path / name, Image.Exif()
    exif[274] = orientation
    exif[271] = "Maker"
    if name in ("deep.png", "alpha.png"):
        wide = stored.astype(">u2") * 257
        if name == "alpha.png":
            wide = np.stack([wide[..., 0], np.full_like(wide[..., 0], 65535)], axis=-1)
        rows = b"".join(b"\0" + row.tobytes() for row in wide)
        tags = _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        kind = 4 if name == "alpha.png" else 2
        path.write_bytes(_png(wide.shape[1], wide.shape[0], 16, kind, rows, tags))
    else:
        options = {"lossless": True} if name == "a.webp" else {}
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    out = read(path)
    corners = out.array[[2, 2, 13, 13], [2, 21, 2, 21]]
    expected = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert (out.height, out.width) == (16, 24)
    assert np.allclose(corners[:, : 1 if out.grey else 3], expected[:, : 1 if out.grey else 3], atol=0.1)
    tags = Image.Exif()
    tags.load(out.exif)
    assert dict(tags) == {271: "Maker"} | ({} if name == "a.tif" else {274: 1})
    out.save(tmp_path / "again.png")
    again = read(tmp_path / "again.png")
    assert (again.height, again.width) == (16, 24)


def test_cmyk_without_profile(tmp_path):
    COLOR.convert("CMYK").save(tmp_path / "a.tif")
    assert _same(tmp_path / "a.tif", COLOR.convert("CMYK").convert("RGB"))
    COLOR.convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read(tmp_path / "a.jpg").array * 255 - np.asarray(COLOR)).mean() < 4


def test_lab_becomes_rgb_and_drops_its_profile(tmp_path):
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")
    image = ImageCms.profileToProfile(COLOR, srgb, lab, outputMode="LAB")
    image.save(tmp_path / "a.tif", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    out = read(tmp_path / "a.tif")
    assert out.icc is None
    assert np.abs(out.array * 255 - np.asarray(COLOR)).mean() < 4


def test_metadata_is_found(tmp_path):
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = exif = Image.Exif()
    source[271] = "Maker"
    source.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    for name in ("a.png", "a.jpg", "a.webp", "a.tif"):
        options = {"xmp": b"<x/>"}
        if name == "a.png":
            options = {"pnginfo": PngImagePlugin.PngInfo()}
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", "<x/>")
        elif name == "a.tif":
            exif, options = Image.Exif(), {}
            exif.load(source.tobytes())
            exif[700] = b"<x/>"
        COLOR.save(tmp_path / name, icc_profile=icc, exif=exif, **options)
        out = read(tmp_path / name)
        assert out.icc == icc, name
        assert out.xmp == b"<x/>", name
        tags = Image.Exif()
        tags.load(out.exif)
        assert tags[271] == "Maker", name
        assert tags.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05", name


def test_plain_files_have_no_metadata(tmp_path):
    for name in ("a.png", "a.jpg", "a.webp", "a.tif", "a.bmp"):
        COLOR.save(tmp_path / name)
        out = read(tmp_path / name)
        assert (out.icc, out.exif, out.xmp) == (None, None, None)


@pytest.mark.parametrize("exif", [b"MM\0*" + b"\xff" * 40, b"no tags at all"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")  # Pillow's own
def test_unreadable_exif_is_dropped(tmp_path, caplog, name, exif):
    COLOR.save(tmp_path / name, exif=b"Exif\0\0" + exif)
    picture = read(tmp_path / name)
    assert picture.exif is None
    assert (picture.width, picture.height) == COLOR.size
    assert "EXIF data is not readable" in caplog.text


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_an_animation_the_first_frame_is_read_with_a_warning(tmp_path, caplog, name):
    options = {"lossless": True} if name == "a.webp" else {}
    COLOR.save(tmp_path / name, save_all=True, append_images=[COLOR.rotate(180)], **options)
    with caplog.at_level(logging.WARNING, "onestep"):
        out = read(tmp_path / name)
    assert len(caplog.records) == 1
    assert f"{name}: has several frames or pages" in caplog.text
    with Image.open(tmp_path / name) as image:
        assert np.array_equal(out.to_uint8(), np.asarray(image.convert("RGB")))
    assert out.lossless


def test_photos_of_phones_with_a_second_picture_are_jpegs(tmp_path, caplog):
    COLOR.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[COLOR])
    out = read(tmp_path / "a.jpg")
    assert (out.format, out.lossless) == ("JPEG", False)
    assert caplog.records == []


def _refused(path, **options):
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_missing_folder_empty_and_foreign_files_are_refused(tmp_path):
    assert _refused(tmp_path / "none.png") == "no such file: check the name"
    assert _refused(tmp_path).startswith("is a folder")
    (tmp_path / "empty.png").write_bytes(b"")
    assert _refused(tmp_path / "empty.png").startswith("the file is empty")
    for content in (b"%PDF-1.7 not a picture", b"x", bytes(100)):
        (tmp_path / "a.png").write_bytes(content)
        assert _refused(tmp_path / "a.png").startswith("not an image")


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif", "bmp", "gif"])
@pytest.mark.parametrize("kept", [0.95, 0.5, 0.1])
def test_truncated_files_are_refused(tmp_path, caplog, extension, kept):
    whole, cut = tmp_path / f"whole.{extension}", tmp_path / f"cut.{extension}"
    COLOR.save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * kept)])
    assert _refused(cut).startswith("damaged")
    assert caplog.records == []


def test_damaged_data_is_refused(tmp_path):
    rows = b"\0" + bytes(18)
    data = _png(3, 1, 16, 2, rows)
    (tmp_path / "a.png").write_bytes(data.replace(zlib.compress(rows)[:6], b"broken"))
    assert _refused(tmp_path / "a.png").startswith("damaged")


def test_pictures_without_pixels_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(_png(0, 5, 8, 2, b""))
    assert "without pixels" in _refused(tmp_path / "a.png")


def test_bombs_are_refused_by_their_header(tmp_path):
    (tmp_path / "a.png").write_bytes(_png(60_000, 60_000, 8, 2, b"\0"))
    message = _refused(tmp_path / "a.png")
    assert message.startswith("60000 x 60000 pixels are over the limit of 500000000")
    assert "--max-pixels" in message


def test_the_limit_is_ours_and_not_that_of_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    COLOR.save(tmp_path / "a.png")
    assert _same(tmp_path / "a.png", COLOR)
    assert "over the limit of 959" in _refused(tmp_path / "a.png", max_pixels=24 * 40 - 1)
    assert read(tmp_path / "a.png", max_pixels=24 * 40).width == 24
