import logging
import os
import stat

import numpy as np
import pytest
from PIL import Image, ImageCms

from onestep.core import picture_write
from onestep.core.errors import InputError
from onestep.core.picture import as_picture, read
from onestep.core.raster import Raster

RNG = np.random.default_rng(2)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NAMES = ("a.png", "a.jpg", "a.jpeg", "a.webp", "a.tif", "a.tiff", "a.bmp", "A.PNG")


def _array(channels, dtype=np.uint8, size=(13, 11)):
    return RNG.integers(1, np.iinfo(dtype).max, (*size, channels), dtype=dtype, endpoint=True)


def _store(path, array, **metadata):
    picture_write.store(path, Raster(array, **metadata), quality=90, lossless=True)


def _exif():
    exif = Image.Exif()
    exif[271], exif[306] = "Maker", "2020:01:02 03:04:05"
    inner = exif.get_ifd(0x8769)
    inner[0x9003], inner[0xA002], inner[0xA003] = "2020:01:02 03:04:05", 4000, 3000
    inner[0x927C] = b"notes of the maker\0"
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.5)
    return exif.tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_every_depth_and_kind_survives(tmp_path, name, channels, dtype):
    array = _array(channels, dtype, (150, 11))  # more rows than are compressed at a time
    _store(tmp_path / name, array)
    picture = read(tmp_path / name)
    out = picture.to_uint8() if dtype == np.uint8 else picture.to_uint16()
    assert picture.bits == 8 * array.itemsize
    assert np.array_equal(out, array)
    if name == "a.png" or (channels, dtype) != (2, np.uint16):  # the one kind that Pillow cannot open
        with Image.open(tmp_path / name) as image:
            image.load()
            assert image.size == (11, 150)


def test_16_bit_png_is_filtered_and_small(tmp_path):
    ramp = np.add.outer(np.arange(200), 37 * np.arange(300)).astype(np.uint16)
    array = np.stack([ramp, ramp + 5, ramp * 2], axis=-1)
    _store(tmp_path / "a.png", array)
    assert (tmp_path / "a.png").stat().st_size < array.nbytes / 20
    assert np.array_equal(read(tmp_path / "a.png").to_uint16(), array)


