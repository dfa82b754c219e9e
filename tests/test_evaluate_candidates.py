"""Who is scored: models with their options, their tile borders, and how much is held at a time."""

import json
import weakref

import numpy as np
import pytest
import torch

from evaluation_folders import bicubic, enlarged, put, write_folders
from onestep import Upscaler
from onestep.cli import run
from onestep.core.contract import NoOptions, OneStepModel, Traits
from onestep.core.picture import Picture, read
from onestep.evaluate import Restored, evaluate, of_model, restored
from onestep.evaluate.candidates import borders
from onestep.metrics.seam import seam
from onestep.plan import Settings

SCORES = ("--metrics", "psnr,ssim-y")


class Steps(OneStepModel):
    """Gives every tile the mean of its noise: tiles show."""

    Options = NoOptions

    def __init__(self, scale=2, multiple_of=1):
        super().__init__()
        self.traits = Traits(scale, multiple_of=multiple_of, tile=256, overlap=8)

    def noise_shape(self, lr):
        return torch.Size((lr[0], 1, lr[2], lr[3]))

    def condition(self, lr, options):
        return {}

    def forward(self, lr, noise, condition):
        height, width = (side * self.traits.scale for side in lr.shape[-2:])
        return noise.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 3, height, width) * 10


def jumps(image, axis):
    """Where neighbouring lines differ anywhere."""
    change = image.diff(dim=axis).abs().amax(dim=tuple(set(range(4)) - {axis % 4}))
    return [int(place) + 1 for place in change.nonzero()]


@pytest.mark.parametrize(("height", "width"), [(96, 64), (100, 70), (65, 129), (32, 32), (20, 90)])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_borders_are_where_tiles_meet(height, width, multiple_of):
    up = Upscaler(Steps(multiple_of=multiple_of), device="cpu", dtype="float32")
    picture = Picture(torch.zeros(1, 3, height, width))
    (result,), plan = up.run(picture, Settings(tile=32, overlap=0), [{}])
    rows, columns = borders(up.model, picture, plan)
    last = [side // 32 * 32 for side in (height, width)]  # the last tile is moved back: it lies over another
    for found, axis, side, start in zip((rows, columns), (-2, -1), (height, width), last, strict=True):
        exact = [place for place in jumps(result.rgb, axis) if place < 2 * start or side % 32 == 0]
        assert [place for place in found if place < 2 * start or side % 32 == 0] == exact
        assert len(found) == -(-side // 32) - 1
        assert all(0 < place < 2 * side for place in found)


def test_a_border_is_the_middle_of_what_neighbours_share():
    up = Upscaler(Steps(), device="cpu", dtype="float32")
    picture = Picture(torch.zeros(1, 3, 32, 88))
    (result,), plan = up.run(picture, Settings(tile=32, overlap=4), [{}])
    assert borders(up.model, picture, plan) == ((), (60, 116))  # tiles 0-32, 28-60, 56-88 at x2
    faded = jumps(result.rgb, -1)
    assert np.mean(faded) == pytest.approx((60 + 116) / 2)


def test_the_seam_statistic_of_a_model_that_runs_here(tmp_path):
    folder = write_folders(tmp_path, count=2, height=128, width=128)
    put(folder / "hr" / "small.png", np.zeros((32, 32, 3), np.uint8))
    put(folder / "lr" / "small.png", np.zeros((16, 16, 3), np.uint8))
    for name in ("p0", "p1"):
        put(folder / "lr" / f"{name}.png", np.zeros((64, 64, 3), np.uint8))
    up = Upscaler(Steps(), device="cpu", dtype="float32")
    candidate = of_model(up, {}, Settings(tile=32, overlap=0))
    (entrant,) = evaluate(
        restored(folder / "lr", folder / "hr")[0], ("seam",), candidates=[candidate]
    ).entrants
    assert entrant.rows[0].missing == {"seam": "the score is inf"}  # nothing but borders differs
    assert entrant.rows[2].missing == {"seam": "the picture was made in one piece: it has no tile borders"}
    smooth = bicubic(restore=lambda lr: Restored(enlarged(lr).picture, (32,), (32, 64)))
    again = write_folders(tmp_path / "photographs", count=2, height=128, width=128)
    (entrant,) = evaluate(restored(again / "lr", again / "hr")[0], ("seam",), candidates=[smooth]).entrants
    shown = enlarged(read(again / "lr" / "p0.png")).picture.rgb
    expected = float(seam((shown * 255).round() / 255, (32,), (32, 64)))
    assert entrant.rows[0].scores["seam"] == pytest.approx(expected)


def test_only_a_few_pictures_are_held_at_a_time(tmp_path):
    folder = write_folders(tmp_path, count=12, height=32, width=32)
    made, most = [], 0

    def restore(lr):
        nonlocal most
        result = enlarged(lr)
        made.extend((weakref.ref(lr.rgb), weakref.ref(result.picture.rgb)))
        most = max(most, sum(one() is not None for one in made))
        return result

    pairs, _ = restored(folder / "lr", folder / "hr")
    candidates = [bicubic("a", restore), bicubic("b", restore)]
    report = evaluate(pairs, ("psnr", "ssim"), candidates=candidates)
    assert [len(entrant.rows) for entrant in report.entrants] == [12, 12]
    assert len(made) == 48
    assert most <= 4


class TestSweep:
    """One call, several values of an option."""

    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch, home):
        monkeypatch.chdir(tmp_path)
        return write_folders(tmp_path, count=2)

    WORDS = ("evaluate", "-n", "tiny", "--hr", "hr", "-g", "cpu", "--dtype", "float32", "--json", "-q")

    def test_each_value_is_an_entrant_and_scores_as_alone(self, capsys):
        assert run([*self.WORDS, *SCORES, "--lr", "lr", "--sweep", "realism=0, 0.5,1"]) == 0
        both = json.loads(capsys.readouterr().out)
        found = [both, *both["others"]]
        assert [one["name"] for one in found] == ["tiny realism=0", "tiny realism=0.5", "tiny realism=1"]
        assert [one["options"] for one in found] == [{"realism": 0.0}, {"realism": 0.5}, {"realism": 1.0}]
        assert len({one["metrics"]["psnr"]["mean"] for one in found}) == 3
        for one in found:
            assert run([*self.WORDS, *SCORES, "--lr", "lr", "-r", str(one["options"]["realism"])]) == 0
            alone = json.loads(capsys.readouterr().out)
            assert alone["metrics"] == one["metrics"]

    def test_a_seeded_degradation_is_that_of_degrade(self, capsys):
        assert run(["degrade", "hr", "-o", "made", "--preset", "camera", "--seed", "5", "-q"]) == 0
        capsys.readouterr()
        reports = []
        for words in (["--lr", "made"], ["--preset", "camera"], ["--preset", "camera", "--seed", "6"]):
            assert run([*self.WORDS, *SCORES, "--seed", "5", *words]) == 0
            reports.append(json.loads(capsys.readouterr().out))
        given, made, other = reports
        assert made["metrics"] == given["metrics"] != other["metrics"]
        assert (given["degradation"], made["degradation"], other["seed"]) == (None, "camera", 6)

    def test_tiles_are_those_that_were_asked_for(self, capsys):
        for words, says in ((["--tile", "8", "--overlap", "2"], "seam"), (["--tile", "off"], "one piece")):
            assert run([*self.WORDS, "--lr", "lr", "--metrics", "seam", *words]) == 0
            captured = capsys.readouterr()
            report = json.loads(captured.out)
            assert says in json.dumps(report)
        assert report["metrics"]["seam"]["mean"] is None
