"""``onestep upscale``: every option and the picture that it gives."""

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import records, upscale
from onestep import Picture, Upscaler
from onestep.cli import run
from onestep.core.picture import read
from pictures import pixels, put

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def photo(tmp_path):
    return put(tmp_path / "photo.png")


def size(path):
    with Image.open(path) as image:
        return image.size


def test_one_file_to_one_file(photo, capsys):
    assert upscale(photo, "-o", "out.png") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{photo} -> out.png" in captured.err
    assert size("out.png") == (48, 36)


def test_the_command_gives_what_the_python_object_gives(photo):
    assert upscale(photo, "-o", "out.png", "-s", 3, "-r", 0.8, "--seed", 5, "--color", "wavelet") == 0
    up = Upscaler.load("tiny", device="cpu", dtype="float32")
    expected = up(photo, scale=3, realism=0.8, seed=5, color="wavelet").to_uint8()
    assert np.array_equal(pixels("out.png"), expected)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "photo_x4.png"),
        (["-s", 2.5], "photo_x2.5.png"),
        (["--width", 30], "photo_30w.png"),
        (["--height", 30], "photo_30h.png"),
        (["--width", 30, "--height", 20], "photo_30x20.png"),
        (["--suffix", "-large"], "photo-large.png"),
        (["--suffix", "", "--ext", "jpg"], "photo.jpg"),
        (["--ext", ".TIF"], "photo_x4.tif"),
    ],
)
def test_names_in_a_folder(photo, tmp_path, words, name):
    assert upscale(photo, "-o", "out/", *words) == 0
    assert [file.name for file in (tmp_path / "out").glob("[!.]*")] == [name]


@pytest.mark.parametrize(
    ("ext", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF")]
)
def test_every_extension_is_really_that_format(photo, ext, kind):
    assert upscale(photo, "-o", "out", "--ext", ext) == 0
    with Image.open(f"out/photo_x4.{ext}") as image:
        assert (image.format, image.size) == (kind, (48, 36))


def test_quality_and_lossless_webp(tmp_path):
    photo = put(tmp_path / "a.jpg", (30, 30))
    for quality in (20, 95):
        assert upscale(photo, "-o", f"q{quality}.jpg", "--quality", quality) == 0
    assert (tmp_path / "q20.jpg").stat().st_size < (tmp_path / "q95.jpg").stat().st_size
    exact = put(tmp_path / "b.webp", lossless=True)
    assert upscale(exact, "-o", "b_out.webp") == 0
    assert upscale(exact, "-o", "b_out.png") == 0
    assert np.array_equal(pixels("b_out.webp"), pixels("b_out.png"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-s", 1], (12, 9)),
        (["-s", 2.5], (30, 22)),  # 22.5: half to even
        (["-s", 3.5], (42, 32)),  # 31.5
        (["-s", 5], (60, 45)),
        (["-s", 16], (192, 144)),
        (["--width", 30], (30, 22)),
        (["--height", 30], (40, 30)),
        (["--width", 25, "--height", 40], (25, 40)),
    ],
)
def test_sizes_are_exact(photo, words, expected):
    assert upscale(photo, "-o", "out.png", *words) == 0
    assert size("out.png") == expected


def test_realism_and_model_options(photo):
    for name, words in {
        "low": ["-r", 0],
        "high": ["--realism", 1],
        "same": ["-O", "realism=1.0"],
        "default": [],
    }.items():
        assert upscale(photo, "-o", f"{name}.png", *words) == 0
    assert not np.array_equal(pixels("low.png"), pixels("high.png"))
    assert not np.array_equal(pixels("default.png"), pixels("high.png"))
    assert np.array_equal(pixels("same.png"), pixels("high.png"))
    words = ["-O", "evaluations=1", "-O", "solver=euler"]
    assert upscale(photo, "-o", "teacher.png", *words, model="tiny-teacher") == 0


def test_seeds_decide_the_pixels(photo, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert upscale(photo, "-o", f"{name}.png", "--seed", seed) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_tiles_are_counted_and_change_nothing_beyond_rounding(tmp_path, capsys):
    photo = put(tmp_path / "wide.png", (128, 32))
    assert upscale(photo, "-o", "whole.png", "-t", "off", "--json") == 0
    assert upscale(photo, "-o", "tiled.png", "-t", 64, "--overlap", 32, "--json") == 0
    assert [row["tiles"] for row in records(capsys)] == [1, 3]
    difference = np.abs(pixels("whole.png").astype(int) - pixels("tiled.png"))
    assert difference.max() <= 1


def test_precision_can_be_chosen(photo):
    words = ["upscale", str(photo), "-n", "tiny", "-g", "cpu"]
    assert run([*words, "-o", "half.png", "--dtype", "bfloat16"]) == 0
    assert run([*words, "-o", "full.png", "--dtype", "float32"]) == 0
    assert not np.array_equal(pixels("half.png"), pixels("full.png"))


def test_colour_fixes(photo):
    for kind in ("none", "wavelet", "adain"):
        assert upscale(photo, "-o", f"{kind}.png", "--color", kind) == 0
    means = {kind: pixels(f"{kind}.png").mean((0, 1)) for kind in ("none", "wavelet", "adain")}
    wanted = pixels(photo).mean((0, 1))
    assert np.abs(means["adain"] - wanted).max() < 6
    assert np.abs(means["adain"] - wanted).max() < np.abs(means["none"] - wanted).max()


def test_metadata_stays_unless_stripped(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif[0x0112] = 6
    photo = put(tmp_path / "a.jpg", (12, 8), exif=exif, icc_profile=b"\0" * 16 + b"RGB " + b"\0" * 200)
    assert upscale(photo, "-o", "kept.jpg") == 0
    assert upscale(photo, "-o", "bare.jpg", "--strip-metadata") == 0
    with Image.open("kept.jpg") as kept, Image.open("bare.jpg") as bare:
        assert kept.size == bare.size == (32, 48)
        assert kept.getexif()[0x010E] == "a description"
        assert kept.getexif().get(0x0112, 1) == 1
        assert "icc_profile" in kept.info
        assert not bare.getexif()
        assert "icc_profile" not in bare.info


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_kinds_of_pictures_stay_what_they_are(tmp_path, mode):
    photo = put(tmp_path / "a.png", mode=mode)
    assert upscale(photo, "-o", "out.png") == 0
    with Image.open("out.png") as image:
        assert (image.mode, image.size) == (mode, (48, 36))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, channels):
    values = torch.rand(1, 3, 9, 12)
    alpha = torch.rand(1, 1, 9, 12) if channels == 4 else None
    values = values[:, :1].expand(-1, 3, -1, -1) if channels == 1 else values
    Picture(values, alpha, bits=16, grey=channels == 1).save(tmp_path / "a.png")
    assert upscale("a.png", "-o", "out.png") == 0
    out = read("out.png")
    assert (out.bits, out.grey, out.alpha is not None) == (16, channels == 1, channels == 4)
    assert (out.to_uint16() % 257).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (3, 2)])
def test_tiny_pictures(tmp_path, shape):
    photo = put(tmp_path / "a.png", shape)
    assert upscale(photo, "-o", "out.png") == 0
    assert size("out.png") == (4 * shape[0], 4 * shape[1])