@pytest.mark.parametrize("name", NAMES)
def test_the_extension_decides(tmp_path, name):
    as_picture(_array(3)).save(tmp_path / name)
    assert read(tmp_path / name).format == picture_write.FORMATS[f".{name.lower().split('.')[1]}"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_metadata_survives_with_the_new_size(tmp_path, name, dtype):
    picture = as_picture(_array(3, dtype))
    source = Raster(_array(3, dtype), icc=ICC, exif=_exif(), xmp=b"<x:xmpmeta/>")
    if dtype == np.uint16 and name in ("a.jpg", "a.webp"):
        source = Raster(picture.to_uint8(), source.icc, source.exif, source.xmp)
    picture_write.store(tmp_path / name, source, quality=90, lossless=False)
    out = read(tmp_path / name)
    assert out.icc == ICC
    assert out.xmp == b"<x:xmpmeta/>"
    tags = Image.Exif()
    tags.load(out.exif)
    assert (tags[271], tags[306]) == ("Maker", "2020:01:02 03:04:05")
    inner = tags.get_ifd(0x8769)
    assert (inner[0xA002], inner[0xA003]) == (11, 13)
    assert inner[0x9003] == "2020:01:02 03:04:05"
    assert inner[0x927C] == b"notes of the maker\0"
    assert tags.get_ifd(0x8825)[1] == "N"
    assert tags.get_ifd(0x8825)[2] == (1.0, 2.0, 3.5)


def test_metadata_can_be_stripped(tmp_path):
    _store(tmp_path / "a.png", _array(3), icc=ICC, exif=_exif(), xmp=b"<x/>")
    picture = read(tmp_path / "a.png")
    for name in ("b.png", "b.jpg", "b.webp", "b.tif", "b.bmp"):
        picture.save(tmp_path / name, keep_metadata=False)
        out = read(tmp_path / name)
        assert (out.icc, out.exif, out.xmp) == (None, None, None), name


def test_metadata_that_does_not_fit_is_dropped_with_a_warning(tmp_path, caplog):
    exif = Image.Exif()
    exif[270] = "x" * 70_000
    _store(tmp_path / "a.jpg", _array(3), exif=exif.tobytes(), xmp=b"y" * 70_000)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "too long for JPEG" in caplog.text
    out = read(tmp_path / "a.jpg")
    assert (out.exif, out.xmp) == (None, None)
    caplog.clear()
    _store(tmp_path / "a.png", _array(3), exif=b"Exif\0\0no tags")
    assert "EXIF data is not valid" in caplog.text
    assert read(tmp_path / "a.png").exif is None


def test_a_grey_profile_stays_with_grey_pictures(tmp_path, caplog):
    icc = bytearray(ICC)
    icc[16:20] = b"GRAY"
    _store(tmp_path / "a.png", _array(1), icc=bytes(icc))
    assert read(tmp_path / "a.png").icc == bytes(icc)
    assert caplog.records == []
    for name, channels in (("a.webp", 1), ("b.png", 3)):
        caplog.clear()
        _store(tmp_path / name, _array(channels), icc=bytes(icc))
        assert "for another kind of picture" in caplog.text
        assert read(tmp_path / name).icc is None


@pytest.mark.parametrize("name", ["a.jpg"])
@pytest.mark.parametrize("channels", [2, 4])
def test_transparency_is_laid_on_white_where_it_must(tmp_path, caplog, name, channels):
    array = np.zeros((16, 24, channels), np.uint8)
    array[:, :8, -1] = 255
    array[:, 8:16, -1] = 51
    _store(tmp_path / name, array)
    assert "holds no transparency: laid on white" in caplog.text
    out = read(tmp_path / name).to_uint8()
    assert out.shape[-1] == channels - 1
    assert out[8, 3].tolist() == pytest.approx([0] * (channels - 1), abs=2)
    assert out[8, 12].tolist() == pytest.approx([204] * (channels - 1), abs=2)
    assert out[8, 20].tolist() == pytest.approx([255] * (channels - 1), abs=2)


def test_what_a_format_cannot_hold_is_refused(tmp_path):
    long = np.zeros((1, 16_400, 3), np.uint8)
    with pytest.raises(
        InputError, match=r"a\.webp: WEBP holds at most 16383 pixels a side, not 16400: use \.png"
    ):
        _store(tmp_path / "a.webp", long)
    _store(tmp_path / "a.jpg", long)
    assert read(tmp_path / "a.jpg").width == 16_400


def test_places_that_cannot_be_written_are_refused_in_one_line(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none" / "a.png", tmp_path / "folder.png", tmp_path / "file" / "a.tif"):
        with pytest.raises(InputError) as caught:
            _store(path, _array(3, np.uint16))
        message = str(caught.value)
        assert message.startswith(f"{path}: cannot be written (")
        assert ".part" not in message
        assert "\n" not in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the super user may write anywhere"
)
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IREAD | stat.S_IEXEC)
    with pytest.raises(InputError, match="Permission denied"):
        _store(tmp_path / "a.png", _array(3))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name, dtype):
    path = tmp_path / name
    _store(path, _array(3))
    before = path.read_bytes()

    def fail(*_args, **_kwargs):
        half = next(p for p in tmp_path.iterdir() if p != path)
        assert half.stat().st_size > 0, "the new file was begun under another name"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        as_picture(_array(3, dtype)).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_replaced(tmp_path):
    first, second = _array(3), _array(3)
    _store(tmp_path / "a.png", first)
    _store(tmp_path / "a.png", second)
    assert np.array_equal(read(tmp_path / "a.png").to_uint8(), second)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
