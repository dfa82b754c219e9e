"""The commands beside ``upscale``: what they print, write and refuse. And the list of all options."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import onestep
from onestep import Upscaler, checkpoint, hub
from onestep.cli import app, run
from onestep.cli.screen import Screen
from onestep.core.errors import InputError
from onestep.core.picture import read
from onestep.metrics import pixel
from onestep.train import DivergedError, StoppedError

SAY = {"--json", "--quiet", "-q", "--verbose", "-v", "--debug"}
FILES = {"--output", "-o"}
MODEL = {"--model", "-n", "--realism", "-r", "--option", "-O", "--device", "-g", "--dtype", "--seed"}
OPTIONS = {
    "upscale": SAY
    | FILES
    | MODEL
    | {"--scale", "-s", "--width", "--height", "--tile", "-t", "--overlap", "--color", "--ext", "--suffix"}
    | {"--quality", "--strip-metadata", "--resume", "--overwrite", "--skip-existing", "--max-pixels"}
    | {"--dry-run", "--stream", "--engine", "--address", "--cores", "--consistent", "--downscale"}
    | {"--realism-map"},
    "models": SAY | {"--pull"},
    "train": SAY | {"--set", "--run", "--init", "--max-minutes", "--device", "-g", "--list", "--dry-run"},
    "degrade": SAY
    | FILES
    | {"--preset", "--scale", "-s", "--seed", "--ext", "--suffix", "--quality", "--max-pixels"}
    | {"--estimate", "--model", "-n"},
    "convert": SAY | FILES | {"--method", "--option", "-O"},
    "evaluate": SAY
    | FILES
    | MODEL
    | {"--sr", "--hr", "--lr", "--preset", "--metrics", "--protocol", "--scale", "-s", "--sweep", "--compare"}
    | {"--workers", "--tile", "-t", "--overlap", "--name", "--also", "--against", "--dataset", "--no-images"},
    "bench": SAY | FILES | {"--model", "-n", "--repeats", "--rivals"},
    "doctor": SAY,
}
"""Growth is a decision: a new option is written into the interface's contract first, then here."""


