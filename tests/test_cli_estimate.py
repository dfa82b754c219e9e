"""``onestep degrade --estimate``: what it prints, and what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import records
from onestep import checkpoint
from onestep.cli import run
from onestep.core.config import to_dict
from onestep.methods.degradation import EstimatorModelConfig
from onestep.networks.degradation_estimator import EstimatorConfig


@pytest.fixture(autouse=True)
def _here(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for index in range(2):
        array = np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(array).save(f"p{index}.png")


@pytest.fixture
def net(tmp_path):
    """A release file ``own.safetensors`` of a small estimator."""
    config = EstimatorModelConfig(EstimatorConfig(widths=(4, 4), blocks=(1, 1), strides=(2,), hidden=4))
    torch.manual_seed(0)
    model = config.build()
    card = checkpoint.Card("own", "degradation-estimator", to_dict(config), {}, 0, "CC0", None, "0")
    checkpoint.write(tmp_path / "own.safetensors", model.state_dict(), card)
    return model.net


def test_scores_are_those_of_the_network(net, capsys):
    assert run(["degrade", "p0.png", "p1.png", "--estimate", "-n", "own.safetensors", "--json"]) == 0
    rows = records(capsys)
    assert [row["input"] for row in rows] == ["p0.png", "p1.png"]
    for row in rows:
        pixels = torch.from_numpy(np.asarray(Image.open(row["input"])).copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            assert [row["blur"], row["noise"]] == pytest.approx(net(pixels * 2 - 1)[0].tolist(), abs=1e-6)
        assert (row["status"], row["error"]) == ("ok", None)


def test_without_a_model_the_shipped_one_is_taken(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ONESTEP_HOME", str(tmp_path / "empty"))
    assert run(["degrade", "p0.png", "--estimate", "--json"]) == 0
    (row,) = records(capsys)
    assert row["noise"] > 0.9  # the picture is nothing but noise


def test_people_see_a_table(net, capsys):
    assert run(["degrade", "p0.png", "--estimate", "-n", "own.safetensors"]) == 0
    said = capsys.readouterr()
    text = said.out + said.err
    assert "blur" in text
    assert "p0.png" in text


def test_a_bad_picture_does_not_stop_the_others(net, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert run(["degrade", "bad.png", "p0.png", "--estimate", "-n", "own.safetensors", "--json"]) == 1
    assert [row["status"] for row in records(capsys)] == ["failed", "ok"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["p0.png", "--estimate", "-o", "x.png"], 2, "leave --output and --preset out"),
        (["p0.png"], 2, "give --output and --preset, or --estimate"),
        (["p0.png", "-o", "x.png"], 2, "give --output and --preset, or --estimate"),
        (["p0.png", "-o", "x.png", "--preset", "bicubic", "-n", "own.safetensors"], 2, "only --estimate"),
        (["p0.png", "--estimate", "-n", "none.safetensors"], 1, "none.safetensors: no such file"),
    ],
)
def test_wrong_requests(words, code, says, capsys):
    assert run(["degrade", *words]) == code
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_other_models_are_no_estimators(home, capsys):
    assert run(["degrade", "p0.png", "--estimate", "-n", str(home / "tiny.safetensors")]) == 2
    assert "a release file of 'degradation-estimator' is needed" in capsys.readouterr().err
