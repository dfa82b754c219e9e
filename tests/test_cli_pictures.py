"""What users type about pictures: consistency, maps of realism, limits, animations, and what is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import onestep
from command_line import upscale
from icc import PROFILES
from onestep.cli import batch
from onestep.core.consistent import downscaled
from onestep.core.errors import UsageError
from onestep.core.picture import read
from onestep.knobs import realism_map
from pictures import About, described, pixels, write

pytestmark = pytest.mark.usefixtures("workplace")
SHIPPED = "oftsr-compact-x4"


def put(path, size=(24, 18), seed=0, low=60, high=196):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(low, high, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return str(path)


def put_map(path, values):
    Image.fromarray(np.round(np.asarray(values) * 255).astype(np.uint8)).save(path)
    return str(path)


@pytest.mark.parametrize("model", ["tiny", "bicubic"])
@pytest.mark.parametrize("kernel", ["bicubic", "area"])
def test_consistent_results_keep_the_bound_that_is_printed(model, kernel, capsys):
    put("photo.png")
    assert (
        upscale("photo.png", "-o", "a.png", "--consistent", "--downscale", kernel, "--json", model=model) == 0
    )
    captured = capsys.readouterr()
    row = json.loads(captured.out)
    assert f"downscaled ({kernel}), it differs from the input by at most" in captured.err
    again = downscaled(read("a.png").rgb, (18, 24), kernel)
    found = float((again - read("photo.png").rgb).abs().max())
    assert found == pytest.approx(row["difference"], abs=1e-6)
    assert found < 0.7 / 255
    assert upscale("photo.png", "-o", "b.png", "--json", model=model) == 0
    assert "difference" not in json.loads(capsys.readouterr().out)
    assert not np.array_equal(pixels("a.png"), pixels("b.png"))
    assert upscale("photo.png", "-o", "c.jpg", "--consistent", model=model) == 0
    assert capsys.readouterr().err.endswith(" of 255, before it is compressed\n")


@pytest.mark.parametrize("words", [("--consistent", "--downscale", "box"), ("--downscale", "nearest")])
def test_unknown_downscaling(words, capsys):
    put("photo.png")
    assert upscale("photo.png", "-o", "a.png", *words) == 2
    assert "choose bicubic, bilinear, lanczos, area" in capsys.readouterr().err


def test_strips_and_consistency_contradict(capsys):
    put("photo.png")
    assert upscale("photo.png", "-o", "a.png", "--consistent", "--stream") == 2
    assert "--consistent needs the whole picture" in capsys.readouterr().err


def test_a_map_of_one_grey_is_that_realism(capsys):
    put("photo.png")
    put_map("mask.png", np.full((18, 24), 0.2))
    assert upscale("photo.png", "-o", "a.png", "--realism-map", "mask.png", "--json") == 0
    assert json.loads(capsys.readouterr().out)["realism"] == "map"
    assert upscale("photo.png", "-o", "b.png", "-r", "0.2") == 0
    assert np.array_equal(pixels("a.png"), pixels("b.png"))


def test_a_map_decides_by_region_without_a_seam(capsys):
    put("photo.png", size=(96, 48))
    half = np.zeros((48, 96))
    half[:, 48:] = 1
    put_map("mask.png", half)
    for name, words in {"m": ["--realism-map", "mask.png"], "f": ["-r", 0], "r": ["-r", 1]}.items():
        assert upscale("photo.png", "-o", f"{name}.png", *words, model=SHIPPED) == 0
    mixed, faithful, realistic = (pixels(f"{name}.png").astype(int) for name in "mfr")
    assert np.abs(mixed - faithful)[:, :80].max() <= 1
    assert np.abs(mixed - realistic)[:, 304:].max() <= 1
    assert np.abs(faithful - realistic).max() > 3
    assert upscale("photo.png", "-o", "t.png", "--realism-map", "mask.png", "-t", "64", model=SHIPPED) == 0
    assert np.abs(pixels("t.png").astype(int) - mixed).max() <= 1


def test_a_map_of_another_size_is_fitted_and_of_another_shape_is_said(capsys):
    put("photo.png", size=(24, 18))
    put_map("small.png", np.full((9, 12), 0.2))
    put_map("square.png", np.full((12, 12), 0.2))
    assert upscale("photo.png", "-o", "a.png", "--realism-map", "small.png") == 0
    assert "stretched" not in capsys.readouterr().err
    assert upscale("photo.png", "-o", "b.png", "--realism-map", "square.png") == 0
    assert "the map of realism (12x12) is stretched to 24x18" in capsys.readouterr().err
    assert np.array_equal(pixels("a.png"), pixels("b.png"))


@pytest.mark.parametrize(
    ("words", "model", "says"),
    [
        (["--realism-map", "none.png"], "tiny", "the realism map none.png: no such file"),
        (["--realism-map", "text.png"], "tiny", "not an image"),
        (["--realism-map", "photo.png", "-r", "0.5"], "tiny", "--realism and --realism-map contradict"),
        (["--realism-map", "photo.png", "-O", "realism=0.5"], "tiny", "realism is given twice"),
        (["--realism-map", "photo.png"], "bicubic", "bicubic has no option 'realism'"),
    ],
)
def test_maps_that_cannot_be(words, model, says, capsys):
    put("photo.png")
    Path("text.png").write_text("Dear diary, no picture.")
    assert upscale("photo.png", "-o", "a.png", *words, model=model) == 2
    assert says in capsys.readouterr().err
    assert not Path("a.png").exists()


def test_another_map_is_another_job(capsys):
    put("in/photo.png")
    put_map("mask.png", np.full((18, 24), 0.2))
    statuses = []
    for value in (None, None, 0.8):
        if value is not None:
            put_map("mask.png", np.full((18, 24), value))
        assert upscale("in", "-o", "out", "--realism-map", "mask.png", "--json") == 0
        statuses.append(json.loads(capsys.readouterr().out)["status"])
    assert statuses == ["ok", "skipped", "ok"]


def test_maps_are_grey_of_any_depth():
    ramp = np.linspace(0, 65535, 12).astype(np.uint16).reshape(3, 4, 1)
    write("deep.png", ramp)
    assert torch.allclose(realism_map("deep.png")[0, 0], torch.from_numpy(ramp[..., 0] / 65535).float())
    Image.fromarray(np.full((3, 4, 4), (255, 0, 0, 9), np.uint8)).save("red.png")
    assert torch.allclose(realism_map("red.png"), torch.full((1, 1, 3, 4), 0.299))
    with pytest.raises(UsageError, match="the realism map nowhere"):
        realism_map("nowhere")
    put("photo.png")
    by_file = onestep.upscale("photo.png", "tiny", device="cpu", realism="deep.png")
    by_map = onestep.upscale("photo.png", "tiny", device="cpu", realism=ramp[..., 0] / 65535)
    assert torch.allclose(by_file.rgb, by_map.rgb, atol=1e-6)


def test_large_pictures_say_what_they_take_before_they_begin(monkeypatch, capsys):
    put("photo.png", size=(100, 90))
    assert upscale("photo.png", "-o", "a.png", "-t", "32") == 0
    assert "of memory" not in capsys.readouterr().err
    assert upscale("photo.png", "-o", "a.png", "-t", "32", "-v") == 0
    assert "photo.png: 400x360 in" in capsys.readouterr().err
    monkeypatch.setattr(batch, "_LARGE", 1000)
    assert upscale("photo.png", "-o", "a.png", "-t", "32") == 0
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("photo.png: 400x360 in ")
    assert said[0].endswith(" MB of memory")
    assert said[1].startswith("photo.png -> a.png")


def test_an_animation_gives_its_first_frame_with_a_warning(capsys):
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "blue")]
    frames[0].save("a.gif", save_all=True, append_images=frames[1:])
    assert upscale("a.gif", "-o", "out/", model="bicubic") == 0
    assert "several frames or pages, only the first is used" in capsys.readouterr().err
    assert pixels("out/a_x4.png").reshape(-1, 3).tolist() == [[255, 0, 0]] * (36 * 28)


def test_more_pixels_than_allowed_are_refused_in_one_line(capsys):
    put("photo.png", size=(24, 18))
    assert upscale("photo.png", "-o", "a.png", "--max-pixels", 431) == 1
    said = capsys.readouterr().err
    assert "24 x 18 pixels are over the limit of 431" in said
    assert len(said.splitlines()) == 1
    assert upscale("photo.png", "-o", "a.png", "--max-pixels", 432) == 0


@pytest.mark.parametrize("extension", ["png", "tif", "jpg", "webp"])
def test_what_a_file_says_survives_the_command(extension):
    array = np.random.default_rng(1).integers(60, 196, (18, 24, 3), dtype=np.uint8)
    about = About(6, PROFILES["display p3"], (300, 150), "Zoë", b'<x tiff:ImageWidth="24"/>')
    write(f"a.{extension}", array, about)
    assert upscale(f"a.{extension}", "-o", f"b.{extension}", "-s", "2.5") == 0
    after = described(f"b.{extension}")
    assert after["size"] == (45, 60)
    assert after["icc"] == about.icc
    assert after["xmp"] == b'<x tiff:ImageWidth="45"/>'
    assert after["tags"].get(274, 1) == 1
    assert "Zo" in after["tags"][315]
    if extension != "webp":
        assert after["dpi"] == (150, 300)
    if extension != "tif":
        assert (after["inner"][0xA002], after["inner"][0xA003]) == (45, 60)


def test_damaged_tiff_files_are_one_line_whatever_decoders_would_say(capfd, tmp_path):
    """Pillow logs what it finds, and libtiff writes past Python to the standard error of the process."""
    colors = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8))
    colors.save("lzw.tif", compression="tiff_lzw")
    colors.save("samples.tif")
    for name, place, octets in (("lzw", 60, b"\x5a" * 140), ("samples", None, b"")):
        data = bytearray((tmp_path / f"{name}.tif").read_bytes())
        if place is None:  # the entry on samples per pixel (277): of type 3, one of them
            place, octets = data.index(b"\x15\x01\x03\x00\x01\x00\x00\x00") + 8, b"\x00\x08"
        data[place : place + len(octets)] = octets
        (tmp_path / f"{name}.tif").write_bytes(data)
        assert upscale(f"{name}.tif", "-o", "out.png", model="bicubic") == 1
        said = capfd.readouterr().err
        assert said.startswith(f"onestep: {name}.tif: damaged")
        assert len(said.splitlines()) == 1


def test_the_memory_of_a_streamed_picture_is_estimated_and_does_not_know_its_height(monkeypatch, capsys):
    found = {}
    for height in (80, 800):
        put(f"{height}.png", size=(60, height))
        for way in ("--stream", "--no-stream"):
            assert upscale(f"{height}.png", "-o", "a.png", "-t", 32, "--dry-run", "--json", way) == 0
            found[way, height] = json.loads(capsys.readouterr().out)["memory"]
    assert found["--stream", 80] == found["--stream", 800] > 2 * 32 * 4 * 240 * 12
    pixels_more = 720 * 60 * (1 + 1 + 16) * 12  # as read, as a model sees it, and enlarged
    assert found["--no-stream", 800] == found["--no-stream", 80] + pixels_more
    monkeypatch.setattr(batch, "_LARGE", 1000)
    assert upscale("80.png", "-o", "a.png", "-t", 32, "--stream") == 0
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("80.png: 240x320 in ")
    assert said.endswith(f" tiles, strip by strip, about {found['--stream', 80] / 1e6:.0f} MB of memory")
