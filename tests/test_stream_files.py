"""Picture files read and written a few rows at a time: as the ordinary reader and writer would."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from onestep.core.errors import InputError
from onestep.core.picture_read import load
from onestep.stream import png
from onestep.stream.png import PngRows, deflated, filtered, joined, open_png
from onestep.stream.rows import Window
from onestep.stream.sinks import block_size, scan_start, strip_rows
from onestep.stream.sources import Stored, first_row, open_rows


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch, tmp_path):
    monkeypatch.setattr(png, "_BYTES", 500)
    monkeypatch.chdir(tmp_path)


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def waves(height, width):
    """Colours for which an encoder of PNG chooses several kinds of filters."""
    down, across = np.mgrid[:height, :width] / 7
    planes = [np.sin(down) + np.cos(across), np.sin(down * across / 9), down + across]
    array = np.stack(planes, -1)
    return np.uint8(255 * (array - array.min()) / (array.max() - array.min()))


def rows_of(path, *tops):
    """The pixels as rows, read from several places."""
    source = open_rows(path, 10**9)
    return [np.concatenate(list(source.rasters(top))) for top in tops], source


def pngs(folder):
    """One PNG of every kind that Pillow writes, in modes that show all ways of unpacking."""
    colors, grey = Image.fromarray(waves(37, 29)), Image.fromarray(waves(37, 29)[..., 0])
    deep = (noise(37, 29, dtype=np.uint16)).astype(np.uint16)
    yield "rgb", colors, {}
    yield "rgb-noise", Image.fromarray(noise(37, 29, 3)), {"compress_level": 1}
    yield "rgba", Image.fromarray(noise(37, 29, 4)), {}
    yield "grey", grey, {}
    yield "grey-alpha", Image.fromarray(noise(37, 29, 2)), {}
    yield "palette", colors.quantize(200), {}
    yield "palette-4", colors.quantize(9), {"bits": 4}
    yield "palette-2", colors.quantize(3), {"bits": 2}
    yield "palette-clear", colors.quantize(200), {"transparency": bytes(range(200))}
    yield "one-bit", grey.convert("1"), {}
    yield "key", grey, {"transparency": 100}
    yield "rgb-key", colors, {"transparency": (10, 20, 30)}
    yield "grey-16", Image.fromarray(deep), {}


@pytest.mark.parametrize("index", range(13))
def test_png_rows_are_those_of_the_reader(index, tmp_path):
    name, image, saving = list(pngs(tmp_path))[index]
    path = tmp_path / f"{name}.png"
    image.save(path, **saving)
    expected = load(path, 10**9)
    (everything, some, last), source = rows_of(path, 0, 11, 36)
    assert isinstance(source, PngRows)
    assert everything.dtype == expected.array.dtype
    assert np.array_equal(everything, expected.array)
    assert np.array_equal(some, expected.array[11:])
    assert np.array_equal(last, expected.array[36:])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kinds", [(0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_filter_of_png(channels, kinds, dtype, tmp_path):
    """Rows that are filtered here by the words of the standard come back."""
    array = noise(23, 17, channels, dtype=dtype)
    octets = (
        array.astype(">u2" if dtype == np.uint16 else np.uint8).view(np.uint8).reshape(23, -1).astype(int)
    )
    pixel, rows = channels * np.dtype(dtype).itemsize, []
    for k, row in enumerate(octets):
        kind = kinds[k % len(kinds)]
        left = np.concatenate([np.zeros(pixel, int), row[:-pixel]])
        above = octets[k - 1] if k else np.zeros_like(row)
        corner = np.concatenate([np.zeros(pixel, int), above[:-pixel]])
        guess = left + above - corner
        near = [abs(guess - left), abs(guess - above), abs(guess - corner)]
        paeth = np.where(
            (near[0] <= near[1]) & (near[0] <= near[2]), left, np.where(near[1] <= near[2], above, corner)
        )
        predicted = [0, left, above, (left + above) // 2, paeth][kind]
        rows.append(bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes())
    header = struct.pack(
        ">IIBBBBB", 17, 23, 8 * np.dtype(dtype).itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0
    )
    data = zlib.compress(b"".join(rows))
    pieces = [data[k : k + 100] for k in range(0, len(data), 100)]
    parts = [(b"IHDR", header), *((b"IDAT", piece) for piece in pieces), (b"IEND", b"")]
    path = tmp_path / "a.png"
    path.write_bytes(png.SIGNATURE + b"".join(png.chunk(*part) for part in parts))
    (found,), _ = rows_of(path, 0)
    assert np.array_equal(found, array)


def test_what_is_not_png_by_rows_is_read_as_a_whole(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(waves(20, 30))
    image.save("turned.png", exif=exif)
    image.save("photo.jpg")
    image.save("photo.webp", lossless=True)
    Image.new("RGB", (4, 4)).save(
        "moving.png", save_all=True, append_images=[Image.new("RGB", (4, 4), "red")]
    )
    for name in ("turned.png", "photo.jpg", "photo.webp"):
        (found,), source = rows_of(tmp_path / name, 0)
        assert not isinstance(source, PngRows)
        assert np.array_equal(found, load(tmp_path / name, 10**9).array)
    assert (source.height, source.width) == (20, 30)
    assert open_png(tmp_path / "moving.png") is None
    interlaced = bytearray((tmp_path / "turned.png").read_bytes())
    interlaced[28] = 1
    (tmp_path / "interlaced.png").write_bytes(interlaced)
    assert open_png(tmp_path / "interlaced.png") is None


def test_damaged_png(tmp_path):
    Image.fromarray(noise(40, 30, 3)).save("a.png", compress_level=0)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"cut\.png: damaged or cut short"):
        open_png(tmp_path / "cut.png")
    source = open_png(tmp_path / "a.png")
    place, length = source.data[-1]
    broken = bytearray(whole)
    broken[place + 5 : place + length - 4] = b"\xff" * (length - 9)
    (tmp_path / "a.png").write_bytes(broken)
    with pytest.raises(InputError, match=r"a\.png: damaged or cut short"):
        list(source.rasters(0))
    short = PngRows(source.path, source.header, [], source.data[:0])
    with pytest.raises(InputError, match="rows are missing"):
        list(short.rasters(0))


TIFFS = {
    "strips": {"rowsperstrip": 7, "photometric": "rgb"},
    "tiles": {"tile": (16, 32), "photometric": "rgb", "compression": "zlib", "predictor": True},
    "big-endian": {"rowsperstrip": 7, "photometric": "rgb", "byteorder": ">"},
    "big": {"rowsperstrip": 5, "photometric": "rgb", "bigtiff": True},
}


@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_rows_are_those_of_the_reader(kind, dtype, tmp_path):
    array = noise(45, 70, 3, dtype=dtype)
    tifffile.imwrite("a.tif", array, **TIFFS[kind])
    (everything, some), source = rows_of(tmp_path / "a.tif", 0, 19)
    assert np.array_equal(everything, array)
    assert np.array_equal(some, array[19:])
    assert len(list(source.rasters(0))) > 2


@pytest.mark.parametrize(
    ("channels", "more"),
    [
        (1, {"photometric": "minisblack"}),
        (1, {"photometric": "miniswhite"}),
        (2, {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]}),
        (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (4, {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        (3, {"photometric": "rgb", "planarconfig": "separate"}),
    ],
)
def test_other_tiff_files(channels, more, tmp_path):
    array = noise(45, 20, channels)
    array = array[..., 0] if channels == 1 else array
    array = np.moveaxis(array, -1, 0) if more.get("planarconfig") == "separate" else array
    tifffile.imwrite("a.tif", array, rowsperstrip=6, **more)
    (found,), _ = rows_of(tmp_path / "a.tif", 0)
    assert np.array_equal(found, load(tmp_path / "a.tif", 10**9).array)


def test_damaged_tiff(tmp_path):
    tifffile.imwrite("a.tif", noise(45, 20, 3), rowsperstrip=6, photometric="rgb", compression="zlib")
    source = open_rows(tmp_path / "a.tif", 10**9)
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.tif: damaged or cut short"):
        list(source.rasters(0))


def test_the_first_row_tells_what_the_file_carries(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    Image.fromarray(waves(9, 8)).save("a.png", exif=exif, dpi=(300, 300), icc_profile=b"\0" * 200)
    Image.fromarray(waves(9, 8)).save("a.jpg", exif=exif, dpi=(300, 300))
    for name in ("a.png", "a.jpg"):
        about, whole = first_row(open_rows(tmp_path / name, 10**9)), load(tmp_path / name, 10**9)
        assert (about.exif, about.icc, about.dpi, about.format) == (
            whole.exif,
            whole.icc,
            whole.dpi,
            whole.format,
        )
        assert np.array_equal(about.array, whole.array[:1])


def test_a_window_reads_what_is_asked_for_in_any_order(tmp_path):
    array = noise(60, 11, 3)
    Image.fromarray(array).save("a.png")
    window = Window(Stored(open_rows(tmp_path / "a.png", 10**9)))
    for top, bottom in ((5, 9), (5, 30), (28, 29), (29, 60), (0, 60), (59, 60), (10, 12)):
        found = window.read(top, bottom)[0].movedim(0, -1).numpy()
        assert np.array_equal(found, array[top:bottom])
    with pytest.raises(ValueError, match="no rows"):
        window.read(50, 61)


@pytest.mark.parametrize("level", [1, 6, 9])
def test_pieces_of_a_deflate_stream_make_one(level):
    pieces = [noise(n, seed=n).tobytes() * 3 for n in (1000, 1, 7, 4000)]
    stream = b"\x78\x01" + b"".join(deflated(piece, level) for piece in pieces) + b"\x03\x00"
    checksum = 1
    for piece in pieces:
        checksum = joined(checksum, zlib.adler32(piece), len(piece))
    assert checksum == zlib.adler32(b"".join(pieces))
    assert zlib.decompress(stream + struct.pack(">I", checksum)) == b"".join(pieces)


def test_filtered_rows_come_back(tmp_path):
    for array in (noise(13, 9, 3), noise(13, 9, 4, dtype=np.uint16), noise(1, 5, 1)):
        height, width, channels = array.shape
        header = struct.pack(
            ">IIBBBBB", width, height, 8 * array.itemsize, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0
        )
        data = zlib.compress(filtered(array))
        parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
        path = tmp_path / "a.png"
        path.write_bytes(png.SIGNATURE + b"".join(png.chunk(*part) for part in parts))
        assert np.array_equal(load(path, 10**9).array, array)


def test_strips_of_jpeg_are_whole_blocks(tmp_path):
    path = tmp_path / "a.jpg"
    for width, quality in ((100, 95), (65_500, 95), (65_500, 80), (20_000, 50)):
        across, down = block_size(quality)
        rows = strip_rows(path, width, 3, quality)
        assert rows % down == 0
        assert rows > 0
        assert rows // down * -(-width // across) <= 65_535
    assert strip_rows(tmp_path / "a.png", 10**8, 3, 95) == 1
    Image.fromarray(waves(8, 8)).save(path)
    data = path.read_bytes()
    assert data[: scan_start(data)].count(b"\xff\xda") == 1
