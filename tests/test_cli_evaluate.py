"""``onestep evaluate``: scores of pictures and of models, the formats of reports, what is refused."""

import json

import pytest
import torch
from PIL import Image

from command_line import last_line, records
from onestep import Upscaler, hub
from onestep.cli import run
from onestep.core.picture import read
from onestep.metrics import pixel
from pictures import hr_folder, put

pytestmark = pytest.mark.usefixtures("workplace")
hr = pytest.fixture(hr_folder)


def tensor(array):
    return torch.from_numpy(array).permute(2, 0, 1)[None] / 255


def evaluate(*words):
    return run(["evaluate", *words, "--metrics", "psnr-y,ssim-y"])


def test_finished_pictures_are_scored(hr, tmp_path, capsys):
    noisy = {}
    for index in range(2):
        truth = read(tmp_path / "hr" / f"p{index}.png")
        values = (truth.rgb * 255 + 9 * (-1) ** torch.arange(32)).clamp(0, 255)
        image = values[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
        (tmp_path / "sr").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "sr" / f"p{index}.png")
        noisy[f"p{index}"] = float(pixel.psnr_y(tensor(image), truth.rgb))
    assert evaluate("--sr", "sr", "--hr", hr, "-o", "report/r.json", "--json") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report == json.loads((tmp_path / "report" / "r.json").read_text("utf-8"))
    assert {"protocol", "metrics", "images", "version", "weights_sha256"} <= report.keys()
    assert report["protocol"]["name"] == "full"
    assert report["metrics"]["psnr-y"]["better"] == "higher"
    scores = {row["name"]: row["psnr-y"] for row in report["images"]}
    assert scores == pytest.approx(noisy)
    assert report["metrics"]["psnr-y"]["mean"] == pytest.approx(sum(noisy.values()) / 2)
    assert "psnr-y" in captured.err


def test_a_model_is_scored_on_small_pictures(hr, home, tmp_path, capsys):
    assert run(["degrade", hr, "-o", "lr", "--preset", "bicubic"]) == 0
    capsys.readouterr()
    words = [
        "-n",
        "tiny",
        "--hr",
        hr,
        "-r",
        "0.25",
        "--seed",
        "2",
        "-g",
        "cpu",
        "--dtype",
        "float32",
        "--json",
    ]
    assert evaluate("--lr", "lr", *words) == 0
    report = records(capsys)[0]
    assert report["model"] == "tiny"
    assert report["options"] == {"realism": 0.25}
    assert report["weights_sha256"] == hub.sha256(home / "tiny.safetensors")
    up = Upscaler.load("tiny", device="cpu", dtype="float32")
    out = up(tmp_path / "lr" / "p0.png", realism=0.25, seed=2).to_uint8()
    expected = float(pixel.psnr_y(tensor(out), read(tmp_path / "hr" / "p0.png").rgb))
    assert report["images"][0]["psnr-y"] == pytest.approx(expected, abs=1e-4)
    assert evaluate("--preset", "bicubic", *words) == 0
    again = records(capsys)[0]
    assert again["degradation"] == "bicubic"
    assert again["images"][0]["psnr-y"] == pytest.approx(expected, abs=1e-4)


def test_a_missing_partner_is_said_and_the_rest_scored(hr, tmp_path, capsys):
    put(tmp_path / "sr" / "p0.png", (32, 24))
    put(tmp_path / "sr" / "other.png", (32, 24))
    assert evaluate("--sr", "sr", "--hr", hr, "--json") == 1
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert [row["name"] for row in report["images"]] == ["p0"]
    assert report["failed"].keys() == {"other", "p1"}
    assert "sr/other.png: has no HR partner" in captured.err
    assert "hr/p1.png: has no SR partner" in captured.err


def test_a_metric_without_its_weights_is_one_line_and_the_rest_is_scored(hr, capsys):
    assert run(["evaluate", "--sr", hr, "--hr", hr, "--metrics", "ssim-y, niqe", "--json", "-q"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["metrics"].keys() == {"ssim-y"}
    assert report["metrics"]["ssim-y"]["mean"] == pytest.approx(1)
    assert report["skipped"].keys() == {"niqe"}
    (line,) = captured.err.splitlines()
    assert "niqe left out" in line
    assert "no network in tests" in line


@pytest.mark.parametrize("name", ["r.json", "r.csv", "r.md", "r.html"])
def test_reports_in_four_formats(hr, tmp_path, name):
    assert evaluate("--sr", hr, "--hr", hr, "-o", name, "--protocol", "classic-y-crop") == 0
    text = (tmp_path / name).read_text("utf-8")
    assert "psnr-y" in text
    assert "p0" in text or name.endswith(".md")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--hr", "hr"], "give one of"),
        (["--hr", "hr", "--sr", "hr", "--preset", "bicubic"], "give one of"),
        (["--hr", "hr", "--sr", "hr", "-n", "tiny"], "no meaning"),
        (["--hr", "hr", "--sr", "hr", "-o", "r.pdf"], ".json, .csv, .md or .html"),
        (["--hr", "hr", "--sr", "hr", "-o", "hr/p0.png/r.md"], "cannot be written"),
        (["--hr", "hr", "--sr", "hr", "--against", "me"], "write --against paper"),
        (["--hr", "hr", "--sr", "hr", "--dataset", "drealsr"], "give --against paper too"),
        (["--hr", "hr", "--sr", "hr", "--against", "paper", "--dataset", "x"], "no paper's table"),
        (["--hr", "hr", "--sr", "nowhere"], "nowhere: no such folder"),
        (["--hr", "hr", "--sr", "hr", "--protocol", "odd"], "no protocol"),
        (["--hr", "hr", "--sr", "hr", "--metrics", "beauty"], "no metric"),
        (["--hr", "hr", "--sr", "hr", "--metrics", "seam"], "borders"),
        (["--hr", "hr", "--sr", "hr", "--metrics", ","], "--metrics"),
        (["--hr", "hr", "--preset", "odd"], "odd"),
        (["--hr", "hr", "--lr", "hr", "-n", "bicubic", "-r", "0.5"], "no option 'realism'"),
    ],
)
def test_wrong_requests_to_evaluate(hr, capsys, words, says):
    assert run(["evaluate", "--metrics", "psnr-y", *words]) == 2
    assert says in last_line(capsys)
