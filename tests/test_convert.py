"""Official checkpoints: every layout, every refusal, and what the release file says and does."""

import os
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from onestep import checkpoint, convert, methods
from onestep.convert.oftsr import PUBLISHED, OftsrFacts, from_official, guided_state
from onestep.convert.reading import open_official, owned
from onestep.core.errors import InputError, UsageError
from onestep.networks.unet import UNetConfig

SMALL = UNetConfig(base=32, multipliers=(1, 2), blocks=1, attention=(2,), head_width=32)
LARGE = UNetConfig(base=64, multipliers=(1, 2), blocks=2, attention=(2,), head_width=32)
SIZES = {"small": SMALL, "large": LARGE}
STEM = "sr_bicubic-sf4-guided_unet-sigma0.2-bs128-loss_l1-lr1e-05"
DISTIL = "-distil-v_boot-solver_rk2_0.5-dt0.05-w_distil_1.0-w_bound_0.1-w_align_0.01"
STUDENT = f"{STEM}{DISTIL}-DIV2K_DIS-checkpoint_5.pth"


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """Weights of the small network, none of them zero."""
    torch.manual_seed(0)
    return {name: 0.1 * torch.randn(shape) for name, shape in SMALL.shapes().items()}


@pytest.fixture
def small(monkeypatch) -> None:
    """`convert_file` knows the small networks in place of the published ones."""
    monkeypatch.setattr(convert, "ADAPTERS", {"oftsr": partial(from_official, sizes=SIZES)})


def ema(tensors, **more):
    return {"ema": {"decay": 0.9999, "num_updates": 123, "shadow_params": list(tensors)}, "step": 456, **more}


def saved(folder: Path, content, name: str = STUDENT, **how) -> Path:
    path = folder / name
    torch.save(content, path, **how)
    return path


def refusal(path: Path, sizes=SIZES) -> str:
    with pytest.raises(InputError) as caught:
        guided_state(path, sizes)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# layouts


