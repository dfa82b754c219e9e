"""What README and CONTRIBUTING tell people to type does what they say; nothing is installed again here."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from onestep.bench.runners import photo
from onestep.cli import app
from onestep.core.config import updated
from onestep.recipes import recipe
from onestep.train import train

ROOT = Path(__file__).parent.parent
INSTALL = "-m pip install -c constraints.txt -e "


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.S | re.M)


def bash_lines() -> list[str]:
    joined = "".join(blocks("README.md", "bash") + blocks("CONTRIBUTING.md", "bash"))
    return [line for line in joined.splitlines() if line.strip()]


def example(name: str) -> str:
    """The Python block of CONTRIBUTING.md that begins with this file name."""
    found = [text for text in blocks("CONTRIBUTING.md", "python") if text.startswith(f"# {name}\n")]
    assert len(found) == 1
    return found[0]


def load(folder: Path, name: str):
    """Write an example to a file and import it."""
    (folder / name).write_text(example(name), "utf-8")
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), folder / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder as a reader has it: a photo, and pairs to score."""
    picture = Image.fromarray(photo(48, 32))
    picture.save(tmp_path / "photo.jpg")
    for name, image in (("hr", picture), ("lr", picture.resize((12, 8)))):
        for place in (name, {"hr": "high", "lr": "low"}[name]):
            (tmp_path / place).mkdir()
            image.save(tmp_path / place / "one.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def onestep_lines() -> list[str]:
    return [line for line in bash_lines() if line.startswith("onestep ") and "my_method" not in line]


@pytest.mark.parametrize("line", onestep_lines())
def test_onestep_lines_work(line, folder):
    words = [sys.executable, "-m", *shlex.split(line)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "-o" in words:
        assert Path(words[words.index("-o") + 1]).is_file()


def test_every_other_line_is_one_that_the_makefile_runs_too():
    makefile = (ROOT / "Makefile").read_text("utf-8").replace("$(BIN)", ".venv/bin")
    for line in set(bash_lines()) - set(onestep_lines()):
        if line.startswith("make "):
            target = line.split()[1]
            assert re.search(rf"^{target}:", makefile, re.M), line
        elif INSTALL in line:
            assert INSTALL in makefile
            extras = re.findall(r"\[([a-z,]+)\]", line)[0].split(",")
            declared = (ROOT / "pyproject.toml").read_text("utf-8")
            assert all(re.search(rf"^{extra} = ", declared, re.M) for extra in extras), line
        elif "-m venv" in line:
            assert line == "python3 -m venv .venv"
        elif line.startswith("onestep train ./my_method.py"):
            continue  # test_the_worked_method
        else:
            assert f"\t{line}" in makefile, line


def documented_commands() -> list[str]:
    """Every line of a fenced block of the documentation that begins with the command."""
    texts = [path.read_text("utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))]
    fenced = [block for text in texts for block in re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)]
    return sorted({line for block in fenced for line in block.splitlines() if line.startswith("onestep ")})


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands_have_these_options(line):
    verb, *arguments = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app).commands[verb]
    command.make_context(f"onestep {verb}", arguments)  # raises for an option that is not there


def test_make_targets_expand():
    for target in ("demo", "test", "check", "bench", "docs"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", range(len(blocks("README.md", "python"))))
def test_python_blocks_work(number, folder):
    code = blocks("README.md", "python")[number]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with Image.open(folder / "photo_x4.png") as result:
        assert result.size == (4 * 48, 4 * 32)


def test_the_worked_method_trains_and_upscales(folder):
    module = load(folder, "my_method.py")
    small = {"train": {"steps": 2, "batch": 2}, "data": {"crop": 32, "workers": 0, "pictures": 4}}
    made = updated(recipe("my_method.py:recipe"), small)
    release = train(made, folder / "run", device="cpu")
    assert release.is_file()
    model = module.RegressionConfig().build()
    lr = torch.rand(1, 3, 8, 6) * 2 - 1
    assert model(lr, lr.new_empty(0), {}).shape == (1, 3, 32, 24)


def test_the_worked_degradation_is_seeded(folder):
    module = load(folder, "a_degradation.py")
    image = torch.ones(3, 64, 64)
    first, again = (module.old_camera(image, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.shape == (3, 16, 16)
    assert torch.equal(first, again)
    dead = module.DeadPixels((0.25, 0.25))(image, torch.Generator().manual_seed(0))
    assert (dead == 0).float().mean() == pytest.approx(0.25, abs=0.03)


def test_the_worked_metric_scores(folder):
    module = load(folder, "a_metric.py")
    measure = module.line.make(torch.device("cpu"))
    black, grey = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2 / 255)
    assert measure(grey, black).tolist() == pytest.approx([2, 2])
