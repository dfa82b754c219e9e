"""What a user of OSEDiff and S3Diff types, from the authors' files to a picture; and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from onestep import checkpoint, hub
from onestep.cli import entry, run
from onestep.methods.osediff import OsediffConfig
from onestep.methods.s3diff import S3diffConfig
from onestep.networks.degradation_estimator import DegradationEstimator, EstimatorConfig
from prior_parts import as_published, plain_folder, shaken
from test_convert_osediff import merged
from test_convert_osediff import official as osediff_file
from test_convert_s3diff import official as s3diff_file

NAME = "my-base"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base somewhere on this machine, and the authors' files of both methods, trained on it."""
    place = tmp_path_factory.mktemp("downloads")
    base = as_published(plain_folder(place / NAME))
    torch.manual_seed(0)
    osediff = OsediffConfig(str(base)).build().eval()
    shaken(osediff.prior.parameters_of("generator"))
    torch.save(osediff_file(osediff), place / "osediff.pkl")
    torch.save(merged(base, osediff), place / "merged.pkl")
    s3diff = S3diffConfig(str(base), rank_unet=4, rank_vae=3).build().eval()
    shaken(s3diff.trained())
    torch.save(s3diff_file(s3diff), place / "s3diff.pkl")
    torch.save(DegradationEstimator(EstimatorConfig()).state_dict(), place / "de_net.pth")
    return place


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``ONESTEP_HOME``, no network, and a picture in the working folder."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setenv(hub.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.chdir(tmp_path)
    array = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "photo.png")
    return tmp_path / "home"


def upscaled(model: str, *words: str) -> np.ndarray:
    usual = ["upscale", "photo.png", "-o", "out.png", "-g", "cpu", "--overwrite"]
    assert run([*usual, "-n", model, *words]) == 0
    with Image.open("out.png") as image:
        assert image.size == (52, 36)
        return np.asarray(image)


def test_osediff_from_the_authors_file_to_a_picture(files: Path, home: Path, capsys: Any):
    """Both layouts, the base somewhere on the machine; it is found by its name afterwards."""
    base = ["-O", f"base={files / NAME}"]
    for name in ("osediff", "merged"):
        words = ["convert", str(files / f"{name}.pkl"), "--method", "osediff", "-o", f"{name}.safetensors"]
        assert run([*words, *base]) == 0
        said = capsys.readouterr().err
        assert str(files) not in json.dumps(checkpoint.read_card(Path(f"{name}.safetensors")).config)
        assert (f"will be looked for as {home / NAME}" in said) == (name == "osediff")
    assert (home / NAME).samefile(files / NAME)
    same = ["-O", "prompt=a dog", "-O", "posterior=mean", "--dtype", "float32"]
    one, other = (upscaled(f"{name}.safetensors", *same).astype(int) for name in ("osediff", "merged"))
    assert np.abs(one - other).max() <= 1
    assert capsys.readouterr().out == ""


def test_s3diff_from_the_authors_files_to_a_picture(files: Path, capsys: Any):
    """The estimator is converted on its own, and as a part of the generator's file."""
    de_net = ["convert", str(files / "de_net.pth"), "--method", "de_net", "-o", "estimator.safetensors"]
    assert run(de_net) == 0
    pictures: list[np.ndarray] = []
    for estimator in (files / "de_net.pth", Path("estimator.safetensors")):
        words = ["convert", str(files / "s3diff.pkl"), "--method", "s3diff", "-o", "s3diff.safetensors"]
        assert run([*words, "-O", f"base={files / NAME}", "-O", f"estimator={estimator}"]) == 0
        pictures.append(upscaled("s3diff.safetensors", "-O", "prompt=good", "-O", "negative=bad"))
    assert np.array_equal(*pictures)
    capsys.readouterr()
    assert run(["upscale", "photo.png", "-n", "s3diff.safetensors", "-o", "long.png"]) in (1, 2)
    assert "and 77 are possible" in one_line(capsys), "the bytes of the fixed prompts are too many here"


def test_a_name_that_is_taken_is_not_taken_over(files: Path, home: Path, capsys: Any):
    (home / NAME).mkdir(parents=True)
    words = ["convert", str(files / "osediff.pkl"), "--method", "osediff", "-o", "o.safetensors"]
    assert run([*words, "-O", f"base={files / NAME}"]) == 0
    assert "another folder is there" in capsys.readouterr().err
    assert not any((home / NAME).iterdir())


def one_line(capsys: Any) -> str:
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert captured.out == ""
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("onestep: ")
    return lines[0]


def changed(file: str, **values: Any) -> Callable[[Path], None]:
    def change(base: Path) -> None:
        path = base / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def without(file: str) -> Callable[[Path], None]:
    return lambda base: (base / file).unlink()


