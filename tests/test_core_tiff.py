import logging
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image

from onestep.core import exif, tiff
from onestep.core.errors import InputError
from onestep.core.picture import as_picture, read

RNG = np.random.default_rng(3)
DEEP = RNG.integers(1, 65536, (40, 33, 4), dtype=np.uint16)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_16_bit_colour_in_every_layout(tmp_path, channels, compression, byteorder, planes, tile):
    array = DEEP[..., :channels]
    tifffile.imwrite(
        tmp_path / "a.tif",
        array if planes == "contig" else array.transpose(2, 0, 1),
        photometric="rgb",
        planarconfig=planes,
        compression=compression,
        predictor=compression is not None,
        byteorder=byteorder,
        extrasamples=["unassalpha"] if channels == 4 else None,
        tile=tile,
    )
    out = read(tmp_path / "a.tif")
    assert out.bits == 16
    assert np.array_equal(out.to_uint16(), array)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_grey_of_both_senses(tmp_path, photometric, dtype, compression):
    array = (DEEP[..., 0] >> (0 if dtype == np.uint16 else 8)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=photometric, compression=compression)
    picture = read(tmp_path / "a.tif")
    out = picture.to_uint16() if dtype == np.uint16 else picture.to_uint8()
    assert picture.grey
    assert np.array_equal(out[..., 0], array if photometric == "minisblack" else np.iinfo(dtype).max - array)


def test_lzw_of_16_bits_needs_no_further_library(tmp_path):
    Image.fromarray(DEEP[..., 0]).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert np.array_equal(read(tmp_path / "a.tif").to_uint16()[..., 0], DEEP[..., 0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_counts_as_16_bits(tmp_path, dtype):
    array = RNG.random((9, 8, 3)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
    out = read(tmp_path / "a.tif")
    assert out.bits == 16
    assert np.allclose(out.array, array.astype(np.float32), rtol=0, atol=1e-7)


def test_32_bits_are_narrowed_to_16(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", DEEP[..., :3].astype(np.uint32) << 16, photometric="rgb")
    assert np.array_equal(read(tmp_path / "a.tif").to_uint16(), DEEP[..., :3])


def test_premultiplied_alpha_is_divided_out(tmp_path):
    straight = DEEP[..., :4] | 0x4000
    alpha = straight[..., 3:].astype(np.float64) / 65535
    stored = np.concatenate([np.rint(straight[..., :3] * alpha).astype(np.uint16), straight[..., 3:]], -1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    out = read(tmp_path / "a.tif").to_uint16().astype(int)
    assert np.array_equal(out[..., 3], straight[..., 3])
    assert np.abs(out - straight).max() <= 3  # half a step over the smallest alpha, 1/4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_planes_are_turned_upright(tmp_path, orientation):
    array = DEEP[:6, :4, :3]
    tifffile.imwrite(
        tmp_path / "a.tif",
        array.transpose(2, 0, 1),
        photometric="rgb",
        planarconfig="separate",
        extratags=[(274, 3, 1, orientation, True)],
    )
    out = read(tmp_path / "a.tif").to_uint16()
    # Where row 0 and column 0 of the file are in the picture (TIFF 6.0, page 36).
    expected = {
        1: array,
        2: np.fliplr(array),
        3: np.rot90(array, 2),
        4: np.flipud(array),
        5: array.transpose(1, 0, 2),
        6: np.rot90(array, -1),
        7: np.rot90(array, 2).transpose(1, 0, 2),
        8: np.rot90(array, 1),
    }[orientation]
    assert np.array_equal(out, expected)


def test_the_first_of_several_pages_is_read_with_a_warning(tmp_path, caplog):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for k in range(2):
            tiff.write(DEEP[..., :3] >> k, photometric="rgb")
    with caplog.at_level(logging.WARNING):
        out = read(tmp_path / "a.tif")
    assert np.array_equal(out.to_uint16(), DEEP[..., :3])
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("array", "options", "said"),
    [
        (9 * RNG.random((4, 5, 3)).astype(np.float32), {"photometric": "rgb"}, "scale them to 0 ... 1"),
        (np.full((4, 5, 3), np.nan, np.float32), {"photometric": "rgb"}, "replace those that are NaN"),
        (np.full((4, 5), np.inf, np.float32), {}, "replace those that are NaN or infinite"),
        (DEEP[..., :3].astype(np.int16), {"photometric": "rgb"}, "samples of type int16"),
        (DEEP[..., :3].astype(np.float32), {"photometric": "cielab"}, "convert it to RGB"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path, array, options, said):
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path / "a.tif")
    assert str(caught.value).startswith(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.02])
@pytest.mark.parametrize("kind", ["float", "planes", "tiles"])
def test_truncated_files_are_refused_without_further_noise(tmp_path, caplog, kind, kept):
    path = tmp_path / "a.tif"
    if kind == "float":
        tifffile.imwrite(path, DEEP[..., :3] / np.float32(65535), photometric="rgb")
    elif kind == "planes":
        tifffile.imwrite(path, DEEP.transpose(2, 0, 1)[:3], photometric="rgb", planarconfig="separate")
    else:
        tifffile.imwrite(path, DEEP[..., :3], photometric="rgb", tile=(16, 16), compression="zlib")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with caplog.at_level(logging.WARNING), pytest.raises(InputError, match="damaged"):
        read(path)
    assert caplog.records == []


def test_the_limit_on_pixels_holds_for_what_pillow_cannot_open(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RNG.random((20, 30, 3)).astype(np.float32), photometric="rgb")
    with pytest.raises(InputError, match="30 x 20 pixels are over the limit of 599"):
        read(tmp_path / "a.tif", max_pixels=599)


@pytest.mark.parametrize("big", [False, True])
def test_what_a_picture_says_is_kept_in_files_over_4_gb_too(tmp_path, monkeypatch, big):
    if big:
        monkeypatch.setattr(tiff, "_CLASSIC_LIMIT", 100)
    block = (
        exif.PREFIX
        + b"II*\0\x08\0\0\0"
        + exif.packed(
            {
                315: exif.Entry(2, 5, b"Z\xc3\xb6e\0"),
                exif.EXIF: {0x9000: exif.Entry(7, 4, b"0232"), 0xA002: exif.Entry(4, 1, b"\0\0\0\0")},
                exif.GPS: {1: exif.Entry(2, 2, b"N\0"), 2: exif.Entry(5, 3, bytes(range(1, 25)))},
            },
            8,
        )
    )
    picture = replace(as_picture(DEEP), exif=block, xmp=b"<x/>", dpi=(300.0, 150.0))
    picture.save(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff == big
        assert file.pages[0].tags[exif.EXIF].value["PixelXDimension"] == 33
        assert file.pages[0].tags[exif.GPS].value["GPSLatitudeRef"] == "N"
    out = read(tmp_path / "a.tif")
    assert np.array_equal(out.to_uint16(), DEEP)
    assert (out.xmp, out.dpi) == (b"<x/>", (300.0, 150.0))
    kept, given = exif.entries(out.exif), exif.entries(block)
    assert kept[315] == given[315]
    assert kept[exif.GPS] == given[exif.GPS]
    assert kept[exif.EXIF][0x9000].data == b"0232"
