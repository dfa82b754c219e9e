"""The guided U-Net at work: a slow rendering by names alone, times, precision, memory and refusals."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from onestep.networks.unet import Attention, Norm, UNet, UNetConfig, time_embedding

SMALL = UNetConfig(base=32, multipliers=(1, 2), blocks=1, attention=(2,), head_width=32, dropout=0.0)


def lively(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    """A network without zeros in it, in evaluation mode."""
    torch.manual_seed(seed)
    net = config.build().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net


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
