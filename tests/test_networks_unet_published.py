"""The guided U-Net as published: every block, the numbers of parameters, names and their order."""

import math

import pytest
import torch
from torch import nn

from onestep.networks.unet import Attention, ResBlock, UNetConfig


def describe(stage: nn.Module) -> str:
    """A stage in the shorthand of the published tables: R(in>out), A, arrows for resampling blocks."""
    words = []
    for layer in stage.children():
        if isinstance(layer, ResBlock):
            channels, out = layer.in_layers[0].num_channels, layer.out_layers[3].out_channels
            words.append({"down": "v", "up": "^", "keep": "R"}[layer.resample] + f"({channels}>{out})")
        else:
            words.append("A" if isinstance(layer, Attention) else "conv")
    return "+".join(words)


FFHQ_DOWN = (
    "conv | R(128>128) | v(128>128) | R(128>128) | v(128>128) | R(128>256) | v(256>256) | R(256>256)"
    " | v(256>256) | R(256>512)+A | v(512>512) | R(512>512)"
)
FFHQ_UP = (
    "R(1024>512) | R(1024>512)+^(512>512) | R(1024>512)+A | R(768>512)+A+^(512>512) | R(768>256)"
    " | R(512>256)+^(256>256) | R(512>256) | R(384>256)+^(256>256) | R(384>128) | R(256>128)+^(128>128)"
    " | R(256>128) | R(256>128)"
)
IMAGENET_DOWN = (
    "conv | R(256>256) | R(256>256) | v(256>256) | R(256>256) | R(256>256) | v(256>256)"
    " | R(256>512) | R(512>512) | v(512>512) | R(512>512)+A | R(512>512)+A | v(512>512)"
    " | R(512>1024)+A | R(1024>1024)+A | v(1024>1024) | R(1024>1024)+A | R(1024>1024)+A"
)
IMAGENET_UP = (
    "R(2048>1024)+A | R(2048>1024)+A | R(2048>1024)+A+^(1024>1024)"
    " | R(2048>1024)+A | R(2048>1024)+A | R(1536>1024)+A+^(1024>1024)"
    " | R(1536>512)+A | R(1024>512)+A | R(1024>512)+A+^(512>512)"
    " | R(1024>512) | R(1024>512) | R(768>512)+^(512>512)"
    " | R(768>256) | R(512>256) | R(512>256)+^(256>256) | R(512>256) | R(512>256) | R(512>256)"
)


@pytest.mark.parametrize(
    ("config", "down", "up", "middle"),
    [
        (UNetConfig.ffhq(), FFHQ_DOWN, FFHQ_UP, "R(512>512)+A+R(512>512)"),
        (UNetConfig.imagenet(), IMAGENET_DOWN, IMAGENET_UP, "R(1024>1024)+A+R(1024>1024)"),
    ],
)
def test_every_block_is_where_the_published_networks_have_it(config, down, up, middle):
    with torch.device("meta"):
        net = config.build()
    assert " | ".join(describe(stage) for stage in net.input_blocks) == down
    assert " | ".join(describe(stage) for stage in net.output_blocks) == up
    assert describe(net.middle_block) == middle


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [(UNetConfig.ffhq(), 93_567_366, 362), (UNetConfig.imagenet(), 552_820_998, 566)],
)
def test_published_sizes(config, parameters, tensors):
    shapes = config.shapes()
    assert len(shapes) == tensors
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters
    assert config.multiple_of == 32


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (UNetConfig(inputs=3), 93_563_910),
        (UNetConfig(256, blocks=2, attention=(8, 16, 32), inputs=3), 552_814_086),
    ],
)
def test_published_sizes_of_the_three_channel_networks(config, parameters):
    assert sum(math.prod(shape) for shape in config.shapes().values()) == parameters


def test_names_and_order_of_the_published_checkpoints():
    shapes = UNetConfig.ffhq().shapes()
    names = list(shapes)
    assert names[:6] == [
        *(f"time_embed.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
        "input_blocks.0.0.weight",
        "input_blocks.0.0.bias",
    ]
    block = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")
    widening = [f"input_blocks.5.0.{part}" for part in (*block, "skip_connection")]
    start = names.index(widening[0] + ".weight")
    assert names[start : start + 12] == [f"{part}.{kind}" for part in widening for kind in ("weight", "bias")]
    attention = [f"middle_block.1.{part}" for part in ("norm", "qkv", "proj_out")]
    start = names.index(attention[0] + ".weight")
    assert names[start : start + 6] == [f"{part}.{kind}" for part in attention for kind in ("weight", "bias")]
    assert names[-4:] == ["out.0.weight", "out.0.bias", "out.2.weight", "out.2.bias"]
    first_of = [
        names.index(next(n for n in names if n.startswith(root)))
        for root in ("input", "mid", "output", "out.")
    ]
    assert first_of == sorted(first_of)
    expected = {
        "time_embed.0.weight": (512, 128),
        "time_embed.2.weight": (512, 512),
        "input_blocks.0.0.weight": (128, 6, 3, 3),
        "input_blocks.5.0.skip_connection.weight": (256, 128, 1, 1),
        "input_blocks.9.1.qkv.weight": (1536, 512, 1),
        "input_blocks.9.0.emb_layers.1.weight": (1024, 512),
        "output_blocks.3.1.proj_out.weight": (512, 512, 1),
        "output_blocks.3.2.in_layers.2.weight": (512, 512, 3, 3),
        "out.2.weight": (6, 128, 3, 3),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert "input_blocks.1.0.skip_connection.weight" not in shapes
