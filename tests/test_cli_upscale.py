"""``onestep upscale``: every option, what is written, what is said, and how it ends."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from onestep import Picture, Upscaler
from onestep.cli import run
from onestep.core.picture import read

KEYS = {
    "input",
    "output",
    "status",
    "width",
    "height",
    "model",
    "realism",
    "seed",
    "seconds",
    "tiles",
    "error",
}


@pytest.fixture(autouse=True)
def _home(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(path, size=(12, 9), mode="RGB", seed=0, **saving):
    """Write a picture of noise; returns its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    Image.fromarray(array[..., 0] if channels == 1 else array).save(path, **saving)
    return str(path)


@pytest.fixture
def photo(tmp_path):
    return put(tmp_path / "photo.png")


@pytest.fixture
def album(tmp_path):
    for index in range(3):
        put(tmp_path / "album" / f"p{index}.png", seed=index)
    return tmp_path / "album"


def upscale(*words, model="tiny"):
    return run(["upscale", *map(str, words), "-n", model, "-g", "cpu", "--dtype", "float32"])


def rows(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def size(path):
    with Image.open(path) as image:
        return image.size


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


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


def test_one_json_line_per_input_with_the_keys_of_the_contract(album, capsys):
    assert upscale(album, "-o", "out", "--json", "--seed", 3) == 0
    found = rows(capsys)
    assert all(row.keys() == KEYS for row in found)
    first = dict(found[0])
    assert first.pop("seconds") > 0
    assert first == {
        "input": str(album / "p0.png"),
        "output": "out/p0_x4.png",
        "status": "ok",
        "width": 48,
        "height": 36,
        "model": "tiny",
        "realism": 0.5,
        "seed": 3,
        "tiles": 1,
        "error": None,
    }
    assert [row["output"] for row in found] == [f"out/p{index}_x4.png" for index in range(3)]


def test_skipped_and_failed_lines_have_the_same_keys(album, capsys):
    (album / "p1.png").write_bytes(b"")
    assert upscale(album, "-o", "out") == 1
    capsys.readouterr()
    assert upscale(album, "-o", "out", "--json") == 1
    found = rows(capsys)
    assert all(row.keys() == KEYS for row in found)
    assert [row["status"] for row in found] == ["skipped", "failed", "skipped"]
    assert "empty" in found[1]["error"]


def test_files_folders_and_globs_together_each_once(album, photo, capsys):
    put(album / "deep" / "q.png")
    words = [photo, album, str(album / "p*.png"), str(album / "**" / "q.png")]
    assert upscale(*words, "-o", "out", "--json") == 0
    names = [row["output"] for row in rows(capsys)]
    assert names == ["out/photo_x4.png", *(f"out/p{index}_x4.png" for index in range(3)), "out/q_x4.png"]


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
    assert [row["tiles"] for row in rows(capsys)] == [1, 3]
    difference = np.abs(pixels("whole.png").astype(int) - pixels("tiled.png"))
    assert difference.max() <= 1


def test_precision_can_be_chosen(photo):
    words = ["upscale", photo, "-n", "tiny", "-g", "cpu"]
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


def test_resume_does_what_is_missing_changed_or_asked_differently(album, tmp_path, capsys):
    def statuses(*words):
        capsys.readouterr()
        assert upscale(album, "-o", "out", "--json", *words) == 0
        return [row["status"] for row in rows(capsys)]

    assert statuses() == ["ok"] * 3
    assert statuses() == ["skipped"] * 3
    assert statuses("--resume") == ["skipped"] * 3
    (tmp_path / "out" / "p1_x4.png").unlink()
    assert statuses() == ["skipped", "ok", "skipped"]
    (tmp_path / "out" / "p0_x4.png").write_bytes(b"somebody else's")
    assert statuses() == ["ok", "skipped", "skipped"]
    put(album / "p2.png", (13, 9))
    assert statuses() == ["skipped", "skipped", "ok"]
    assert statuses("--seed", 1) == ["ok"] * 3
    assert statuses("--seed", 1) == ["skipped"] * 3


def test_a_changed_model_file_is_noticed(album, home, tmp_path, capsys):
    model = shutil.copy(home / "tiny.safetensors", tmp_path / "mine.safetensors")
    assert upscale(album, "-o", "out", model=str(model)) == 0
    shutil.copy(home / "tiny-teacher.safetensors", model)
    capsys.readouterr()
    assert upscale(album, "-o", "out", "--json", model=str(model)) == 0
    assert [row["status"] for row in rows(capsys)] == ["ok"] * 3


def test_overwrite_and_skip_existing(album, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p0_x4.png").write_bytes(b"mine")
    assert upscale(album, "-o", "out", "--skip-existing", "--json") == 0
    assert [row["status"] for row in rows(capsys)] == ["skipped", "ok", "ok"]
    assert (tmp_path / "out" / "p0_x4.png").read_bytes() == b"mine"
    assert upscale(album, "-o", "out", "--overwrite", "--json") == 0
    assert [row["status"] for row in rows(capsys)] == ["ok"] * 3


def test_results_in_the_folder_of_the_inputs_are_not_taken_for_inputs(album, capsys):
    assert upscale(album, "-o", album) == 0
    assert upscale(album, "-o", album, "-s", 2, "--json") == 0
    assert len(rows(capsys)) == 3
    assert len(list(album.glob("[!.]*"))) == 9


def test_a_single_file_is_done_whenever_it_is_asked_for(photo, capsys):
    for _ in range(2):
        assert upscale(photo, "-o", "out.png", "--json") == 0
    assert [row["status"] for row in rows(capsys)] == ["ok", "ok"]


def test_max_pixels(album, capsys):
    put(album / "p1.png", (30, 30))
    assert upscale(album, "-o", "out", "--max-pixels", 500, "--json") == 1
    found = rows(capsys)
    assert [row["status"] for row in found] == ["ok", "failed", "ok"]
    assert "30 x 30 pixels" in found[1]["error"]


def test_a_dry_run_says_sizes_and_memory_and_writes_nothing(album, tmp_path, capsys):
    (album / "p1.png").write_bytes(b"")
    assert upscale(album, "-o", "out", "-s", 6, "--dry-run", "--json") == 1
    captured = capsys.readouterr()
    found = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["status"] for row in found] == ["planned", "failed", "planned"]
    assert (found[0]["width"], found[0]["height"], found[0]["tiles"]) == (72, 54, 2)
    assert found[0]["memory"] > 12 * 72 * 54
    assert found[0].keys() - KEYS == {"memory"}
    assert "72x54" in captured.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_foresees_what_is_skipped_and_turned(album, tmp_path, capsys):
    assert upscale(album, "-o", "out") == 0
    exif = Image.Exif()
    exif[0x0112] = 6
    put(album / "p3.jpg", (12, 8), exif=exif)
    capsys.readouterr()
    assert upscale(album, "-o", "out", "--dry-run", "--json") == 0
    found = rows(capsys)
    assert [row["status"] for row in found] == ["skipped"] * 3 + ["planned"]
    assert (found[-1]["width"], found[-1]["height"]) == (32, 48)


def test_quiet_says_nothing_but_errors(album, capsys):
    (album / "p1.png").write_bytes(b"")
    assert upscale(album, "-o", "out", "-q") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("onestep: ")
    assert captured.err.count("\n") == 1


def test_verbose_says_why_a_file_is_skipped(album, capsys):
    assert upscale(album, "-o", "out") == 0
    capsys.readouterr()
    assert upscale(album, "-o", "out", "-v") == 0
    assert capsys.readouterr().err.count("skipped") == 3


def test_without_a_name_the_default_model_is_used(photo, capsys):
    assert run(["upscale", photo, "-o", "out.png", "-g", "cpu", "--json"]) == 0
    from onestep import catalog

    assert rows(capsys)[0]["model"] == catalog.default()
