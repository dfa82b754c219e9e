"""``onestep evaluate`` on bad pictures: one clear line each, the rest is scored, the exit code says so."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from evaluation_folders import photograph, put, write_folders
from onestep.cli import run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    return write_folders(tmp_path)


def deep(path):
    path.unlink()
    tifffile.imwrite(path.with_suffix(".tif"), photograph().astype(np.uint16) * 257, photometric="rgb")


def grey(path):
    put(path, np.asarray(Image.fromarray(photograph()).convert("L")))


def not_a_number(path):
    path.unlink()
    values = photograph().astype(np.float32) / 255
    values[3, 5] = np.nan
    tifffile.imwrite(path.with_suffix(".tif"), values, photometric="rgb")


def other_size(path):
    put(path, photograph(0, 40, 52))


def other_name(path):
    path.rename(path.with_stem("renamed"))


def missing(path):
    path.unlink()


def twice(path):
    Image.fromarray(photograph()).save(path.with_suffix(".bmp"))


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("no picture")


def truncated(path):
    path.write_bytes(path.read_bytes()[:200])


SPOIL = {
    "16 bit result": ("sr", deep, 1, "the result has 16 bits and full measures 8; use --protocol full-float"),
    "16 bit truth": ("hr", deep, 1, "HR has 16 bits and full measures 8"),
    "grey result": ("sr", grey, 1, "the result is grey and HR has colours"),
    "grey truth": ("hr", grey, 1, "HR is grey and the result has colours"),
    "nan result": ("sr", not_a_number, 1, "no numbers"),
    "nan truth": ("hr", not_a_number, 1, "no numbers"),
    "size of result": ("sr", other_size, 1, "the result is 52x40, HR is 96x64; sizes must agree"),
    "size of truth": ("hr", other_size, 1, "the result is 96x64, HR is 52x40; sizes must agree"),
    "name of result": ("sr", other_name, 2, "has no HR partner in hr"),
    "name of truth": ("hr", other_name, 2, "has no SR partner in sr"),
    "no result": ("sr", missing, 1, "hr/p1.png: has no SR partner in sr"),
    "no truth": ("hr", missing, 1, "sr/p1.png: has no HR partner in hr"),
    "two results": ("sr", twice, 1, "sr: p1.bmp and p1.png have the same name; keep one"),
    "empty result": ("sr", empty, 1, "sr/p1.png: the file is empty"),
    "empty truth": ("hr", empty, 1, "hr/p1.png: the file is empty"),
    "text as result": ("sr", text, 1, "sr/p1.png: not an image"),
    "truncated truth": ("hr", truncated, 1, "hr/p1.png: damaged or cut short"),
}


def scored(capsys, *words, code=1):
    """The report, and the lines of what went wrong."""
    assert run(["evaluate", "--metrics", "psnr,ssim-y", "--json", "-q", *words]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err.splitlines()


@pytest.mark.parametrize("case", SPOIL)
def test_a_bad_picture_costs_itself_alone(here, capsys, case):
    folder, spoil, count, says = SPOIL[case]
    whole, _ = scored(capsys, "--sr", "sr", "--hr", "hr", code=0)
    spoil(here / folder / "p1.png")
    report, lines = scored(capsys, "--sr", "sr", "--hr", "hr")
    assert len(lines) == len(report["failed"]) == count
    assert any(says in line for line in lines), lines
    assert all("p1" in line or "renamed" in line for line in lines)
    kept = [row for row in whole["images"] if row["name"] != "p1"]
    assert report["images"] == kept
    assert report["metrics"]["psnr"]["images"] == 2
    assert report["metrics"]["psnr"]["mean"] == pytest.approx(sum(row["psnr"] for row in kept) / 2)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (other_size, "the result is 208x160, HR is 96x64"),
        (missing, "has no LR partner in lr"),
        (truncated, "lr/p1.png: damaged or cut short"),
        (not_a_number, "no numbers"),
    ],
)
def test_the_same_for_what_a_model_restores(here, capsys, spoil, says):
    spoil(here / "lr" / "p1.png")
    report, (line,) = scored(capsys, "-n", "bicubic", "--lr", "lr", "--hr", "hr")
    assert says in line
    assert [row["name"] for row in report["images"]] == ["p0", "p2"]


def test_deep_pictures_have_a_protocol(here, capsys):
    deep(here / "sr" / "p1.png")
    deep(here / "hr" / "p1.png")
    report, lines = scored(capsys, "--sr", "sr", "--hr", "hr", "--protocol", "full-float", code=0)
    assert len(report["images"]) == 3
    assert lines == ["onestep: full-float scores results that are not rounded; finished files are"]


def test_grey_beside_grey_is_scored(here, capsys):
    for folder in ("sr", "hr"):
        grey(here / folder / "p1.png")
    put(here / "sr" / "p2.png", np.asarray(Image.fromarray(photograph()).convert("L").convert("RGB")))
    grey(here / "hr" / "p2.png")
    report, lines = scored(capsys, "--sr", "sr", "--hr", "hr", code=0)
    assert [row["psnr"] for row in report["images"][1:]] == pytest.approx([80, 80])
    assert not lines


@pytest.mark.parametrize("folder", ["sr", "hr", "lr"])
def test_an_empty_folder_is_one_line(here, capsys, folder):
    for file in (here / folder).iterdir():
        file.unlink()
    words = ["-n", "bicubic", "--lr", "lr"] if folder == "lr" else ["--sr", "sr"]
    assert run(["evaluate", "--hr", "hr", "--metrics", "psnr", *words, "-o", "r.json"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{folder}: no pictures" in line
    assert not (here / "r.json").exists()


def test_nothing_that_fits_is_a_failure(here, capsys):
    for file in sorted((here / "sr").iterdir()):
        file.rename(file.with_stem(f"x{file.stem}"))
    report, lines = scored(capsys, "--sr", "sr", "--hr", "hr")
    assert (report["images"], len(lines)) == ([], 6)
    assert report["metrics"]["psnr"]["mean"] is None


def test_a_metric_without_weights_is_said_with_the_way_to_them(here, capsys):
    """Never silently, never as 0; the others are scored, and that is no failure."""
    report, lines = scored(
        capsys, "--sr", "sr", "--hr", "hr", "--metrics", "psnr,fid,lpips-alex,niqe", code=0
    )
    assert report["metrics"].keys() == {"psnr"}
    assert report["skipped"].keys() == {"niqe", "fid", "lpips-alex"}
    for name, line in zip(("fid", "lpips-alex", "niqe"), sorted(lines), strict=True):
        assert line.startswith(f"onestep: {name} left out: ")
        assert "https://" in line


class TestWrongWords:
    """One line, exit code 2, nothing started."""

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["-n", "tiny-teacher", "-O", "evaluations=1"], "too few: midpoint needs at least 2"),
            (["-n", "tiny-teacher", "--sweep", "evaluations=8,1"], "evaluations 1 is too few"),
            (["-n", "tiny", "--sweep", "realism=0,2"], "realism 2 is impossible"),
            (["-n", "tiny", "--sweep", "realism=0,x"], "realism=x"),
            (["-n", "tiny", "--sweep", "realism"], "NAME=A,B,C"),
            (["-n", "tiny", "--sweep", "magic=1"], "no option 'magic'"),
            (["-n", "tiny", "-r", "0", "--sweep", "realism=0,1"], "given twice"),
            (["-n", "tiny", "--workers", "0"], "--workers 0"),
            (["-n", "tiny", "--workers", "many"], "--workers many"),
            (["-n", "tiny", "--tile", "big"], "--tile big"),
            (["-n", "tiny", "r.json"], "--compare"),
            (["-n", "nobody"], "no model is called 'nobody'"),
        ],
    )
    def test_with_a_model(self, here, capsys, words, says):
        assert run(["evaluate", "--lr", "lr", "--hr", "hr", "--metrics", "psnr", "-o", "r.json", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line
        assert not (here / "r.json").exists()

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--sr", "sr"], "--hr DIR"),
            (["--sr", "sr", "--hr", "hr", "--metrics", "lr-consistency"], "--lr"),
            (["--sr", "sr", "--hr", "hr", "--metrics", "seam"], "tile borders"),
            (["--sr", "sr", "--hr", "hr", "--sweep", "realism=0"], "no meaning"),
            (["--compare"], "name them"),
            (["--compare", "a.json", "--sr", "sr"], "no meaning"),
        ],
    )
    def test_without_one(self, capsys, words, says):
        assert run(["evaluate", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line

    @pytest.mark.parametrize("content", [None, "{", "[]", '{"protocol": {}}'])
    def test_reports_that_are_none(self, here, capsys, content):
        if content is not None:
            (here / "a.json").write_text(content)
        assert run(["evaluate", "--compare", "a.json"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "a.json: " in line
