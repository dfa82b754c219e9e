"""The evaluation journey, without weights: pairing, protocols, failures, reports."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs
from skimage.metrics import peak_signal_noise_ratio

from onestep import evaluate as journey
from onestep.core.errors import InputError, UsageError
from onestep.core.picture import Picture
from onestep.core.resize import resize
from onestep.degrade.presets import preset
from onestep.evaluate import degraded, evaluate, finished, protocol, restored

METRICS = ("psnr", "psnr-y", "ssim-y")


@pytest.fixture
def folders(tmp_path):
    """HR crops of a photograph, and noisy SR copies of them."""
    rng = np.random.default_rng(0)
    for name in ("hr", "sr"):
        (tmp_path / name).mkdir()
    for index in range(3):
        crop = photographs.astronaut()[64 * index : 64 * index + 64, :96]
        noisy = np.clip(crop.astype(float) + rng.normal(0, 4 + index, crop.shape), 0, 255).astype(np.uint8)
        Image.fromarray(crop).save(tmp_path / "hr" / f"p{index}.png")
        Image.fromarray(noisy).save(tmp_path / "sr" / f"p{index}.png")
    return tmp_path


def enlarge(picture: Picture) -> Picture:
    size = (picture.height * 4, picture.width * 4)
    return Picture(resize(picture.rgb, size, "bicubic", convention="pillow").clamp(0, 1))


def test_scores_equal_an_independent_computation(folders):
    pairs, alone = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, METRICS)
    assert not alone
    assert not report.failed
    for row in report.rows:
        hr, sr = (np.asarray(Image.open(folders / f / f"{row['name']}.png")) for f in ("hr", "sr"))
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(hr, sr), abs=1e-3)
    assert report.mean("psnr") == pytest.approx(np.mean([row["psnr"] for row in report.rows]))


def test_identical_pictures_are_as_good_as_it_gets(folders):
    pairs, _ = finished(folders / "hr", folders / "hr")
    report = evaluate(pairs, ("psnr-y", "ssim-y"))
    assert report.mean("psnr-y") == pytest.approx(80.0)  # 10 log10(1 / 1e-8)
    assert report.mean("ssim-y") == pytest.approx(1.0)


def test_what_cannot_be_scored_costs_one_line_each(folders):
    (folders / "sr" / "p0.png").unlink()
    (folders / "sr" / "p1.png").write_bytes(b"not a picture")
    Image.new("RGB", (40, 40)).save(folders / "sr" / "p2.png")
    Image.new("RGB", (40, 40)).save(folders / "sr" / "extra.png")
    pairs, alone = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, METRICS, failed=alone)
    assert sorted(report.failed) == ["extra", "p0", "p1", "p2"]
    assert "no SR partner" in report.failed["p0"]
    assert "40x40" in report.failed["p2"]
    assert "96x64" in report.failed["p2"]
    assert all("\n" not in line for line in report.failed.values())
    assert report.mean("psnr") is None


def test_the_rest_is_still_scored(folders):
    (folders / "sr" / "p1.png").write_bytes(b"")
    pairs, alone = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, METRICS, failed=alone)
    assert [row["name"] for row in report.rows] == ["p0", "p2"]
    assert list(report.failed) == ["p1"]


def test_a_result_with_nan_is_refused(folders):
    pairs, _ = finished(folders / "sr", folders / "hr")
    broken = [
        journey.Pair(p.name, p.hr, lambda hr: (Picture(torch.full_like(hr.rgb, math.nan)), 0.0))
        for p in pairs
    ]
    report = evaluate(broken, ("psnr",))
    assert len(report.failed) == 3
    assert "not numbers" in report.failed["p0"]


def test_border_and_rounding_belong_to_the_protocol(folders):
    pairs, _ = finished(folders / "sr", folders / "hr")
    whole = evaluate(pairs, ("psnr",), protocol("full"))
    cropped = evaluate(pairs, ("psnr",), protocol("classic-y-crop"))
    hr, sr = (np.asarray(Image.open(folders / f / "p0.png"))[4:-4, 4:-4] for f in ("hr", "sr"))
    assert cropped.rows[0]["psnr"] == pytest.approx(peak_signal_noise_ratio(hr, sr), abs=1e-3)
    assert cropped.rows[0]["psnr"] != whole.rows[0]["psnr"]
    assert cropped.to_json()["protocol"]["border"] == 4


def test_hr_that_is_no_multiple_of_the_scale_is_cut(folders):
    (folders / "lr").mkdir()
    Image.fromarray(photographs.astronaut()[:66, :97]).save(folders / "hr" / "odd.png")
    for path in (folders / "hr").glob("*.png"):
        image = Image.open(path)
        image.resize((image.width // 4, image.height // 4)).save(folders / "lr" / path.name)
    pairs, _ = restored(folders / "lr", folders / "hr", enlarge)
    report = evaluate(pairs, ("psnr",))
    assert not report.failed
    assert len(report.rows) == 4


def test_seeded_degradation_gives_the_same_scores_again(folders):
    one, again, other = (
        evaluate(degraded(folders / "hr", preset("camera", 4), enlarge, seed), ("psnr",))
        for seed in (3, 3, 4)
    )
    assert [row["psnr"] for row in one.rows] == [row["psnr"] for row in again.rows]
    assert [row["psnr"] for row in one.rows] != [row["psnr"] for row in other.rows]


def test_a_metric_without_weights_is_left_out_and_said(folders, monkeypatch):
    def absent(name):
        raise InputError(f"{name} is not here; put it there")

    monkeypatch.setattr("onestep.hub.fetch", absent)
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr", "niqe"))
    assert report.metrics == ("psnr",)
    assert "put it there" in report.skipped["niqe"]
    assert "niqe" not in report.to_json()["metrics"]


def test_report_keeps_the_contract(folders, tmp_path):
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr-y",))
    for name in ("r.json", "r.csv", "r.md"):
        report.write(tmp_path / name)
    read = json.loads((tmp_path / "r.json").read_text())
    assert {"protocol", "metrics", "images", "version", "weights_sha256"} <= read.keys()
    assert read["metrics"]["psnr-y"]["better"] == "higher"
    assert read["metrics"]["psnr-y"]["mean"] == pytest.approx(report.mean("psnr-y"))
    assert [image["name"] for image in read["images"]] == ["p0", "p1", "p2"]
    assert (tmp_path / "r.csv").read_text().splitlines()[0] == "name,psnr-y,seconds"
    assert "psnr-y ↑" in (tmp_path / "r.md").read_text()
    with pytest.raises(UsageError, match=r"\.json"):
        report.write(tmp_path / "r.txt")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: evaluate([], ("psnrr",)), "did you mean"),
        (lambda path: evaluate([], ("seam",)), "borders"),
        (lambda path: protocol("mine"), "choose"),
        (lambda path: finished(path / "nowhere", path), "no such folder"),
        (lambda path: finished(path, path), "no pictures"),
    ],
)
def test_wrong_requests_are_refused(tmp_path, call, message):
    with pytest.raises(UsageError, match=message):
        call(tmp_path)


def test_two_files_of_one_name_are_refused(folders):
    Image.new("RGB", (8, 8)).save(folders / "sr" / "p0.bmp")
    with pytest.raises(UsageError, match="same name"):
        finished(folders / "sr", folders / "hr")


def test_results_of_upscale_carry_their_factor(folders):
    """``p0_x4`` is the SR of ``p0``; a factor that HR names carry themselves is part of the name."""
    (folders / "sr" / "p0.png").rename(folders / "sr" / "p0_x4.png")
    (folders / "sr" / "p1.png").rename(folders / "sr" / "p1_x1_x2.5.png")
    (folders / "hr" / "p1.png").rename(folders / "hr" / "p1_x1.png")
    (folders / "sr" / "p2_x4.png").write_bytes((folders / "sr" / "p2.png").read_bytes())
    pairs, alone = finished(folders / "sr", folders / "hr")
    assert [pair.name for pair in pairs] == ["p0", "p1_x1", "p2"]
    assert list(alone) == ["p2_x4"]
    assert evaluate(pairs, ("psnr",)).mean("psnr") > 30


def test_a_score_that_one_picture_lacks_is_said_and_not_averaged(folders, tmp_path):
    for folder in ("sr", "hr"):
        Image.fromarray(photographs.astronaut()[:8, :8]).save(folders / folder / "tiny.png")
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr", "ssim"))
    assert not report.failed
    assert report.notes == ["tiny: ssim left out: SSIM needs sides of at least 11 pixels"]
    assert report.rows[-1]["ssim"] is None
    assert report.rows[-1]["psnr"] is not None
    assert report.to_json()["metrics"]["ssim"]["images"] == 3
    assert report.mean("ssim") == pytest.approx(np.mean([row["ssim"] for row in report.rows[:-1]]))
    assert report.notes[0] in report.to_markdown()
    assert report.to_csv().splitlines()[-1].endswith(",,")


def test_a_score_that_is_no_number_is_said_and_not_averaged(folders, monkeypatch):
    monkeypatch.setattr("onestep.metrics.make", lambda *_: lambda sr, hr: torch.tensor([math.inf]))
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr",))
    assert report.mean("psnr") is None
    assert report.notes[0] == "p0: psnr left out: the score is inf"
    json.dumps(report.to_json(), allow_nan=False)


def test_without_any_metric_there_is_nothing_to_report(folders, monkeypatch):
    def absent(name):
        raise InputError(f"{name} is not here; put it there")

    monkeypatch.setattr("onestep.hub.fetch", absent)
    pairs, _ = finished(folders / "sr", folders / "hr")
    with pytest.raises(InputError, match="niqe left out: niqe is not here"):
        evaluate(pairs, ("niqe",))


def test_seconds_are_measured_or_absent(folders):
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr",))
    assert {row["seconds"] for row in report.rows} == {None}
    assert report.seconds > 0
    made = evaluate(degraded(folders / "hr", preset("bicubic", 4), enlarge), ("psnr",))
    assert all(row["seconds"] > 0 for row in made.rows)


class TestOfficialOutputs:
    """Three of the 31 outputs with their authors' log."""

    NAMES = ("Canon_10_x1", "P1171031_x1", "sony_1_x1")

    @pytest.fixture
    def report(self, development_data, monkeypatch):
        monkeypatch.setenv("ONESTEP_HOME", str(development_data / "metrics"))
        folder = development_data / "dev" / "drealsr"
        pairs, alone = finished(folder / "osediff_official", folder / "HR")
        assert len(pairs) == 31
        assert not alone
        return evaluate([pair for pair in pairs if pair.name in self.NAMES])

    def test_scores_are_those_of_the_log(self, report, development_data):
        log = (development_data / "dev" / "drealsr" / "osediff_official_metrics.log").read_text()
        assert [row["name"] for row in report.rows] == list(self.NAMES)
        for row in report.rows:
            line = next(line for line in log.splitlines() if f"/{row['name']}.png" in line)
            logged = dict(part.strip().split(": ") for part in line.split("|")[1].split(";"))
            assert row["psnr-y"] == pytest.approx(float(logged["PSNR"]), abs=1e-4)
            assert row["ssim-y"] == pytest.approx(float(logged["SSIM"]), abs=1e-5)
            assert row["niqe"] == pytest.approx(float(logged["NIQE"]), abs=0.05)
        assert report.rows[0]["lpips-squeeze"] == pytest.approx(0.1450, abs=1e-4)