@pytest.fixture(autouse=True)
def _home(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(path, size=(32, 24), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def hr(tmp_path):
    for index in range(2):
        put(tmp_path / "hr" / f"p{index}.png", seed=index)
    return "hr"


def records(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def last_line(capsys):
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


# The command itself


def test_the_options_of_every_command_are_those_agreed_on():
    commands = typer.main.get_command(app).commands
    found = {
        name: {word for one in command.params if one.name != "help" for word in one.opts if word[0] == "-"}
        for name, command in commands.items()
    }
    assert found == OPTIONS


def test_help_does_not_import_torch():
    code = (
        "import sys; from onestep.cli import run; assert run(['--help']) == 0;"
        "heavy = {'torch', 'numpy', 'scipy', 'PIL', 'pydantic', 'safetensors'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in OPTIONS)


@pytest.mark.parametrize("command", OPTIONS)
def test_every_command_has_help(command, capsys):
    assert run([command, "--help"]) == 0
    assert command in capsys.readouterr().out


def test_version_and_nothing(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"onestep {onestep.__version__}\n"
    assert run([]) == 2


def test_an_interrupt_anywhere_ends_with_130(monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("onestep.catalog.models", stop)
    assert run(["models"]) == 130
    assert "interrupted" in last_line(capsys)


def test_termination_from_outside_is_an_interrupt(monkeypatch, capsys):
    from onestep.cli import main

    def kill(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("onestep.catalog.models", kill)
    monkeypatch.setattr(sys, "argv", ["onestep", "models", "--debug"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == 130


# models


def test_models_are_listed(capsys, home):
    assert run(["models", "--json"]) == 0
    captured = capsys.readouterr()
    found = {row["name"]: row for row in map(json.loads, captured.out.splitlines())}
    assert {"bicubic", "lanczos", "tiny", "tiny-teacher"} <= found.keys()
    assert found["tiny"]["where"] == "home"
    assert found["tiny"]["size"] == (home / "tiny.safetensors").stat().st_size
    assert "used when none is named" in captured.err


def test_one_model_shows_its_card(capsys, home):
    file = home / "tiny.safetensors"
    for word in ("tiny", str(file)):
        assert run(["models", word, "--json"]) == 0
        captured = capsys.readouterr()
        (card,) = map(json.loads, captured.out.splitlines())
        assert (card["name"], card["method"], card["license"]) == ("tiny", "oftsr", "CC0-1.0")
        assert card["sha256"] == hub.sha256(file)
        for text in ("CC0-1.0", hub.sha256(file), "30.5", "It is tiny.", "Nobody.", "7 steps", "0.5"):
            assert text in captured.err
    assert run(["models", "tinny"]) == 2
    assert "did you mean 'tiny'" in last_line(capsys)


def test_pulling_fetches_into_the_home(capsys, monkeypatch, tmp_path):
    content = b"weights"
    (tmp_path / "source").write_bytes(content)
    copy = hub.Copy("x/file.pth", hashlib.sha256(content).hexdigest(), len(content), ("https://a/b",))
    monkeypatch.setenv("ONESTEP_HOME", str(tmp_path / "new"))
    monkeypatch.setattr(hub, "FILES", {"x": hub.Weights("X", (copy,), "CC0-1.0", "nowhere")})
    assert run(["models", "--pull", "x"]) == 1
    assert "download failed" in last_line(capsys)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (tmp_path / "source").open("rb"))
    assert run(["models", "--pull", "x", "--json"]) == 0
    assert records(capsys)[0]["path"] == str(tmp_path / "new" / "x" / "file.pth")
    assert (tmp_path / "new" / "x" / "file.pth").read_bytes() == content
    assert run(["models", "--pull", "bicubic"]) == 0
    assert run(["models", "--pull", "nonsense"]) == 2
    assert run(["models", "bicubic", "--pull", "x"]) == 2


# doctor


def test_doctor_says_what_is_there_and_how_to_get_the_rest(capsys, home):
    assert run(["doctor", "--json"]) == 0
    captured = capsys.readouterr()
    found = {row["what"]: row for row in map(json.loads, captured.out.splitlines())}
    assert found["torch"]["found"] == torch.__version__ or found["torch"]["found"] in torch.__version__
    assert found["ONESTEP_HOME"]["found"] == str(home)
    assert found["model tiny"]["found"] == "home"
    assert found["weights niqe"]["found"] == "missing"
    assert "onestep models --pull niqe" in found["weights niqe"]["to_do"]
    assert "onestep models --pull niqe" in captured.err


# degrade


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


# evaluate


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
    put(tmp_path / "sr" / "p0.png")
    put(tmp_path / "sr" / "other.png")
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


# convert


def test_convert_writes_a_release_file(monkeypatch, tmp_path, capsys, home):
    tensors, card = checkpoint.read(home / "tiny.safetensors")
    asked = []

    def adapter(path, name, options):
        asked.append((path.name, name, dict(options)))
        return tensors, card

    monkeypatch.setattr("onestep.convert.ADAPTERS", {"oftsr": adapter, "ctmsr": None})
    (tmp_path / "official.pt").write_bytes(b"x")
    words = ["convert", "official.pt", "--method", "oftsr", "-O", "task=div2k", "--json"]
    assert run([*words, "-o", "out/mine.safetensors"]) == 0
    assert asked == [("official.pt", "mine", {"task": "div2k"})]
    assert records(capsys)[0]["card"]["method"] == "oftsr"
    assert Upscaler.load("out/mine.safetensors").name == "mine"


FACTS = ["-O", "kind=student", "-O", "sigma=0.1", "-O", "degradation=bicubic", "-O", "scale=4"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["absent.pt", "--method", "oftsr", "-o", "o.safetensors"], 1, "absent.pt: no such file"),
        (["x.pt", "--method", "s3diff", "-o", "o.safetensors"], 2, "add -O estimator"),
        (["x.pt", "--method", "magic", "-o", "o.safetensors"], 2, "no such method"),
        (["x.pt", "--method", "oftsr", "-o", "o.pth"], 2, "ends in .safetensors"),
        (["x.pt", "--method", "oftsr", "-o", "o.safetensors", "-O", "oops"], 2, "NAME=VALUE"),
        (["x.pt", "--method", "oftsr", "-o", "o.safetensors"], 2, "x.pt: its name does not tell"),
        (["x.pt", "--method", "oftsr", "-o", "o.safetensors", *FACTS], 1, "x.pt"),
    ],
)
def test_wrong_requests_to_convert(tmp_path, capsys, words, code, says):
    (tmp_path / "x.pt").write_bytes(b"no checkpoint")
    assert run(["convert", *words]) == code
    assert says in last_line(capsys)
    assert not (tmp_path / "o.safetensors").exists()


def test_a_release_file_where_none_can_be_written(monkeypatch, tmp_path, capsys, home):
    made = checkpoint.read(home / "tiny.safetensors")
    monkeypatch.setattr("onestep.convert.ADAPTERS", {"oftsr": lambda *_: made})
    (tmp_path / "plain").write_bytes(b"x")
    assert run(["convert", "plain", "--method", "oftsr", "-o", "plain/o.safetensors"]) == 2
    assert "cannot be written" in last_line(capsys)
    with pytest.raises(InputError, match="cannot be written"):
        checkpoint.write(tmp_path / "plain" / "o.safetensors", *made)


# train


TINY = [
    "train.steps=2",
    "train.batch=1",
    "data.crop=32",
    "data.pictures=2",
    "check.every=0",
    "train.precision=float32",
    "objective.model.network.width=8",
    "objective.model.network.trunk=1",
]


def train(*words, recipe="oftsr-toy-teacher", settings=TINY):
    return run(["train", recipe, "-g", "cpu", *words, *(w for one in settings for w in ("--set", one))])


def test_recipes_are_listed(capsys):
    assert run(["train", "--list", "--json"]) == 0
    captured = capsys.readouterr()
    names = {json.loads(line)["name"] for line in captured.out.splitlines()}
    assert {"oftsr-compact-x4", "oftsr-compact-x4-teacher", "oftsr-toy", "oftsr-ffhq"} <= names
    assert "oftsr-compact-x4" in captured.err


def test_a_dry_run_shows_the_recipe_and_starts_nothing(capsys, tmp_path):
    assert train("--dry-run", "--json") == 0
    found = records(capsys)[0]
    assert found["recipe"]["train"]["steps"] == 2
    assert found["parameters"] >= found["trained"] > 0
    assert not (tmp_path / "runs").exists()


def test_training_writes_a_release_file_that_upscales_and_the_same_command_goes_on(capsys, tmp_path):
    assert train("--run", "mine", "--json") == 0
    captured = capsys.readouterr()
    release = json.loads(captured.out)["release"]
    assert release in captured.err
    up = Upscaler.load(release, device="cpu", dtype="float32")
    assert up.card.step == 2
    assert up(torch.rand(3, 8, 8), evaluations=2).rgb.shape == (1, 3, 32, 32)
    logged = (tmp_path / "mine" / "log.jsonl").read_text()
    assert train("--run", "mine") == 0
    assert (tmp_path / "mine" / "log.jsonl").read_text() == logged
    assert train("--run", "mine", settings=[*TINY, "train.seed=5"]) == 2
    assert "train.seed was 0, now 5" in last_line(capsys)


@pytest.mark.parametrize(("error", "code"), [(StoppedError("stopped"), 130), (DivergedError("nan"), 1)])
def test_how_training_ends_decides_the_exit_code(error, code, monkeypatch, capsys):
    def end(*_, **__):
        raise error

    monkeypatch.setattr("onestep.train.train", end)
    assert train() == code
    assert str(error) in last_line(capsys)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "--list"),
        (["oftsr-toi"], 2, "did you mean oftsr-toy"),
        (["mine.py:make"], 2, "mine.py: no such file"),
        (["oftsr-toy-teacher", "--set", "train.step=2"], 2, "did you mean steps"),
        (["oftsr-toy-teacher", "--set", "train.steps"], 2, "name=value"),
        (["oftsr-toy-teacher", "--set", "train.steps=many"], 2, "train.steps"),
        (["oftsr-toy-teacher", "--set", "data.folder=nowhere"], 2, "nowhere"),
        (["oftsr-toy-teacher", "--init", "absent.safetensors"], 1, "absent.safetensors"),
        (["oftsr-toy-teacher", "-g", "quantum"], 2, "quantum"),
        (["oftsr-toy-teacher", "--run", "plain/run"], 1, "plain/run"),
        (["oftsr-toy"], 2, "teacher"),
    ],
)
def test_wrong_requests_to_train(words, code, says, capsys, tmp_path):
    (tmp_path / "plain").write_bytes(b"x")
    assert run(["train", *words]) == code
    assert says in last_line(capsys)


# bench


def test_bench_prints_and_writes_what_was_measured(monkeypatch, capsys, tmp_path):
    from onestep.bench import SMALL, Measurement, Report

    row = Measurement(SMALL.name, "onestep", 5, 0.5, 2.0, 3.5, 1.0, 10**8, 2 * 10**8, 10**8)
    floor = {"gemm": 1e9}
    asked = {}

    def measured(model, **words):
        asked.update(words, model=model)
        return Report("tiny", "0.1.0", {"threads": 1}, floor, (row,), {"rival": "not installed"})

    monkeypatch.setattr("onestep.bench.bench", measured)
    monkeypatch.setattr("onestep.bench.report.markdown", lambda report: f"# {report.model}\n")
    assert run(["bench", "-n", "tiny", "--repeats", "2", "--json", "-o", "out/b.json"]) == 0
    assert (asked["model"], asked["repeats"], asked["rivals"]) == ("tiny", 2, None)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads((tmp_path / "out" / "b.json").read_text())
    assert json.loads(captured.out)["measurements"][0]["seconds_per_mpx"] == 2.0
    assert run(["bench", "-o", "b.md"]) == 0
    assert (tmp_path / "b.md").read_text() == "# tiny\n"
    assert run(["bench", "-o", "b.txt"]) == 2


# What is said


def test_a_screen_speaks_to_people_on_stderr_and_to_programs_on_stdout(capsys):
    for screen in (Screen(), Screen(quiet=True), Screen(json=True, verbose=True)):
        screen.say("line [not markup]")
        screen.detail("more")
        screen.record({"a": 1})
        with screen.progress("work") as report:
            report(0.5, "half")
    captured = capsys.readouterr()
    assert captured.out == '{"a": 1}\n'
    assert captured.err.count("line [not markup]") == 2
    assert captured.err.count("more") == 1
