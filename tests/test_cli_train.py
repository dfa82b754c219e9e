"""``onestep train``: recipes, a dry run, a run that goes on, how runs end, what is refused."""

import json

import pytest
import torch

from command_line import last_line, records
from onestep import Upscaler
from onestep.cli import run
from onestep.train import DivergedError, StoppedError

pytestmark = pytest.mark.usefixtures("workplace")

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
