"""The evaluation journey, without weights: pairing, scores, failures, candidates."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from evaluation_folders import bicubic, enlarged, photograph, put, write_folders
from onestep import data
from onestep.core.errors import InputError, UsageError
from onestep.core.picture import Picture
from onestep.degrade.presets import preset
from onestep.evaluate import Restored, Viewer, degraded, evaluate, finished, protocol, restored

METRICS = ("psnr", "psnr-y", "ssim-y")


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path)


def only(report):
    (entrant,) = report.entrants
    return entrant


def made_from_hr(folder, name="bicubic", seed=0, **rest):
    operator = preset(name, 4)

    def degrade(picture, stem):
        return data.degraded(picture, operator, seed, stem)

    return evaluate(degraded(folder)[0], ("psnr",), candidates=[bicubic()], degrade=degrade, **rest)


def test_scores_equal_an_independent_computation(folders):
    pairs, alone = finished(folders / "sr", folders / "hr")
    entrant = only(evaluate(pairs, METRICS))
    assert not alone
    assert not entrant.failed
    for row in entrant.rows:
        hr, sr = (np.asarray(Image.open(folders / f / f"{row.name}.png")) for f in ("hr", "sr"))
        assert row.scores["psnr"] == pytest.approx(peak_signal_noise_ratio(hr, sr), abs=1e-3)
    assert entrant.mean("psnr") == pytest.approx(np.mean([row.scores["psnr"] for row in entrant.rows]))


def test_identical_pictures_are_as_good_as_it_gets(folders):
    pairs, _ = finished(folders / "hr", folders / "hr")
    entrant = only(evaluate(pairs, ("psnr-y", "ssim-y")))
    assert entrant.mean("psnr-y") == pytest.approx(80.0)  # 10 log10(1 / 1e-8)
    assert entrant.mean("ssim-y") == pytest.approx(1.0)


def test_what_cannot_be_scored_costs_one_line_each(folders):
    (folders / "sr" / "p0.png").unlink()
    (folders / "sr" / "p1.png").write_bytes(b"not a picture")
    Image.new("RGB", (40, 40)).save(folders / "sr" / "p2.png")
    Image.new("RGB", (40, 40)).save(folders / "sr" / "extra.png")
    pairs, alone = finished(folders / "sr", folders / "hr")
    entrant = only(evaluate(pairs, METRICS, failed=alone))
    assert list(entrant.failed) == ["extra", "p0", "p1", "p2"]
    assert "no SR partner" in entrant.failed["p0"]
    assert "40x40" in entrant.failed["p2"]
    assert "96x64" in entrant.failed["p2"]
    assert all("\n" not in line for line in entrant.failed.values())
    assert entrant.mean("psnr") is None


def test_the_rest_is_still_scored(folders):
    (folders / "sr" / "p1.png").write_bytes(b"")
    pairs, alone = finished(folders / "sr", folders / "hr")
    entrant = only(evaluate(pairs, METRICS, failed=alone))
    assert [row.name for row in entrant.rows] == ["p0", "p2"]
    assert list(entrant.failed) == ["p1"]


def test_a_result_with_nan_is_refused(folders):
    pairs, _ = restored(folders / "lr", folders / "hr")
    broken = bicubic(restore=lambda lr: Restored(Picture(torch.full((1, 3, 64, 96), math.nan))))
    entrant = only(evaluate(pairs, ("psnr",), candidates=[broken]))
    assert len(entrant.failed) == 3
    assert "not numbers" in entrant.failed["p0"]


def test_hr_that_is_no_multiple_of_the_scale_is_cut(folders):
    put(folders / "hr" / "odd.png", photograph(0, 66, 97))
    small = Image.open(folders / "hr" / "odd.png").resize((24, 16))
    put(folders / "lr" / "odd.png", np.asarray(small))
    pairs, _ = restored(folders / "lr", folders / "hr")
    entrant = only(evaluate(pairs, ("psnr",), candidates=[bicubic()]))
    assert not entrant.failed
    assert len(entrant.rows) == 4
    put(folders / "hr" / "odd.png", photograph(0, 68, 96))
    entrant = only(evaluate(pairs, ("psnr",), candidates=[bicubic()]))
    assert "sizes must agree" in entrant.failed["odd"]


def test_seeded_degradation_gives_the_same_scores_again(folders):
    one, again, other = (only(made_from_hr(folders / "hr", "camera", seed)) for seed in (3, 3, 4))
    assert one.values("psnr") == again.values("psnr")
    assert one.values("psnr") != other.values("psnr")


def test_candidates_are_scored_on_the_same_pictures_and_named_apart(folders):
    pairs, _ = restored(folders / "lr", folders / "hr")
    darker = bicubic(restore=lambda lr: Restored(Picture(enlarged(lr).picture.rgb * 0.9)))
    report = evaluate(pairs, ("psnr",), candidates=[bicubic(), darker])
    first, second = report.entrants
    assert (first.name, second.name) == ("enlarged", "enlarged (2)")
    assert [row.name for row in first.rows] == [row.name for row in second.rows] == ["p0", "p1", "p2"]
    assert all(a > b for a, b in zip(first.values("psnr"), second.values("psnr"), strict=True))
    alone = only(evaluate(pairs, ("psnr",), candidates=[bicubic()]))
    assert alone.values("psnr") == first.values("psnr")


def test_what_one_candidate_cannot_do_costs_the_others_nothing(folders):
    def refuse(lr):
        raise InputError("too large for me")

    pairs, _ = restored(folders / "lr", folders / "hr")
    report = evaluate(pairs, ("psnr",), candidates=[bicubic("weak", refuse), bicubic()])
    assert report.entrants[0].failed == dict.fromkeys(("p0", "p1", "p2"), "too large for me")
    assert len(report.entrants[1].rows) == 3


def test_options_that_a_model_refuses_end_it(folders):
    def refuse(lr):
        raise UsageError("not so few")

    pairs, _ = restored(folders / "lr", folders / "hr")
    with pytest.raises(UsageError, match="not so few"):
        evaluate(pairs, ("psnr",), candidates=[bicubic("weak", refuse)])


def test_a_metric_without_weights_is_left_out_and_said(folders, monkeypatch):
    def absent(name):
        raise InputError(f"{name} is not here; put it there")

    monkeypatch.setattr("onestep.hub.fetch", absent)
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr", "niqe"))
    assert report.metrics == ["psnr"]
    assert "put it there" in only(report).skipped["niqe"]
    assert "niqe" not in report.to_json()["metrics"]
    with pytest.raises(InputError, match="niqe left out: niqe is not here"):
        evaluate(pairs, ("niqe",))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: evaluate([], ("psnrr",)), "did you mean"),
        (lambda path: evaluate([], ("seam",)), "borders"),
        (lambda path: protocol("mine"), "choose"),
        (lambda path: finished(path / "nowhere", path), "no such folder"),
    ],
)
def test_wrong_requests_are_refused(tmp_path, call, message):
    with pytest.raises(UsageError, match=message):
        call(tmp_path)


def test_two_files_of_one_name_leave_it_open_which_is_meant(folders):
    Image.new("RGB", (8, 8)).save(folders / "sr" / "p0.bmp")
    Image.new("RGB", (8, 8)).save(folders / "hr" / "p1.jpg")
    pairs, why = finished(folders / "sr", folders / "hr", folders / "lr")
    assert [pair.name for pair in pairs] == ["p2"]
    assert "p0.bmp and p0.png have the same name" in why["p0"]
    assert "p1.jpg and p1.png have the same name" in why["p1"]
    assert list(degraded(folders / "hr")[1]) == ["p1"]


def test_small_pictures_may_stand_beside_finished_ones(folders):
    (folders / "lr" / "p1.png").unlink()
    put(folders / "lr" / "more.png", photograph(0, 8, 8))
    pairs, why = finished(folders / "sr", folders / "hr", folders / "lr")
    assert [(pair.name, pair.lr) for pair in pairs] == [
        ("p0", folders / "lr" / "p0.png"),
        ("p2", folders / "lr" / "p2.png"),
    ]
    assert "p1.png: has no LR partner" in why["p1"]
    assert "more.png: has no HR partner" in why["more"]
    assert only(evaluate(pairs, ("lr-consistency",))).mean("lr-consistency") > 20


def test_a_folder_without_pictures_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        finished(tmp_path, tmp_path)


def test_results_of_upscale_carry_their_factor(folders):
    """``p0_x4`` is the SR of ``p0``; a factor that HR names carry themselves is part of the name."""
    (folders / "sr" / "p0.png").rename(folders / "sr" / "p0_x4.png")
    (folders / "sr" / "p1.png").rename(folders / "sr" / "p1_x1_x2.5.png")
    (folders / "hr" / "p1.png").rename(folders / "hr" / "p1_x1.png")
    (folders / "sr" / "p2_x4.png").write_bytes((folders / "sr" / "p2.png").read_bytes())
    pairs, alone = finished(folders / "sr", folders / "hr")
    assert [pair.name for pair in pairs] == ["p0", "p1_x1", "p2"]
    assert list(alone) == ["p2_x4"]
    assert only(evaluate(pairs, ("psnr",))).mean("psnr") > 30


def test_a_score_that_one_picture_lacks_is_said_and_not_averaged(folders):
    for folder in ("sr", "hr"):
        put(folders / folder / "tiny.png", photograph(0, 8, 8))
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr", "ssim"))
    entrant = only(report)
    assert not entrant.failed
    assert entrant.notes == ["tiny: ssim left out: SSIM needs sides of at least 11 pixels"]
    assert entrant.rows[-1].scores["ssim"] is None
    assert entrant.rows[-1].scores["psnr"] is not None
    assert entrant.scores["ssim"].images == 3
    assert entrant.mean("ssim") == pytest.approx(np.mean([row.scores["ssim"] for row in entrant.rows[:-1]]))


def test_a_score_that_is_no_number_is_said_and_not_averaged(folders, monkeypatch):
    monkeypatch.setattr("onestep.metrics.make", lambda *_: lambda sr, hr: torch.tensor([math.inf]))
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr",))
    assert only(report).mean("psnr") is None
    assert only(report).notes[0] == "p0: psnr left out: the score is inf"
    json.dumps(report.to_json(), allow_nan=False)


def test_seconds_and_memory_are_measured_or_absent(folders):
    pairs, _ = finished(folders / "sr", folders / "hr")
    entrant = only(evaluate(pairs, ("psnr",)))
    assert {row.seconds for row in entrant.rows} == {row.memory for row in entrant.rows} == {None}
    assert entrant.seconds > 0
    assert entrant.seconds_per_picture is None
    made = only(made_from_hr(folders / "hr"))
    assert all(row.seconds > 0 for row in made.rows)
    assert made.seconds_per_picture == pytest.approx(np.mean([row.seconds for row in made.rows]))
    assert made.peak_memory is None or made.peak_memory > 50_000_000


def test_pictures_can_be_looked_at_again(folders):
    pairs, _ = restored(folders / "lr", folders / "hr")
    shown = Viewer(pairs, [bicubic()])("enlarged", "p1")
    assert torch.equal(shown.sr.rgb, enlarged(shown.lr).picture.rgb)
    assert shown.hr.rgb.shape == (1, 3, 64, 96)
    done = Viewer(finished(folders / "sr", folders / "hr")[0], [replace(bicubic(), restore=None)])
    assert done("enlarged", "p1").sr.rgb.shape == (1, 3, 64, 96)
    assert done("enlarged", "p1").lr is None
    with pytest.raises(InputError, match="not at hand"):
        done("another", "p1")


class TestOfficialOutputs:
    """Three of the 31 outputs with their authors' log."""

    NAMES = ("Canon_10_x1", "P1171031_x1", "sony_1_x1")

    def test_scores_are_those_of_the_log(self, development_data, monkeypatch):
        monkeypatch.setenv("ONESTEP_HOME", str(development_data / "metrics"))
        folder = development_data / "dev" / "drealsr"
        pairs, alone = finished(folder / "osediff_official", folder / "HR")
        assert len(pairs) == 31
        assert not alone
        rows = only(evaluate([pair for pair in pairs if pair.name in self.NAMES])).rows
        log = (folder / "osediff_official_metrics.log").read_text()
        assert [row.name for row in rows] == list(self.NAMES)
        for row in rows:
            line = next(line for line in log.splitlines() if f"/{row.name}.png" in line)
            logged = dict(part.strip().split(": ") for part in line.split("|")[1].split(";"))
            assert row.scores["psnr-y"] == pytest.approx(float(logged["PSNR"]), abs=1e-4)
            assert row.scores["ssim-y"] == pytest.approx(float(logged["SSIM"]), abs=1e-5)
            assert row.scores["niqe"] == pytest.approx(float(logged["NIQE"]), abs=0.05)
        assert rows[0].scores["lpips-squeeze"] == pytest.approx(0.1450, abs=1e-4)
