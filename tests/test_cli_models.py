"""``onestep models`` and ``onestep doctor``: what is there, and how to get the rest."""

import hashlib
import json

import pytest
import torch

from command_line import last_line, records
from onestep import hub
from onestep.cli import run

pytestmark = pytest.mark.usefixtures("workplace")


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
