"""OFTSR's official files: what the name tells, what is asked for, and what the release file says and does."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oftsr_official import DISTIL, SIZES, SMALL, STEM, STUDENT, ema, saved, small_weights
from onestep import checkpoint, convert, methods
from onestep.convert.oftsr import OftsrFacts, from_official
from onestep.core.errors import InputError, UsageError

weights = pytest.fixture(small_weights)


@pytest.fixture
def small(monkeypatch) -> None:
    """`convert_file` knows the small networks in place of the published ones."""
    monkeypatch.setattr(convert, "ADAPTERS", {"oftsr": partial(from_official, sizes=SIZES)})


# what the name tells

NOISY = "sr_avp-sf4-sigmay_0.05-guided_unet-sigma0.5-bs128-loss_l1-lr0.0001"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "sr_bicubic-sf4-guided_unet-sigma0.1-bs32-loss_l1-lr0.0001-FFHQ-checkpoint_10.pth",
            OftsrFacts("teacher", 0.1, "bicubic", 4),
        ),
        (f"{NOISY}-FFHQ-checkpoint_23.pth", OftsrFacts("teacher", 0.5, "average-pool", 4)),
        (f"{NOISY}{DISTIL}-FFHQ_DIS-checkpoint_24.pth", OftsrFacts("student", 0.5, "average-pool", 4)),
        (f"{STEM}-DIV2K-checkpoint_4.pth", OftsrFacts("teacher", 0.2, "bicubic", 4)),
        (STUDENT, OftsrFacts("student", 0.2, "bicubic", 4)),
        (f"OFTSR_{STEM}{DISTIL}-ImageNet_DIS-checkpoint_10.pth", OftsrFacts("student", 0.2, "bicubic", 4)),
        ("my-sf8-model.pth", OftsrFacts(scale=8)),
        ("checkpoint_10.pth", OftsrFacts()),
        (f"{STEM}.pth", OftsrFacts(None, 0.2, "bicubic", 4)),
    ],
)
def test_official_names_tell_what_a_file_is(name, facts):
    assert OftsrFacts.of_name(name) == facts


def test_what_a_name_does_not_tell_is_asked_for_in_one_line(tmp_path, weights, small):
    path = saved(tmp_path, ema(weights.values()), "sr_bicubic-sf4-mine.pth")
    with pytest.raises(UsageError) as caught:
        convert.convert_file(path, "oftsr", tmp_path / "out.safetensors", {"sigma": "0.3"})
    assert str(caught.value) == f"{path}: its name does not tell kind; add -O kind=student|teacher"
    with pytest.raises(UsageError, match=r"tell kind, sigma; add -O kind=student\|teacher -O sigma=0.1$"):
        convert.convert_file(path, "oftsr", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sgima": "0.2"}, "sgima: no such setting; did you mean sigma"),
        ({"kind": "pupil"}, "kind=pupil"),
        ({"sigma": "2"}, "share of noise is between 0 and 1"),
        ({"sigma": "nan"}, "share of noise is between 0 and 1"),
        ({"scale": "0"}, "a scale is between 1 and 16"),
    ],
)
def test_impossible_options_are_refused(tmp_path, weights, small, options, message):
    path = saved(tmp_path, ema(weights.values()))
    with pytest.raises(UsageError, match=message):
        convert.convert_file(path, "oftsr", tmp_path / "out.safetensors", options)


# release files


def release(folder: Path, weights: dict[str, Tensor], name: str = STUDENT, options=None):
    out = folder / "mine.safetensors"
    returned = convert.convert_file(saved(folder, ema(weights.values()), name), "oftsr", out, options)
    tensors, card = checkpoint.read(out)
    assert card == returned
    model = methods.build(card.method, card.config)
    model.load_state_dict(tensors, strict=True)
    return model.eval(), card


@torch.no_grad()
def test_a_converted_student_restores_as_the_official_one(tmp_path, weights, small):
    model, card = release(tmp_path, weights)
    assert (card.name, card.method, card.step, card.defaults) == ("mine", "oftsr", 456, {"realism": 1.0})
    assert card.limits[0].startswith("Made for LR images by bicubic x4 with no noise")
    assert card.limits[1] == "Trained on 256x256 pictures of DIV2K."
    net = SMALL.build().eval()
    net.load_state_dict(weights)
    torch.manual_seed(1)
    lr, noise = torch.rand(1, 3, 4, 4) * 2 - 1, torch.randn(1, 3, 16, 16)
    for realism, t in ((1.0, 0.99), (0.0, 0.0), (0.5, 0.495)):
        lr_up = torch.nn.functional.interpolate(lr, scale_factor=4, mode="bicubic", antialias=True)
        x0 = (1 - 0.2**2) ** 0.5 * lr_up + 0.2 * noise
        expected = x0 + 0.999 * net(torch.cat([x0, lr_up], 1), torch.tensor([999 * t]))[:, :3]
        result = model(lr, noise, model.condition(lr, model.Options(realism=realism)))
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_a_converted_teacher_keeps_time_to_one(tmp_path, weights, small):
    _, card = release(tmp_path, weights, f"{NOISY}-FFHQ-checkpoint_23.pth")
    assert card.method == "oftsr-teacher"
    assert {key: card.config[key] for key in ("up", "sigma", "scale", "most_realistic")} == {
        "up": "replicate",
        "sigma": 0.5,
        "scale": 4,
        "most_realistic": 1.0,
    }
    assert "noise of standard deviation 0.05" in card.limits[0]


def test_options_serve_a_renamed_file_and_win_over_its_name(tmp_path, weights, small):
    options = {"kind": "student", "sigma": "0.1", "degradation": "average-pool", "scale": "2"}
    for name in ("renamed.pth", STUDENT):
        _, card = release(tmp_path, weights, name, options)
        assert (card.method, card.config["sigma"], card.config["scale"]) == ("oftsr", 0.1, 2)
        assert (card.config["up"], card.config["most_realistic"]) == ("replicate", 0.99)


def test_an_old_release_file_survives_a_refusal(tmp_path, weights, small):
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    path = saved(tmp_path, ema(list(weights.values())[:-1]))
    with pytest.raises(InputError):
        convert.convert_file(path, "oftsr", out)
    assert out.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("method", "out", "message"),
    [
        ("esrgan", "o.safetensors", "no such method; files of oftsr, ctmsr, osediff, s3diff, de_net can be"),
        ("oftsr", "o.pth", "a release file ends in .safetensors"),
    ],
)
def test_requests_that_cannot_be_carried_out(tmp_path, weights, method, out, message):
    with pytest.raises(UsageError, match=message):
        convert.convert_file(saved(tmp_path, ema(weights.values())), method, tmp_path / out)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: no such file$"):
        convert.convert_file(tmp_path / "none.pth", "oftsr", tmp_path / "o.safetensors")
