"""The guided U-Net against its specification: names, counts, and a slow rendering by names alone."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onestep.networks.unet import Attention, Norm, ResBlock, UNet, UNetConfig, time_embedding

SMALL = UNetConfig(base=32, multipliers=(1, 2), blocks=1, attention=(2,), head_width=32, dropout=0.0)


def lively(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    """A network without zeros in it, in evaluation mode."""
    torch.manual_seed(seed)
    net = config.build().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


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


def test_state_dict_is_the_parameters_and_nothing_else():
    net = SMALL.build()
    assert list(net.state_dict()) == [name for name, _ in net.named_parameters()] == list(SMALL.shapes())


def test_a_fresh_network_answers_exactly_zero():
    torch.manual_seed(0)
    net = SMALL.build()
    assert torch.equal(net(torch.randn(2, 6, 8, 6), torch.tensor([0.0, 998.9])), torch.zeros(2, 6, 8, 6))


def test_time_embedding_has_cosines_first_and_keeps_fractions():
    t = [0.0, 0.999, 494.505]
    embedding = time_embedding(torch.tensor(t), 8)
    expected = [
        [wave(time * 10_000 ** (-i / 4)) for wave in (math.cos, math.sin) for i in range(4)] for time in t
    ]
    torch.testing.assert_close(embedding, torch.tensor(expected), atol=1e-4, rtol=0)
    assert embedding[0].tolist() == [1.0] * 4 + [0.0] * 4


# A slow rendering of the published description, from the state dict's names alone.


def norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    groups = x.reshape(len(x), 32, -1)
    mean, variance = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, unbiased=False)
    y = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return y * state[name + ".weight"].reshape(shape) + state[name + ".bias"].reshape(shape)


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def convolve(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = state[name + ".weight"]
    return F.conv2d(x, weight, state[name + ".bias"], padding=weight.shape[-1] // 2)


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return x @ state[name + ".weight"].T + state[name + ".bias"]


def resample(x: Tensor, how: str) -> Tensor:
    if how == "down":
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2) if how == "up" else x


def residual(state: dict[str, Tensor], name: str, x: Tensor, embedding: Tensor, how: str) -> Tensor:
    h = convolve(state, name + ".in_layers.2", resample(silu(norm(state, name + ".in_layers.0", x)), how))
    modulation = linear(state, name + ".emb_layers.1", silu(embedding))
    scale, shift = modulation[:, : h.shape[1], None, None], modulation[:, h.shape[1] :, None, None]
    h = norm(state, name + ".out_layers.0", h) * (1 + scale) + shift
    h = convolve(state, name + ".out_layers.3", silu(h))
    skip = resample(x, how)
    if name + ".skip_connection.weight" in state:
        skip = convolve(state, name + ".skip_connection", skip)
    return skip + h


def attend(state: dict[str, Tensor], name: str, x: Tensor, width: int) -> Tensor:
    """One picture, one head, one query at a time; every head owns 3 * width neighbouring channels of qkv."""
    flat = x.flatten(2)
    qkv = torch.einsum("oc,bcl->bol", state[name + ".qkv.weight"][..., 0], norm(state, name + ".norm", flat))
    qkv = qkv + state[name + ".qkv.bias"][:, None]
    mixed = torch.zeros_like(flat)
    for b in range(len(x)):
        for head in range(flat.shape[1] // width):
            q, k, v = (qkv[b, (3 * head + i) * width : (3 * head + i + 1) * width] for i in range(3))
            for position in range(flat.shape[2]):
                logits = (k * width**-0.25).T @ (q[:, position] * width**-0.25)
                weights = (logits - logits.max()).exp()
                mixed[b, head * width : (head + 1) * width, position] = v @ (weights / weights.sum())
    out = torch.einsum("oc,bcl->bol", state[name + ".proj_out.weight"][..., 0], mixed)
    return x + (out + state[name + ".proj_out.bias"][:, None]).reshape(x.shape)


def render(state: dict[str, Tensor], x: Tensor, t: Tensor, width: int) -> Tensor:
    """The network of SMALL: down-sampling in input block 2, up-sampling at the end of output block 1."""
    angles = t[:, None] * 10_000 ** (-torch.arange(16) / 16)
    embedding = linear(state, "time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
    embedding = linear(state, "time_embed.2", silu(embedding))
    h = convolve(state, "input_blocks.0.0", x)
    skips = [h]
    for name, how in (("1.0", "keep"), ("2.0", "down"), ("3.0", "keep")):
        h = residual(state, "input_blocks." + name, h, embedding, how)
        h = attend(state, "input_blocks.3.1", h, width) if name == "3.0" else h
        skips.append(h)
    h = residual(state, "middle_block.0", h, embedding, "keep")
    h = attend(state, "middle_block.1", h, width)
    h = residual(state, "middle_block.2", h, embedding, "keep")
    for i in range(4):
        h = residual(state, f"output_blocks.{i}.0", torch.cat([h, skips.pop()], 1), embedding, "keep")
        h = attend(state, f"output_blocks.{i}.1", h, width) if i < 2 else h
        h = residual(state, "output_blocks.1.2", h, embedding, "up") if i == 1 else h
    return convolve(state, "out.2", silu(norm(state, "out.0", h)))


@torch.no_grad()
def test_the_network_equals_its_slow_rendering():
    net = lively()
    torch.manual_seed(1)
    x, t = torch.randn(2, 6, 6, 4), torch.tensor([9.99, 731.4])
    expected = render(net.state_dict(), x, t, SMALL.head_width)
    assert expected.std() > 0.1
    torch.testing.assert_close(net(x, t), expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_attention_is_in_the_published_channel_layout():
    torch.manual_seed(0)
    layer = Attention(96, 32)
    layer.proj_out.weight.normal_(std=0.1)
    state = {f"a.{name}": tensor for name, tensor in layer.state_dict().items()}
    x = torch.randn(2, 96, 3, 2)
    torch.testing.assert_close(layer(x), attend(state, "a", x, 32), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_each_image_has_its_own_time():
    net = lively()
    x, t = torch.randn(2, 6, 4, 4), torch.tensor([0.999, 500.25])
    both = net(x, t)
    torch.testing.assert_close(both[1:], net(x[1:], t[1:]), atol=1e-6, rtol=1e-5)
    assert (both[1:] - net(x[1:], torch.tensor([500.75]))).abs().max() > 1e-4


@torch.no_grad()
def test_normalisation_is_computed_in_float32_under_autocast():
    torch.manual_seed(0)
    layer = Norm(64)
    x = (8 + torch.randn(1, 64, 5, 5)).bfloat16()
    expected = F.group_norm(x.float(), 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(x)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected)
    assert torch.equal(layer.bfloat16()(x), expected)


@torch.no_grad()
def test_half_precision_stays_close():
    net = lively()
    torch.manual_seed(2)
    x, t = torch.randn(1, 6, 8, 8), torch.tensor([733.7])
    exact = net(x, t)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(x, t)
    half = net.bfloat16()(x.bfloat16(), t)
    for result in (mixed, half):
        assert result.dtype == torch.bfloat16
        assert (result - exact).abs().max() < 0.05 * exact.abs().max()


def test_checkpointing_changes_memory_but_not_gradients():
    net = lively()
    x, t = torch.randn(1, 6, 4, 4), torch.tensor([3.3])
    gradients = []
    for checkpointing in (False, True):
        net.checkpointing = checkpointing
        gradients.append(torch.autograd.grad(net(x, t).square().mean(), list(net.parameters())))
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_dropout_acts_in_training_only():
    net = lively(UNetConfig(32, (1,), attention=(), head_width=32, dropout=0.5))
    x, t = torch.randn(1, 6, 4, 4), torch.zeros(1)
    assert torch.equal(net(x, t), net(x, t))
    net.train()
    assert not torch.equal(net(x, t), net(x, t))


def test_what_does_not_fit_is_refused():
    net = SMALL.build()
    with pytest.raises(ValueError, match="multiples of 2"):
        net(torch.zeros(1, 6, 4, 5), torch.zeros(1))
    with pytest.raises(ValueError, match="one time per image"):
        net(torch.zeros(1, 6, 4, 4), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(
    "wrong",
    [{"base": 48}, {"base": 64, "head_width": 48}, {"multipliers": ()}, {"blocks": 0}, {"attention": (3,)}],
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"multiple of 32|heads of 48|at least one level|not a level"):
        UNetConfig(**wrong)