def layouts(weights: dict[str, Tensor]):
    other = {f"module.{name}": tensor + 1 for name, tensor in weights.items()}
    module = {f"module.{name}": tensor for name, tensor in weights.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    return {
        "ema only": (ema(weights.values()), "ema", 456),
        "ema, no step": ({"ema": ema(weights.values())["ema"]}, "ema", 123),
        "training run": (ema(weights.values(), model=other, optimizer=optimizer), "ema", 456),
        "model only": ({"model": module, "optimizer": optimizer, "step": torch.tensor(7)}, "model", 7),
        "bare": (weights, "model", 0),
        "bare, half": ({name: tensor.double() for name, tensor in weights.items()}, "model", 0),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("layout", list(layouts({})))
def test_every_layout_gives_the_same_weights(tmp_path, weights, layout, zipped):
    content, source, step = layouts(weights)[layout]
    guided = guided_state(saved(tmp_path, content, _use_new_zipfile_serialization=zipped), SIZES)
    assert (guided.size, guided.config, guided.source, guided.step) == ("small", SMALL, source, step)
    assert list(guided.tensors) == list(weights)
    for name, tensor in owned(guided.tensors).items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, weights[name])


def test_names_in_the_file_decide_over_our_order(tmp_path, weights):
    shuffled = dict(sorted(weights.items()))
    content = ema(shuffled.values(), model={f"module.{name}": t for name, t in shuffled.items()})
    guided = guided_state(saved(tmp_path, content), SIZES)
    assert all(torch.equal(guided.tensors[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(("size", "tensors"), [("FFHQ/DIV2K", 362), ("ImageNet", 566)])
def test_published_networks_are_recognised(tmp_path, size, tensors):
    """The full shapes, each over a single stored number."""
    shapes = PUBLISHED[size].shapes()
    path = saved(tmp_path, ema(torch.ones(1).expand(shape) for shape in shapes.values()))
    guided = guided_state(path)
    assert (guided.size, guided.config, len(guided.tensors)) == (size, PUBLISHED[size], tensors)
    assert {name: tuple(tensor.shape) for name, tensor in guided.tensors.items()} == shapes


def test_tensors_over_the_same_memory_become_independent():
    shared = torch.arange(6.0)
    tensors = owned({"a": shared[:3], "b": shared, "c": shared, "d": torch.ones(1).expand(2, 2)})
    assert [tensor.tolist() for tensor in tensors.values()] == [
        [0, 1, 2],
        [*range(6)],
        [*range(6)],
        [[1, 1]] * 2,
    ]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 4
    assert all(tensor.is_contiguous() for tensor in tensors.values())


# refusals


def test_a_list_that_is_too_short_is_refused_at_its_first_wrong_shape(tmp_path, weights):
    names, tensors = list(weights), list(weights.values())
    gap = names.index("input_blocks.1.0.in_layers.2.weight")
    message = refusal(saved(tmp_path, ema(tensors[:gap] + tensors[gap + 1 :])))
    assert f"the small network of {len(names)} tensors (the file has {len(names) - 1})" in message
    assert message.endswith("input_blocks.1.0.in_layers.2.weight should be (32, 32, 3, 3), found (32,)")


def test_a_list_cut_at_its_end_is_refused(tmp_path, weights):
    message = refusal(saved(tmp_path, ema(list(weights.values())[:-1])))
    assert message.endswith("out.2.bias should be (6,), but is missing")


def test_a_list_with_one_too_many_is_refused(tmp_path, weights):
    message = refusal(saved(tmp_path, ema([*weights.values(), torch.ones(6)])))
    assert message.endswith(f"tensor {len(weights) + 1} is one too many")


def test_a_shape_that_would_broadcast_is_refused(tmp_path, weights):
    weights["out.2.bias"] = torch.ones(1)
    assert refusal(saved(tmp_path, ema(weights.values()))).endswith("out.2.bias should be (6,), found (1,)")


def test_the_three_channel_network_is_refused(tmp_path):
    shapes = UNetConfig(inputs=3).shapes()
    path = saved(tmp_path, ema(torch.ones(1).expand(shape) for shape in shapes.values()))
    message = refusal(path, PUBLISHED)
    assert "FFHQ/DIV2K" in message
    assert message.endswith("input_blocks.0.0.weight should be (128, 6, 3, 3), found (128, 3, 3, 3)")


def test_names_that_differ_are_refused(tmp_path, weights):
    weights["label_emb.weight"] = weights.pop("time_embed.2.bias")
    assert refusal(saved(tmp_path, weights)).endswith("time_embed.2.bias should be (128,), but is missing")
    weights["time_embed.2.bias"] = torch.ones(128)
    assert refusal(saved(tmp_path, weights)).endswith("label_emb.weight is one too many")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.full((6,), torch.nan), "holds values that are not finite"),
        (torch.ones(6, dtype=torch.int64), "should hold floats, found torch.int64"),
        (0.5, "should be (6,), found a float"),
    ],
)
def test_values_that_are_no_weights_are_refused(tmp_path, weights, value, what):
    weights["out.2.bias"] = value
    assert refusal(saved(tmp_path, ema(weights.values()))).endswith(f"out.2.bias {what}")


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        ([torch.ones(1)], "a list"),
        ({}, "nothing"),
        ({"params_ema": {}, "epoch": 3}, "params_ema, epoch"),
        ({"ema": {"decay": 0.9}, "step": 3}, "ema, step"),
    ],
)
def test_other_layouts_are_refused_with_what_they_hold(tmp_path, content, holds):
    assert f"it holds {holds}; expected ema with shadow_params" in refusal(saved(tmp_path, content))


class Trap:
    """Unpickling this would make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_with_code_are_refused_and_do_not_run(tmp_path, weights, zipped):
    sprung = tmp_path / "sprung"
    content = ema(weights.values(), extra=Trap(sprung))
    message = refusal(saved(tmp_path, content, _use_new_zipfile_serialization=zipped))
    assert "mkdir, which is more than tensors and numbers; nothing was run" in message
    assert not sprung.exists()


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x05\x06" + bytes(18), bytes(range(256)) * 8]
)
def test_files_of_another_kind_are_refused(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a PyTorch checkpoint, or damaged; fetch") as caught:
        open_official(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, weights, zipped, share):
    path = saved(tmp_path, weights, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="not a PyTorch checkpoint, or damaged"):
        open_official(path)


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
