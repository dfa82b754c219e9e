"""The network of CTMSR against its specification: names, counts, slow renderings of its parts."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from onestep.core.errors import UsageError
from onestep.networks.swin_layers import Conv, level_embedding
from onestep.networks.swin_unet import Block, SwinUNet, SwinUNetConfig
from onestep.networks.window_attention import SwinLayer

SMALL = SwinUNetConfig(
    base=32, multipliers=(1, 2), blocks=1, attention=(0, 1), embedding=32, swin_width=32, heads=2, window=4
)


@pytest.fixture(scope="module")
def released() -> SwinUNet:
    with torch.device("meta"):
        return SwinUNet(SwinUNetConfig(), 4)


def count(parameters) -> int:
    return sum(math.prod(one.shape) for one in parameters)


def test_size_of_the_released_network(released):
    assert count(released.parameters()) == 171_518_529
    assert len(released.state_dict()) == 942
    assert len(list(released.parameters())) == 909
    assert len(list(released.buffers())) == 33
    assert sum(isinstance(part, SwinLayer) for part in released.modules()) == 21


def test_parameters_of_each_part_of_the_released_network(released):
    shares = dict.fromkeys(("enc", "dec", "swin", "conv_", "map_"), 0)
    for name, parameter in released.named_parameters():
        part = "swin" if "swin_layer" in name else next(key for key in shares if name.startswith(key))
        shares[part] += math.prod(parameter.shape)
    assert shares == {
        "enc": 45_218_304,
        "dec": 89_883_072,
        "swin": 35_009_214,
        "conv_": 669_123,
        "map_": 738_816,
    }


def describe(name: str, layer) -> str:
    """A layer in the shorthand of the published table."""
    if not isinstance(layer, Block):
        return name
    out, channels = layer.conv0.weight.shape[:2]
    return f"{name} {channels}>{out}" + (" S" if layer.swin_layer is not None else "")


ENCODER = [
    "64x64_conv",
    *(f"64x64_block{i} 192>192 S" for i in range(4)),
    "32x32_down 192>192",
    "32x32_block0 192>384 S",
    *(f"32x32_block{i} 384>384 S" for i in (1, 2, 3)),
    "16x16_down 384>384",
    *(f"16x16_block{i} 384>384 S" for i in range(4)),
    "8x8_down 384>384",
    *(f"8x8_block{i} 384>384 S" for i in range(4)),
]
DECODER = [
    "8x8_in0 384>384 S",
    "8x8_in1 384>384",
    *(f"8x8_block{i} 768>384" for i in range(4)),
    "8x8_block4 768>384 S",
    "16x16_up 384>384",
    *(f"16x16_block{i} 768>384" for i in range(4)),
    "16x16_block4 768>384 S",
    "32x32_up 384>384",
    *(f"32x32_block{i} 768>384" for i in range(4)),
    "32x32_block4 576>384 S",
    "64x64_up 384>384",
    "64x64_block0 576>192",
    *(f"64x64_block{i} 384>192" for i in (1, 2, 3)),
    "64x64_block4 384>192 S",
    "64x64_aux_norm",
    "64x64_aux_conv",
]


def test_every_layer_is_where_the_published_network_has_it(released):
    assert [describe(name, layer) for name, layer in released.enc.items()] == ENCODER
    assert [describe(name, layer) for name, layer in released.dec.items()] == DECODER


def test_names_and_shapes_of_the_published_state(released):
    state = {name: (tuple(one.shape), one.dtype) for name, one in released.state_dict().items()}
    block = "enc.32x32_block0."
    swin = f"{block}swin_layer."
    inner = f"{swin}blocks.0."
    expected = {
        "map_layer0.weight": (768, 192),
        "map_layer1.weight": (768, 768),
        "conv_up1.weight": (192, 192, 3, 3),
        "conv_up2.bias": (192,),
        "conv_last.weight": (3, 192, 3, 3),
        "enc.64x64_conv.weight": (192, 51, 3, 3),
        "dec.64x64_aux_norm.weight": (192,),
        "dec.64x64_aux_conv.weight": (192, 192, 3, 3),
        f"{block}norm0.weight": (192,),
        f"{block}conv0.weight": (384, 192, 3, 3),
        f"{block}affine.weight": (384, 768),
        f"{block}norm1.bias": (384,),
        f"{block}conv1.weight": (384, 384, 3, 3),
        f"{block}skip.weight": (384, 192, 1, 1),
        f"{swin}patch_embed.proj.weight": (192, 384, 1, 1),
        f"{swin}patch_unembed.proj.weight": (384, 192, 1, 1),
        f"{swin}conv.weight": (384, 384, 3, 3),
        f"{inner}norm1.weight": (192,),
        f"{inner}attn.relative_position_bias_table": (225, 6),
        f"{inner}attn.qkv.weight": (576, 192),
        f"{inner}attn.proj.bias": (192,),
        f"{inner}norm2.bias": (192,),
        f"{inner}mlp.fc1.weight": (768, 192, 1, 1),
        f"{inner}mlp.fc2.weight": (192, 768, 1, 1),
        "enc.32x32_down.skip.weight": (192, 192, 1, 1),
    }
    assert {name: state[name] for name in expected} == {
        name: (shape, torch.float32) for name, shape in expected.items()
    }
    filters = [name for name in state if name.endswith("resample_filter")]
    assert {state[name] for name in filters} == {((1, 1, 2, 2), torch.float16)}
    assert sorted(filters) == sorted(
        f"{place}.{part}.resample_filter"
        for place in (
            *(f"enc.{side}x{side}_down" for side in (32, 16, 8)),
            *(f"dec.{side}x{side}_up" for side in (16, 32, 64)),
        )
        for part in ("conv0", "skip")
    )
    assert state[f"{inner}attn.relative_position_index"] == ((64, 64), torch.int64)
    assert "enc.64x64_block0.skip.weight" not in state


def test_compact_configuration_stays_within_its_budget():
    for scale in (2, 3, 4):
        with torch.device("meta"):
            net = SwinUNet(SwinUNetConfig.compact(), scale).eval()
            x, lr = torch.empty(1, 3, 64 * scale, 64 * scale), torch.empty(1, 3, 64, 64)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(x, torch.zeros(1, device="meta"), lr)
        assert count(net.parameters()) < 8_000_000
        assert counter.get_total_flops() / 2 / 64**2 < 2_000_000


def test_embedding_of_level_zero_and_frequencies():
    assert level_embedding(torch.zeros(2), 192).tolist() == [[0.0] * 96 + [1.0] * 96] * 2
    waves = level_embedding(torch.tensor([0.7]), 192)[0].double()
    angles = 0.7 * 10_000 ** (-torch.arange(96, dtype=torch.float64) / 95)
    assert torch.allclose(waves, torch.cat([angles.sin(), angles.cos()]), atol=1e-6)


@torch.no_grad()
def test_resampling_is_the_depthwise_filter_of_the_file():
    """Transposed and strided convolution with the filter, as the published code has it."""
    torch.manual_seed(0)
    x = torch.randn(1, 4, 6, 6)
    depthwise = torch.full((4, 1, 2, 2), 0.25)
    down, up = Conv(4, 4, 3, "down"), Conv(4, 4, 3, "up")
    halved = F.conv2d(x, depthwise, stride=2, groups=4)
    assert torch.allclose(down(x), F.conv2d(halved, down.weight, down.bias, padding=1), atol=1e-6)
    doubled = F.conv_transpose2d(x, 4 * depthwise, stride=2, groups=4)
    assert torch.allclose(up(x), F.conv2d(doubled, up.weight, up.bias, padding=1), atol=1e-6)


@torch.no_grad()
def test_a_block_in_words():
    """Section 5.4, term by term, with the Swin layer scaled again after its own residual."""
    torch.manual_seed(0)
    block = Block(SMALL, 32, 64, attention=True).eval()
    for parameter in block.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    x, e = torch.randn(2, 32, 8, 8), torch.randn(2, 32)
    h = F.silu(F.group_norm(x, 32, block.norm0.weight, block.norm0.bias, 1e-6))
    h = F.conv2d(h, block.conv0.weight, block.conv0.bias, padding=1)
    h = h + (e @ block.affine.weight.T + block.affine.bias)[:, :, None, None]
    h = block.conv1(F.silu(F.group_norm(h, 32, block.norm1.weight, block.norm1.bias, 1e-6)))
    skip = torch.einsum("oi,bihw->bohw", block.skip.weight[..., 0, 0], x) + block.skip.bias[:, None, None]
    h = (h + skip) * 0.5**0.5
    layer = block.swin_layer
    u = layer.patch_embed.proj(h)
    first = layer.blocks[0]
    u = u + first.attend(F.group_norm(u, 32, first.norm1.weight, first.norm1.bias, 1e-5))
    v = F.group_norm(u, 32, first.norm2.weight, first.norm2.bias, 1e-5)
    u = u + first.mlp.fc2(F.gelu(first.mlp.fc1(v), approximate="none"))
    expected = (layer.conv(layer.patch_unembed.proj(u)) + h) * 0.5**0.5
    assert torch.allclose(block(x, e), expected, atol=1e-5)


@torch.no_grad()
def test_initial_weights():
    torch.manual_seed(0)
    net = SwinUNet(SwinUNetConfig(base=64, multipliers=(1, 2), blocks=1, attention=(1,), swin_width=96), 4)
    block = net.enc["64x64_block0"]
    bound = math.sqrt(6 / (64 * 9 + 64 * 9))
    assert float(block.conv0.weight.abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(block.conv1.weight.abs().max()) == pytest.approx(1e-5 * bound, rel=0.01)
    assert float(net.dec["64x64_aux_conv"].weight.abs().max()) == pytest.approx(1e-5 * bound, rel=0.01)
    assert not any(bool(one.any()) for one in (block.conv0.bias, block.affine.bias, net.map_layer0.bias))
    linear = math.sqrt(6 / (64 + 768))
    assert float(net.map_layer0.weight.abs().max()) == pytest.approx(linear, rel=0.01)
    table = net.enc["32x32_block0"].swin_layer.blocks[0].attn.relative_position_bias_table
    assert float(table.std()) == pytest.approx(0.02, rel=0.1)


@torch.no_grad()
def test_state_and_lr_image_enter_in_this_order():
    """Channel c * 16 + i * 4 + j holds row offset i and column offset j of colour c; the LR image is last."""
    net = SwinUNet(SMALL, 4)
    seen = []
    net.enc["64x64_conv"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, lr = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 8, 8)
    net(x, torch.zeros(1), lr)
    for c, i, j in ((0, 0, 0), (1, 2, 3), (2, 3, 1)):
        assert torch.equal(seen[0][0, c * 16 + i * 4 + j], x[0, c, i::4, j::4])
    assert torch.equal(seen[0][0, 48:], lr[0])


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"base": 33}, "base"),
        ({"multipliers": ()}, "multipliers"),
        ({"attention": (4,)}, "attention"),
        ({"swin_width": 32, "heads": 3}, "heads"),
        ({"base": 48}, "group normalisation"),
        ({"dropout": 1.0}, "dropout"),
        ({"window": 0}, "window"),
    ],
)
def test_sizes_that_are_no_network(settings, word):
    with pytest.raises(UsageError, match=word):
        SwinUNetConfig(**settings)


def test_the_released_head_makes_x4_alone():
    with pytest.raises(UsageError, match="shuffle"):
        SwinUNet(SMALL, 2)
