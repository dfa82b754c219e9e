"""Protocols: what each cuts, rounds and expects, and that their scores stay apart."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from evaluation_folders import bicubic, noisy, photograph, put, write_folders
from onestep import metrics
from onestep.core.errors import UsageError
from onestep.core.picture import Picture, read
from onestep.evaluate import (
    PROTOCOLS,
    Restored,
    degraded,
    evaluate,
    finished,
    joined,
    protocol,
    restored,
    write,
)

SHIFT = 0.4 / 255
"""Vanishes when results are rounded to 8 bit."""


@pytest.fixture
def folders(tmp_path):
    return write_folders(tmp_path)


def only(report):
    (entrant,) = report.entrants
    return entrant


def expected_psnr(folder, name, border):
    hr, sr = (
        np.asarray(Image.open(folder / f / f"{name}.png"))[border:-border, border:-border]
        for f in ("hr", "sr")
    )
    return peak_signal_noise_ratio(hr, sr)


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_classic_border_is_the_factor(folders, scale):
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr",), protocol("classic-y-crop").at(scale))
    row = only(report).rows[0]
    assert row.scores["psnr"] == pytest.approx(expected_psnr(folders, "p0", scale), abs=1e-3)
    assert report.to_json()["protocol"]["border"] == report.to_json()["protocol"]["scale"] == scale
    assert only(report).remarks == []


def test_the_factor_of_a_model_settles_the_border(folders):
    def doubled(lr):
        return Restored(Picture(torch.nn.functional.interpolate(lr.rgb, scale_factor=2)))

    for name in ("p0", "p1", "p2"):
        put(folders / "half" / f"{name}.png", photograph(0, 32, 48))
    pairs, _ = restored(folders / "half", folders / "hr")
    double = bicubic(restore=doubled)
    report = evaluate(
        pairs, ("psnr",), protocol("classic-y-crop"), candidates=[type(double)(double.entrant, doubled, 2)]
    )
    assert report.protocol.border == 2


def test_an_unknown_factor_is_taken_as_four_and_said(folders):
    pairs, _ = finished(folders / "sr", folders / "hr")
    report = evaluate(pairs, ("psnr",), protocol("classic-y-crop"))
    assert report.protocol.border == 4
    assert "taken as 4" in only(report).remarks[0]
    assert evaluate(pairs, ("psnr",)).entrants[0].remarks == []


@pytest.mark.parametrize("name", PROTOCOLS)
def test_rounding_belongs_to_the_protocol(folders, name):
    """A model that is off by less than half a level is perfect where results are rounded."""
    exact = iter([read(pair.hr) for pair in degraded(folders / "hr")[0]])
    pairs, _ = restored(folders / "lr", folders / "hr")
    candidate = bicubic(restore=lambda lr: Restored(Picture((next(exact).rgb + SHIFT).clamp(0, 1))))
    score = only(evaluate(pairs, ("psnr",), protocol(name), candidates=[candidate])).mean("psnr")
    assert (score > 79.9) == PROTOCOLS[name].round8


def test_hr_may_be_larger_only_where_the_protocol_says_so(folders):
    put(folders / "hr" / "p0.png", photograph(0, 80, 120))
    pairs, _ = finished(folders / "sr", folders / "hr")
    assert "sizes must agree" in only(evaluate(pairs, ("psnr",), protocol("full"))).failed["p0"]
    entrant = only(evaluate(pairs, ("psnr",), protocol("resshift-full")))
    assert not entrant.failed
    assert entrant.rows[0].scores["psnr"] == pytest.approx(
        peak_signal_noise_ratio(photograph(0, 64, 96), np.asarray(Image.open(folders / "sr" / "p0.png"))),
        abs=1e-3,
    )


def test_pictures_unlike_those_of_the_protocol_are_scored_and_said(folders):
    pairs, _ = finished(folders / "sr", folders / "hr")
    remarks = only(evaluate(pairs, ("psnr",), protocol("stablesr-512"))).remarks
    assert remarks == [
        "stablesr-512 has HR pictures of 512x512; 3 are not",
        "the sets of stablesr-512 have 93, 100, 3000 pictures; these are 3",
    ]
    assert "not rounded" in only(evaluate(pairs, ("psnr",), protocol("resshift-full"))).remarks[-1]
    assert only(evaluate(pairs, ("psnr",), protocol("oftsr-100"))).remarks == [
        "the sets of oftsr-100 have 100 pictures; these are 3"
    ]


def test_a_protocol_brings_its_metrics(folders, monkeypatch):
    monkeypatch.setattr("onestep.hub.fetch", lambda name: pytest.fail(f"{name} is not needed"))
    pairs, _ = finished(folders / "sr", folders / "hr")
    assert evaluate(pairs, None, protocol("classic-y-crop")).metrics == ["psnr-y", "ssim-y"]


@pytest.mark.parametrize("rules", PROTOCOLS.values(), ids=PROTOCOLS)
def test_every_metric_of_a_protocol_is_known(rules):
    assert set(rules.metrics) <= set(metrics.METRICS)


def test_the_protocols_of_the_papers():
    """Sections on evaluation: OSEDiff 6.3 and S3Diff 6, CTMSR 6.4, OFTSR 5.2."""
    stable, shift, flow = (PROTOCOLS[name] for name in ("stablesr-512", "resshift-full", "oftsr-100"))
    assert {"psnr-y", "ssim-y", "lpips-alex", "dists", "fid", "niqe", "musiq"} < set(stable.metrics)
    assert "maniqa-pipal" in stable.metrics
    assert "maniqa-koniq" in shift.metrics
    assert (stable.round8, shift.round8, flow.round8) == (True, False, True)
    assert {one.border for one in (stable, shift, flow)} == {0}
    assert set(flow.metrics) == {"psnr", "lpips-alex", "fid-legacy"}


def test_scores_of_different_protocols_never_share_a_column(folders, tmp_path):
    pairs, _ = finished(folders / "sr", folders / "hr")
    reports = [
        evaluate(pairs, ("psnr",), rules)
        for rules in (
            protocol("full"),
            protocol("full-float"),
            protocol("classic-y-crop").at(2),
            protocol("classic-y-crop").at(4),
            protocol("full"),
        )
    ]
    apart = joined(reports)
    assert [(one.protocol.name, one.protocol.border, len(one.entrants)) for one in apart] == [
        ("full", 0, 2),
        ("full-float", 0, 1),
        ("classic-y-crop", 2, 1),
        ("classic-y-crop", 4, 1),
    ]
    for name in ("r.json", "r.csv"):
        with pytest.raises(UsageError, match="share no column"):
            write(apart, tmp_path / name)
        assert not (tmp_path / name).exists()
    write(apart, tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text().count("\n| | pictures") == 4


def test_more_noise_lowers_the_score_under_every_protocol(folders):
    for index in range(3):
        put(folders / "worse" / f"p{index}.png", noisy(photograph(16 * index), 20, index))
    for rules in PROTOCOLS.values():
        good, bad = (
            only(evaluate(finished(folders / name, folders / "hr")[0], ("psnr-y", "ssim-y"), rules))
            for name in ("sr", "worse")
        )
        for metric in ("psnr-y", "ssim-y"):
            assert good.mean(metric) > bad.mean(metric)