def cut(file: str) -> Callable[[Path], None]:
    return lambda base: (base / file).write_bytes((base / file).read_bytes()[:3000])


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
BASES = {
    "XL": (changed("unet/config.json", addition_embed_type="text_time"), "a Stable Diffusion XL model"),
    "768": (changed("scheduler/scheduler_config.json", prediction_type="v_prediction"), "for 768 pixels"),
    "inpainting": (changed("unet/config.json", in_channels=9), "inpainting or depth"),
    "part": (without("vae/config.json"), "vae/config.json is missing"),
    "weights": (without(WEIGHTS), "holds no weights"),
    "broken weights": (cut(WEIGHTS), "cannot be loaded"),
    "tokenizer": (lambda base: shutil.rmtree(base / "tokenizer"), "tokenizer"),
}


@pytest.mark.parametrize("kind", BASES)
def test_a_wrong_base_is_one_line_and_nothing_starts(kind: str, files: Path, home: Path, capsys: Any):
    words = ["convert", str(files / "osediff.pkl"), "--method", "osediff", "-o", "o.safetensors"]
    shutil.copytree(files / NAME, home / NAME)
    assert run([*words, "-O", f"base={NAME}", "-q"]) == 0
    spoil, says = BASES[kind]
    spoil(home / NAME)
    assert run(["upscale", "photo.png", "-n", "o.safetensors", "-o", "out.png"]) == 2
    assert says in one_line(capsys)
    assert not Path("out.png").exists()
    if kind in ("XL", "768", "inpainting", "part"):  # what counting tensors looks at
        assert run([*words, "-O", f"base={NAME}"]) == 2
        assert says in one_line(capsys)


@pytest.mark.parametrize("method", ["osediff", "s3diff"])
def test_a_known_base_that_is_not_here_says_what_to_put_where(
    method: str, files: Path, home: Path, capsys: Any
):
    """Counting needs no base, so files with adapters alone are converted without one."""
    words = ["convert", str(files / "merged.pkl"), "--method", "osediff", "-o", "o.safetensors"]
    if method == "osediff":
        assert run(words) == 1
        said = one_line(capsys)
        assert "put the folders unet, vae, text_encoder" in said
        assert str(home / "sd-2.1-base") in said
    config = {"osediff": OsediffConfig(), "s3diff": S3diffConfig()}[method]
    card = checkpoint.Card("x", method, checkpoint.to_dict(config), {}, 0, "x", None, "0")
    checkpoint.write(Path("x.safetensors"), {}, card)
    assert run(["upscale", "photo.png", "-n", "x.safetensors", "-o", "out.png"]) == 2
    assert f"into {home / config.base}" in one_line(capsys)


def spoilt(files: Path, kind: str) -> Path:
    path, whole = Path("bad.pkl"), (files / "osediff.pkl").read_bytes()
    contents = {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>not found</html>"}
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "foreign":
        torch.save({"params_ema": {"conv.weight": torch.zeros(3)}}, path)
    elif kind == "S3Diff's":
        return files / "s3diff.pkl"
    elif kind == "code":
        torch.save({"state_dict_unet": Path("a path is no number")}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("truncated", "not a PyTorch checkpoint, or damaged"),
        ("empty", "not a PyTorch checkpoint, or damaged"),
        ("text", "not a PyTorch checkpoint, or damaged"),
        ("foreign", "not an OSEDiff checkpoint: it holds params_ema"),
        ("S3Diff's", "does not fit OSEDiff's"),
        ("code", "nothing was run"),
        ("missing", "no such file"),
    ],
)
def test_a_bad_file_is_one_line(kind: str, says: str, files: Path, capsys: Any):
    file = spoilt(files, kind)
    words = ["convert", str(file), "--method", "osediff", "-o", "o.safetensors", "-O", f"base={files / NAME}"]
    assert run(words) == 1
    said = one_line(capsys)
    assert says in said
    assert str(file) in said
    assert not Path("o.safetensors").exists()


def test_libraries_are_silent_in_the_command(files: Path, tmp_path: Path):
    """A process of its own: a new prompt loads the text encoder, and no bar shows it."""
    words = ["convert", str(files / "osediff.pkl"), "--method", "osediff", "-o", "o.safetensors", "-q"]
    assert run([*words, "-O", f"base={files / NAME}"]) == 0
    words = ["upscale", "photo.png", "-n", "o.safetensors", "-o", "out.png", "-O", "prompt=a dog", "-q"]
    command = [sys.executable, "-m", "onestep", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_users_own_settings_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entry, "run", lambda words: 0)
    monkeypatch.setattr(sys, "argv", ["onestep", "--debug"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for name in entry.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    with pytest.raises(SystemExit):
        entry.main()
    assert {name: os.environ[name] for name in entry.ENVIRONMENT} == {
        **entry.ENVIRONMENT,
        "TRANSFORMERS_VERBOSITY": "info",
    }
