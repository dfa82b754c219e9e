"""``onestep degrade``: what it makes, again, and what it goes on after."""

import pytest
import torch

from command_line import last_line, records
from onestep.cli import run
from onestep.core.picture import read
from pictures import hr_folder

pytestmark = pytest.mark.usefixtures("workplace")
hr = pytest.fixture(hr_folder)


def test_degrade_makes_the_same_small_pictures_again(hr, tmp_path, capsys):
    for out in ("a", "b"):
        assert run(["degrade", hr, "-o", out, "--preset", "realesrgan", "--seed", "3", "--json"]) == 0
    assert run(["degrade", hr, "-o", "c", "--preset", "realesrgan", "--seed", "4"]) == 0
    assert [row["width"] for row in records(capsys)] == [8] * 4
    a, b, c = (read(tmp_path / folder / "p0.png").rgb for folder in "abc")
    assert a.shape == (1, 3, 6, 8)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_degrade_by_average_pooling_is_the_mean_of_squares(hr, tmp_path):
    assert run(["degrade", f"{hr}/p0.png", "-o", "small.png", "--preset", "average-pool", "-s", "2"]) == 0
    expected = torch.nn.functional.avg_pool2d(read(tmp_path / "hr" / "p0.png").rgb, 2)
    assert (read("small.png").rgb - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_degrade_goes_on_after_a_bad_picture(hr, tmp_path, capsys):
    (tmp_path / "hr" / "bad.png").write_bytes(b"")
    assert run(["degrade", hr, "-o", "lr", "--preset", "bicubic", "--json"]) == 1
    assert [row["status"] for row in records(capsys)] == ["failed", "ok", "ok"]
    assert run(["degrade", hr, "-o", "lr", "--preset", "bicubik"]) == 2
    assert "bicubic" in last_line(capsys)
