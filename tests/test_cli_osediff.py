"""OSEDiff from the command line: from nothing to an upscaled file, what a run takes, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from onestep import checkpoint, hub
from onestep.checkpoint import Card
from onestep.cli import run
from onestep.core.config import to_dict
from onestep.methods.osediff import OsediffConfig
from prior_parts import plain_folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a tiny base, and a release file on it."""
    home = tmp_path_factory.mktemp("home")
    folder = plain_folder(home / "tiny-base")
    model = OsediffConfig(base=str(folder)).build()
    card = Card("on-base", "osediff", to_dict(model.config), to_dict(model.traits), 0, "x", None, "0")
    checkpoint.write(home / "on-base.safetensors", model.state_dict(), card)
    return home


@pytest.fixture(autouse=True)
def _there(bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setenv(hub.HOME_VARIABLE, str(bases))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.chdir(tmp_path)
    array = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "photo.png")


def test_a_release_on_a_base_upscales_a_file(tmp_path: Path, bases: Path):
    assert run(["upscale", "photo.png", "-n", "on-base", "-o", "out.png", "-O", "prompt=a dog"]) == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (52, 36)
    assert list((bases / "prompts").rglob("*.safetensors")), "the embedding was kept"


def refused(words: list[str], capsys: pytest.CaptureFixture[str], code: int, says: str) -> None:
    assert run(words) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert says in lines[0]


def test_a_prompt_that_is_too_long_is_refused(capsys: pytest.CaptureFixture[str]):
    words = ["upscale", "photo.png", "-n", "on-base", "-o", "out.png", "-O", "prompt=" + "very " * 40]
    refused(words, capsys, 2, "77 are possible")


def test_a_base_that_is_gone_is_refused(
    bases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "alone" / "on-base.safetensors"
    file.parent.mkdir()
    file.write_bytes((bases / "on-base.safetensors").read_bytes())
    monkeypatch.setenv(hub.HOME_VARIABLE, str(file.parent))
    refused(["upscale", "photo.png", "-n", str(file), "-o", "out.png"], capsys, 2, "base model 'tiny-base'")


def test_a_dry_run_counts_and_needs_no_base(capsys: pytest.CaptureFixture[str]):
    assert run(["train", "osediff-x4", "--dry-run", "--json"]) == 0
    out = capsys.readouterr()
    record = json.loads(out.out.splitlines()[-1])
    assert record["trained"] == 8_492_620
    assert 5e9 < record["memory"] < 9e9
    assert "8,492,620 of them trained" in out.err
    assert "GB of activations" in out.err


def test_from_nothing_to_a_picture(tmp_path: Path):
    """Autoencoder, prior, OSEDiff on it, an upscaled file; each step of training is a step too few."""
    few = ["--set", "train.steps=2", "--set", "check.every=0", "--set", "train.batch=2", "--device", "cpu"]

    def train(recipe: str, *settings: str) -> Path:
        words = [word for setting in settings for word in ("--set", setting)]
        assert run(["train", recipe, "--run", f"runs/{recipe}", *few, *words, "-q"]) == 0
        return next((tmp_path / "runs" / recipe).glob("release-*.safetensors"))

    autoencoder = train("prior-toy-vae")
    prior = train("prior-toy", f"objective.autoencoder={autoencoder}")
    plain = train("osediff-toy", f"objective.prior={prior}")
    assert checkpoint.read_card(plain).config["prior"]["unet"]["sample"] == 8
    assert run(["upscale", "photo.png", "-n", str(plain), "-o", "out.png", "-g", "cpu"]) == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (52, 36)
    assert run(["upscale", "photo.png", "-n", str(prior), "-o", "slow.png", "-O", "evaluations=2"]) == 0
