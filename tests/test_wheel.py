"""The built wheel, installed outside of the checkout, upscales a picture and carries what it should."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from onestep.bench.runners import photo

ROOT = Path(__file__).parent.parent


def run(*words: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command with a clean import path, and return what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of what a source distribution holds, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, copy, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_is_pure_and_named_as_the_distribution(wheel):
    assert wheel.name.startswith("onestep_sr-")
    assert wheel.name.endswith("-py3-none-any.whl")


def test_wheel_holds_every_source_file_types_and_weights(names):
    source = ROOT / "src"
    wanted = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
    wanted |= {path.relative_to(source).as_posix() for path in source.rglob("*.safetensors")}
    assert wanted | {"onestep/py.typed"} <= set(names)
    shipped = {"oftsr-compact-x4", "degradation-estimator"}
    assert {f"onestep/weights/{name}.safetensors" for name in shipped} <= set(names)


def test_wheel_holds_nothing_else(names):
    for name in names:
        top, _, rest = name.partition("/")
        assert top == "onestep" or top.endswith(".dist-info"), name
        if top == "onestep":
            kinds = (".py", ".typed", ".safetensors", ".css", ".js", ".json")
            assert rest.endswith(kinds), name
    licences = {Path(name).name for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "THIRD_PARTY.md"}


def test_wheel_is_small_enough_to_carry(wheel):
    assert wheel.stat().st_size < 20_000_000


def test_installed_wheel_upscales_outside_of_the_checkout(wheel, tmp_path):
    target, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel, cwd=work)
    Image.fromarray(photo(20, 12)).save(work / "small.png")
    where = "import onestep; print(onestep.__file__)"
    assert Path(run(sys.executable, "-c", where, cwd=work, path=target).strip()).is_relative_to(target)
    command = ("-m", "onestep", "upscale", "small.png", "-o", "large.png", "-r", "0.5")
    run(sys.executable, *command, cwd=work, path=target)
    with Image.open(work / "large.png") as large:
        assert large.size == (80, 48)
