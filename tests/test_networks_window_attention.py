"""Attention in windows of CTMSR's network, against loops over heads, queries and keys."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from onestep.networks.swin_layers import GroupNorm
from onestep.networks.window_attention import (
    SwinBlock,
    WindowAttention,
    from_windows,
    relative_index,
    to_windows,
)


def naive_attention(attention: WindowAttention, tokens: Tensor) -> Tensor:
    """One window (T, C) by loops over heads, queries and keys; T = side²."""
    count, channels = tokens.shape
    side, heads = math.isqrt(count), attention.heads
    size = channels // heads
    qkv = tokens @ attention.qkv.weight.T + attention.qkv.bias
    out = torch.zeros_like(tokens)
    for head in range(heads):
        q, k, v = (qkv[:, part * channels + head * size :][:, :size] for part in range(3))
        for i in range(count):
            scores = torch.zeros(count)
            for j in range(count):
                dy, dx = i // side - j // side, i % side - j % side
                row = (dy + side - 1) * (2 * side - 1) + dx + side - 1
                scores[j] = q[i] @ k[j] / math.sqrt(size) + attention.relative_position_bias_table[row, head]
            out[i, head * size : (head + 1) * size] = scores.softmax(0) @ v
    return out @ attention.proj.weight.T + attention.proj.bias


@torch.no_grad()
def attention_of(window: int, width: int = 8, heads: int = 2) -> WindowAttention:
    torch.manual_seed(0)
    attention = WindowAttention(width, heads, window)
    attention.relative_position_bias_table.normal_()
    return attention


@torch.no_grad()
def test_attention_in_a_window_is_softmax_with_a_bias_per_offset():
    attention = attention_of(4)
    windows = torch.randn(3, 16, 8)
    expected = torch.stack([naive_attention(attention, one) for one in windows])
    assert torch.allclose(attention(windows), expected, atol=1e-6)


@torch.no_grad()
def test_the_mask_of_unshifted_windows_changes_nothing():
    """The mask that Swin builds marks pairs from different regions; without shifts all regions are one."""
    shift, side, window = 0, 16, 8
    region = torch.zeros(1, 1, side, side)
    for number, rows in enumerate((slice(0, side - shift - window), slice(side - shift, None))):
        region[..., rows, :] += number if shift else 0
    numbers = to_windows(region, window)[..., 0]
    mask = (numbers[:, None, :] != numbers[:, :, None]).float() * -100
    assert not mask.any()
    attention = attention_of(window)
    windows = torch.randn(4, 64, 8)
    q, k, v = attention.qkv(windows).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    masked = F.scaled_dot_product_attention(q, k, v, attention.bias() + mask[:, None])
    expected = attention.proj(masked.transpose(1, 2).flatten(2))
    assert torch.allclose(attention(windows), expected, atol=1e-6)


@torch.no_grad()
def test_windows_do_not_see_each_other():
    attention, order = attention_of(4), torch.tensor([2, 0, 3, 1])
    windows = torch.randn(4, 16, 8)
    assert torch.allclose(attention(windows)[order], attention(windows[order]), atol=1e-6)
    changed = windows.clone()
    changed[0] += 1
    assert torch.equal(attention(changed)[1:], attention(windows)[1:])


def test_relative_index_of_two_by_two():
    assert relative_index(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_windows_are_row_major_and_come_back():
    x = torch.arange(2 * 8 * 12.0).reshape(1, 2, 8, 12)
    windows = to_windows(x, 4)
    assert windows.shape == (6, 16, 2)
    assert torch.equal(windows[4, :, 0].view(4, 4), x[0, 0, 4:8, 4:8])
    assert torch.equal(from_windows(windows, 4, 8, 12), x)


@torch.no_grad()
def test_a_map_that_windows_do_not_tile():
    """Whole windows are as before; what overhangs is attended to as if the border were repeated."""
    torch.manual_seed(0)
    block = SwinBlock(32, 2, 4, lambda width: GroupNorm(width, 1e-5))
    x = torch.randn(1, 32, 6, 9)
    repeated = F.pad(x, (0, 3, 0, 2), mode="replicate")
    assert torch.allclose(block.attend(x), block.attend(repeated)[..., :6, :9], atol=1e-6)
    assert torch.allclose(block.attend(x)[..., :4, :8], block.attend(x[..., :4, :8]), atol=1e-6)
