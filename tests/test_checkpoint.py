import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from onestep import checkpoint
from onestep.checkpoint import Card, load, load_state, read, read_card, save_state, write
from onestep.core.errors import InputError

CARD = Card(
    name="toy",
    method="toy",
    config={"width": 4, "sides": [1, 2]},
    traits={"scale": 2},
    step=7,
    license="CC0-1.0",
    recipe={"train": {"steps": 7}},
    version="1.2.3",
    scores={"held-out": {"model": {"psnr-y": 30.5}}},
    limits=["text"],
    attributions=["someone"],
    defaults={"realism": 0.5},
)


def test_a_release_file_comes_back_whole(tmp_path):
    tensors = {"a": torch.randn(3, 4), "n": torch.tensor([1, 2]), "c": torch.randn(2, 3, 4, 4)}
    tensors["c"] = tensors["c"].to(memory_format=torch.channels_last)
    write(tmp_path / "x.safetensors", tensors, CARD)
    back, card = read(tmp_path / "x.safetensors")
    assert card == CARD
    assert read_card(tmp_path / "x.safetensors") == CARD
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_half_precision_is_half_the_file_and_comes_back_as_float32(tmp_path):
    tensors = {"a": torch.randn(64, 64), "n": torch.arange(3)}
    for half in (False, True):
        write(tmp_path / f"{half}.safetensors", tensors, CARD, half=half)
    back, _ = read(tmp_path / "True.safetensors")
    assert back["a"].dtype == torch.float32
    assert torch.equal(back["a"], tensors["a"].half().float())
    assert torch.equal(back["n"], tensors["n"])
    sizes = [(tmp_path / f"{half}.safetensors").stat().st_size for half in (False, True)]
    assert sizes[0] - sizes[1] == 64 * 64 * 2


def test_the_card_is_the_only_metadata_and_is_json(tmp_path):
    write(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, CARD)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {"card"}
    assert json.loads(metadata["card"])["config"] == {"width": 4, "sides": [1, 2]}


def test_others_may_read_the_file(tmp_path):
    write(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, CARD)
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("x.safetensors", "plain")]
    assert modes[0] == modes[1]


def test_what_is_no_release_file_is_refused_in_one_line(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "torn.safetensors", {"card": "{"})
    save_file({"a": torch.zeros(1)}, tmp_path / "poor.safetensors", {"card": '{"name": "x"}'})
    save_file({"a": torch.zeros(1)}, tmp_path / "list.safetensors", {"card": "[]"})
    (tmp_path / "text.safetensors").write_text("hello")
    write(tmp_path / "new.safetensors", {}, replace(CARD, format=2))
    expected = {
        "none": "no such file",
        "bare": "without a card",
        "torn": "card cannot be read",
        "poor": "card cannot be read",
        "list": "card cannot be read",
        "text": "not a release file",
        "new": "newer onestep",
    }
    for name, said in expected.items():
        for function in (read, read_card):
            with pytest.raises(InputError, match=said) as caught:
                function(tmp_path / f"{name}.safetensors")
            assert f"{name}.safetensors: " in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_card_of_a_later_minor_version_may_say_more(tmp_path):
    values = {**checkpoint.to_dict(CARD), "surprise": 1}
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"card": json.dumps(values)})
    assert read_card(tmp_path / "x.safetensors") == CARD


def test_loading_is_strict_and_names_the_first_mismatch(tmp_path):
    model, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    before = model.weight.detach().clone()
    good = other.state_dict()
    wrong = {
        "weight (4, 3, 3, 3) is missing": {"bias": good["bias"]},
        r"bias is (5,), the model has (4,)": good | {"bias": torch.zeros(5)},
        "extra is not in the model": good | {"extra": torch.zeros(1)},
    }
    for said, tensors in wrong.items():
        with pytest.raises(InputError) as caught:
            load(model, tensors, tmp_path / "x")
        assert str(caught.value).endswith(said)
        assert torch.equal(model.weight, before)
    load(model, good, tmp_path / "x")
    assert torch.equal(model.weight, other.weight)


def test_a_state_is_data_only(tmp_path):
    state = {"step": 3, "objective": {"a": torch.ones(2)}, "ema": None}
    save_state(tmp_path / "s.pt", state)
    back = load_state(tmp_path / "s.pt")
    assert back["step"] == 3
    assert torch.equal(back["objective"]["a"], torch.ones(2))
    torch.save({"step": Path("x")}, tmp_path / "bad.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "s.pt").read_bytes()[:100])
    for name in ("bad", "torn"):
        with pytest.raises(InputError, match="state cannot be read") as caught:
            load_state(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    save_state(tmp_path / "s.pt", {"step": 1})

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"s\.pt: cannot be written \(No space left on device\)"):
        save_state(tmp_path / "s.pt", {"step": 2})
    assert load_state(tmp_path / "s.pt") == {"step": 1}
    assert os.listdir(tmp_path) == ["s.pt"]


def test_a_process_killed_while_saving_leaves_the_old_file(tmp_path):
    save_state(tmp_path / "s.pt", {"step": 1})
    code = f"""
import os, signal, torch
from pathlib import Path
from onestep.checkpoint import save_state
def die(state, path):
    Path(path).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = die
save_state(Path({str(tmp_path / "s.pt")!r}), {{"step": 2}})
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert load_state(tmp_path / "s.pt") == {"step": 1}
    save_state(tmp_path / "s.pt", {"step": 2})
    assert load_state(tmp_path / "s.pt") == {"step": 2}
    assert os.listdir(tmp_path) == ["s.pt"]
