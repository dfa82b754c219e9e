"""Official checkpoints: every layout and every refusal."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from oftsr_official import SIZES, SMALL, ema, saved, small_weights
from onestep.convert.oftsr import PUBLISHED, guided_state
from onestep.convert.reading import open_official, owned
from onestep.core.errors import InputError
from onestep.networks.unet import UNetConfig

weights = pytest.fixture(small_weights)


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
