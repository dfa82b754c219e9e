"""From a name or a file to a model."""

import json
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from onestep import catalog, checkpoint
from onestep.core.errors import UsageError


def rewritten(home, path, **changes):
    """The tiny release file with another card."""
    tensors, card = checkpoint.read(home / "tiny.safetensors")
    checkpoint.write(path, tensors, replace(card, **changes))
    return path


def test_names_are_those_of_the_package_and_of_the_home(home):
    entries = {entry.name: entry for entry in catalog.models()}
    assert {"bicubic", "lanczos", "tiny", "tiny-teacher"} <= entries.keys()
    assert entries["tiny"].where == "home"
    assert entries["tiny"].card.defaults == {"realism": 0.5}
    assert (entries["bicubic"].where, entries["bicubic"].path) == ("built in", None)


def test_subfolders_of_the_home_count_and_other_weights_do_not(home, tmp_path, monkeypatch):
    monkeypatch.setenv("ONESTEP_HOME", str(tmp_path))
    (tmp_path / "deep").mkdir()
    rewritten(home, tmp_path / "deep" / "mine.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "metric.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    found = {entry.name for entry in catalog.models() if entry.where == "home"}
    assert found == {"mine"}


def test_the_estimator_of_the_package_is_no_model():
    assert (resources.files("onestep") / "weights" / "degradation-estimator.safetensors").is_file()
    assert "degradation-estimator" not in {entry.name for entry in catalog.models()}


def test_a_missing_home_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("ONESTEP_HOME", str(tmp_path / "absent"))
    assert "bicubic" in {entry.name for entry in catalog.models()}


def test_without_a_name_the_default_is_taken(home):
    assert catalog.find(None).name == catalog.default() == catalog.find("").name
    assert catalog.default() in (catalog.PREFERRED, "bicubic")


def test_the_preferred_model_is_the_default_once_it_is_embedded(home, monkeypatch):
    tiny = catalog.find("tiny")
    monkeypatch.setattr(catalog, "_embedded", lambda: iter([replace(tiny, name=catalog.PREFERRED)]))
    assert catalog.default() == catalog.PREFERRED
    assert catalog.models()[0].name == catalog.PREFERRED
    monkeypatch.setattr(catalog, "_embedded", lambda: iter([]))
    assert catalog.default() == "bicubic"


def test_files_and_folders_are_models_too(home, tmp_path):
    old = rewritten(home, tmp_path / "release-1.safetensors")
    new = rewritten(home, tmp_path / "release-2.safetensors", step=9)
    assert catalog.find(old).path == old
    assert catalog.find(str(tmp_path)).path == new
    assert catalog.find(tmp_path).card.step == 9


def test_a_model_is_loaded_with_its_weights(home):
    tensors, _ = checkpoint.read(home / "tiny.safetensors")
    model = catalog.load(catalog.find("tiny"))
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert catalog.load(catalog.find("bicubic")).traits.scale == 4


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tinny", r"no model is called 'tinny'; did you mean 'tiny'\? Known here: "),
        ("zzzzz", r"no model is called 'zzzzz'; known here: "),
        ("no/such.safetensors", "no/such.safetensors: no such model file"),
        ("absent.pth", "absent.pth: no such model file"),
    ],
)
def test_names_that_mean_nothing_are_refused(home, name, says):
    with pytest.raises(UsageError, match=f"(?i){says}"):
        catalog.find(name)


def test_an_empty_folder_holds_no_model(home, tmp_path):
    with pytest.raises(UsageError, match="no release file"):
        catalog.find(tmp_path)


def wrong_files(home: Path, folder: Path) -> dict[str, Path]:
    """What is wrong -> a file."""
    files = {name: folder / f"{name}.safetensors" for name in ("empty", "noise", "no-card", "cut")}
    files["empty"].write_bytes(b"")
    files["noise"].write_bytes(b"\x89PNG" * 100)
    save_file({"weight": torch.zeros(1)}, files["no-card"])
    files["cut"].write_bytes((home / "tiny.safetensors").read_bytes()[:-100])
    files["official"] = folder / "official.pth"
    files["official"].write_bytes(b"x")
    files["newer"] = rewritten(home, folder / "newer.safetensors", format=99)
    files["method"] = rewritten(home, folder / "method.safetensors", method="magic")
    files["setting"] = rewritten(home, folder / "setting.safetensors", config={"colour": 1})
    _, card = checkpoint.read(home / "tiny.safetensors")
    wide = json.loads(json.dumps(card.config))
    wide["network"]["width"] = 16
    files["shape"] = rewritten(home, folder / "shape.safetensors", config=wide)
    deep = json.loads(json.dumps(card.config))
    deep["network"]["trunk"] = 2
    files["depth"] = rewritten(home, folder / "depth.safetensors", config=deep)
    absurd = json.loads(json.dumps(card.config))
    absurd["network"]["width"] = -3
    files["absurd"] = rewritten(home, folder / "absurd.safetensors", config=absurd)
    return files


@pytest.mark.parametrize(
    "what",
    [
        "empty",
        "noise",
        "no-card",
        "cut",
        "official",
        "newer",
        "method",
        "setting",
        "shape",
        "depth",
        "absurd",
    ],
)
def test_wrong_model_files_are_refused_in_one_line_that_names_them(home, tmp_path, what):
    file = wrong_files(home, tmp_path)[what]
    with pytest.raises(UsageError, match=r"^[^\n]+$") as caught:
        catalog.load(catalog.find(file))
    assert str(file) in str(caught.value)


def test_the_model_in_the_package_says_what_it_is():
    """Its card has what a reader must know, and agrees with the code that loads it."""
    entry = catalog.find("oftsr-compact-x4")
    model = catalog.load(entry)
    assert entry.card.traits == asdict(model.traits)
    assert entry.card.license == "CC BY-SA 4.0"
    assert {"set5", "set14", "drealsr", "realsr"} <= entry.card.scores.keys()
    assert len(entry.card.limits) >= 3
    assert len(entry.card.attributions) >= 1
    assert 0 <= entry.card.defaults["realism"] <= 1
    assert entry.path is not None
    assert entry.path.stat().st_size <= 16 * 2**20
