"""Official files of CTMSR: every layout, every refusal, and what the release file does."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctmsr_parts import RELEASED, lively
from onestep import Upscaler, checkpoint, convert
from onestep.convert.ctmsr import from_official, official_state
from onestep.core.errors import InputError, UsageError
from onestep.methods.ctmsr import CtmsrConfig

SMALL = CtmsrConfig(replace(RELEASED, multipliers=(1, 2), attention=(0, 1)))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """All entries of the small network, under official names."""
    return {name: tensor.clone() for name, tensor in lively(SMALL).state_dict().items()}


def saved(folder: Path, content) -> Path:
    path = folder / "CTMSR.pth"
    torch.save(content, path)
    return path


def layouts(state: dict[str, Tensor]):
    raw = {name: one + 1 if one.dtype == torch.float32 else one for name, one in state.items()}
    tables = ("resample_filter", "relative_position_index")
    return {
        "both": {"params": raw, "params_ema": state},
        "averaged alone": {"params_ema": state},
        "raw alone": {"params": state},
        "bare": state,
        "prefixed": {"params_ema": {f"module.{name}": one for name, one in state.items()}},
        "without tables": {"params_ema": {n: one for n, one in state.items() if not n.endswith(tables)}},
        "half": {
            "params_ema": {n: one.double() if one.dtype == torch.float32 else one for n, one in state.items()}
        },
    }


@pytest.mark.parametrize("layout", list(layouts({})))
def test_every_layout_gives_every_entry(tmp_path, state, layout):
    found = official_state(saved(tmp_path, layouts(state)[layout]), SMALL)
    assert found.keys() == state.keys()
    for name, tensor in found.items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])
    SMALL.build().load_state_dict(found, strict=True)


def test_raw_weights_on_request(tmp_path, state):
    path = saved(tmp_path, layouts(state)["both"])
    raw = official_state(path, SMALL, "params")
    name = "model.conv_last.bias"
    assert torch.equal(raw[name], state[name] + 1)
    with pytest.raises(InputError, match=r"it holds params_ema; expected params$"):
        official_state(saved(tmp_path, {"params_ema": state}), SMALL, "params")


def test_the_released_network_is_the_default(tmp_path):
    """The full shapes, each over a single stored number."""
    with torch.device("meta"):
        model = CtmsrConfig().build()
    one = torch.ones(1)
    found = {name: one.expand(parameter.shape) for name, parameter in model.named_parameters()}
    path = saved(tmp_path, {"params_ema": found})
    tensors, card = from_official(path, "ctmsr-x4", {})
    assert tensors.keys() == model.state_dict().keys()
    assert len(tensors) == 942
    assert sum(tensors[name].numel() for name, _ in model.named_parameters()) == 171_518_529
    assert (card.method, card.name, card.traits["multiple_of"]) == ("ctmsr", "ctmsr-x4", 64)


def test_a_converted_file_restores(tmp_path, state, monkeypatch):
    monkeypatch.setattr(convert, "ADAPTERS", {"ctmsr": partial(from_official, config=SMALL)})
    out = tmp_path / "small.safetensors"
    convert.convert_file(saved(tmp_path, {"params_ema": state}), "ctmsr", out)
    picture = torch.rand(1, 3, 20, 24)
    ours = Upscaler(lively(SMALL), device="cpu")(picture).rgb
    assert torch.equal(Upscaler.load(out, device="cpu")(picture).rgb, ours)
    assert checkpoint.read_card(out).config["sigma_max"] == 1.0


def damaged(state: dict[str, Tensor], name: str, tensor) -> dict[str, object]:
    return {**state, name: tensor}


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("model.conv_last.bias", torch.zeros(4), r"conv_last.bias should be \(3,\), found \(4,\)"),
        ("model.conv_last.bias", torch.full((3,), torch.nan), "not finite"),
        ("model.extra", torch.zeros(1), "model.extra is one too many"),
        ("model.enc.32x32_down.conv0.resample_filter", torch.ones(1, 1, 2, 2), "not the table"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, state, name, tensor, words):
    path = saved(tmp_path, {"params": damaged(state, name, tensor)})
    with pytest.raises(InputError, match=words) as caught:
        official_state(path, SMALL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"state": 3}, [1, 2], {"params": 1}])
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(InputError, match="expected params_ema, params, or named tensors"):
        official_state(saved(tmp_path, content), SMALL)


def test_options_are_checked(tmp_path, state):
    with pytest.raises(UsageError, match="weights"):
        from_official(saved(tmp_path, state), "x", {"weights": "ema"}, SMALL)
