"""``onestep evaluate``: HTML, the papers' rows, names and joined reports."""

import json
import re

import numpy as np
import pytest

from evaluation_folders import noisy, photograph, put, write_folders
from onestep.cli import run

QUICK = ("--metrics", "psnr-y,ssim-y", "-q")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_folders(tmp_path)


def test_a_page_shows_the_pictures_of_a_model(here):
    words = ["evaluate", "-n", "bicubic", "--lr", "lr", "--hr", "hr", *QUICK]
    assert run([*words, "-o", "r.html", "-o", "r.json"]) == 0
    page = (here / "r.html").read_text("utf-8")
    shown = set(re.findall(r'alt="(p\d), ([^"]+)"', page))
    assert {who for _, who in shown} == {"truth", "input, enlarged", "bicubic"}
    assert (
        "onestep evaluate -n bicubic --lr lr --hr hr --metrics psnr-y,ssim-y -q -o r.html -o r.json" in page
    )
    mean = json.loads((here / "r.json").read_text())["metrics"]["psnr-y"]["mean"]
    assert f"{mean:.3f}" in page


def test_a_page_without_pictures(here):
    assert run(["evaluate", "--sr", "sr", "--hr", "hr", *QUICK, "--no-images", "-o", "r.html"]) == 0
    assert "data:" not in (here / "r.html").read_text("utf-8")


def test_a_sweep_is_a_curve(here, home):
    words = ["evaluate", "-n", "tiny", "--lr", "lr", "--hr", "hr", "--sweep", "realism=1,0,0.5"]
    assert run([*words, "--metrics", "psnr-y,lpips-squeeze", "--name", "mine", "-q", "-o", "r.html"]) == 0
    assert "tiny, by realism" not in (here / "r.html").read_text("utf-8")  # no perceptual score: no curve
    assert run([*words, "--metrics", "psnr-y,brisque,niqe,ssim", "--name", "mine", "-q", "-o", "r.md"]) == 0
    assert "| mine realism=0.5 |" in (here / "r.md").read_text("utf-8")


def test_further_models_stand_on_the_same_page(here, capsys):
    words = ["evaluate", "--sr", "sr", "--lr", "lr", "--hr", "hr", "--also", "bicubic, lanczos", *QUICK]
    assert run([*words, "--name", "mine", "-o", "r.html", "-o", "r.json"]) == 0
    shown = set(re.findall(r'alt="p0, ([^"]+)"', (here / "r.html").read_text("utf-8")))
    assert shown == {"truth", "input, enlarged", "mine", "bicubic", "lanczos"}
    alone = ["evaluate", "-n", "bicubic", "--lr", "lr", "--hr", "hr", *QUICK, "-o", "alone.json"]
    assert run(alone) == 0
    both, one = (json.loads((here / name).read_text()) for name in ("r.json", "alone.json"))
    assert both["others"][0]["metrics"] == one["metrics"]
    capsys.readouterr()
    assert run(["evaluate", "--sr", "sr", "--hr", "hr", "--also", "bicubic"]) == 2
    assert "give --lr DIR" in capsys.readouterr().err


def test_reports_are_joined_under_their_names(here):
    assert run(["evaluate", "--sr", "sr", "--hr", "hr", *QUICK, "--name", "noisy <b>", "-o", "a.json"]) == 0
    assert run(["evaluate", "-n", "bicubic", "--lr", "lr", "--hr", "hr", *QUICK, "-o", "b.json"]) == 0
    assert run(["evaluate", "--compare", "a.json", "b.json", "-q", "-o", "both.html", "-o", "both.md"]) == 0
    page = (here / "both.html").read_text("utf-8")
    assert "noisy &lt;b&gt;" in page
    assert "Less noisy &lt;b&gt;, picture by picture" in page
    assert "data:" not in page
    command = json.loads((here / "b.json").read_text())["command"]
    assert command.startswith("onestep evaluate -n bicubic --lr lr")
    assert command in page


def test_the_papers_stand_beside_their_set(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    crop = photograph(0, 12, 12)
    for index in range(100):
        put(tmp_path / "hr" / f"p{index}.png", crop)
        put(tmp_path / "sr" / f"p{index}.png", noisy(crop, 5, index))
    words = ["evaluate", "--sr", "sr", "--hr", "hr", "--metrics", "psnr-y", "--protocol", "resshift-full"]
    words += ["--against", "paper", "--dataset", "RealSR-V3", "--workers", "1"]
    assert run([*words, "-o", "r.json", "-o", "r.md", "-o", "r.html"]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    row = next(row for row in found["against"]["rows"] if row["method"] == "CTMSR")
    assert row["value"] == 26.18
    assert row["difference"] == pytest.approx(found["metrics"]["psnr-y"]["mean"] - 26.18)
    assert row["evaluated_by"] == "the authors of RSD"
    assert "| CTMSR | RSD, arXiv 2503.13358" in (tmp_path / "r.md").read_text("utf-8")
    assert "Beside the papers" in (tmp_path / "r.html").read_text("utf-8")
    shown = capsys.readouterr().err
    assert "26.180 (" in shown
    assert "papers also report" in shown


def test_where_no_set_agrees_a_line_says_so(here, capsys):
    words = ["evaluate", "--sr", "sr", "--hr", "hr", "--metrics", "psnr-y", "--against", "paper"]
    assert run([*words, "-o", "r.md"]) == 0
    assert "no paper's table is under the protocol full" in capsys.readouterr().err
    assert "no paper's table is under the protocol full" in (here / "r.md").read_text("utf-8")
    assert run([*words, "--protocol", "resshift-full", "--dataset", "realsr-v3"]) == 0
    assert "realsr-v3 has 100 pictures, 3 were scored; not compared" in capsys.readouterr().err


def test_a_picture_that_failed_is_on_the_page_and_the_exit_code(here):
    put(here / "sr" / "p1.png", np.zeros((10, 10, 3), np.uint8))
    assert run(["evaluate", "--sr", "sr", "--hr", "hr", *QUICK, "-o", "r.html"]) == 1
    page = (here / "r.html").read_text("utf-8")
    assert 'id="left-out"' in page
    assert "sizes must agree" in page
