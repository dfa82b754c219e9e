"""A Swin layer without shifts: attention inside square windows of a feature map, then a small MLP.

Source: Liu et al., "Swin Transformer" (arXiv 2103.14030), section 3; as CTMSR uses it: one block per layer,
so nothing is ever shifted and the attention mask is identically zero (left out here); 1x1 convolutions carry
a map into the layer's width and back, and a 3x3 convolution and a residual close it. Module names are those
of the published checkpoint.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MakeNorm = Callable[[int], nn.Module]
"""Channels to a normalisation of (B, C, H, W)."""


class Projection(nn.Module):
    """A 1x1 convolution under the name ``proj``."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, H, W)."""
        return self.proj(x)


def relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens (query, key): (window², window²), tokens row-major.

    The row is (dy + window - 1) * (2 window - 1) + (dx + window - 1) with (dy, dx) = query minus key.
    """
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    place = torch.stack([y.flatten(), x.flatten()])
    dy, dx = place[:, :, None] - place[:, None, :] + window - 1
    return dy * (2 * window - 1) + dx


class WindowAttention(nn.Module):
    """Self-attention among the tokens of one window, with a learned bias per offset between two tokens."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_index(window))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def bias(self) -> Tensor:
        """What is added to the scaled products: (heads, tokens, tokens)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """(windows, tokens, width) to the same shape; q, k and v lie in this order, each head-major."""
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, self.bias().to(query.dtype))
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two 1x1 convolutions with an exact GELU between them."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, ratio * width, 1)
        self.fc2 = nn.Conv2d(ratio * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, C, H, W), sides multiples of the window, to (B * H/w * W/w, w², C), all row-major."""
    b, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).reshape(b, h // window, window, w // window, window, c)
    return tokens.transpose(2, 3).reshape(-1, window * window, c)


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """The inverse of `to_windows` for a map of these sides."""
    across, channels = width // window, windows.shape[-1]
    tokens = windows.reshape(-1, height // window, across, window, window, channels)
    return tokens.transpose(2, 3).reshape(-1, height, width, channels).permute(0, 3, 1, 2)


class SwinBlock(nn.Module):
    """u + attention(norm(u)), then u + mlp(norm(u))."""

    def __init__(self, width: int, heads: int, window: int, norm: MakeNorm) -> None:
        super().__init__()
        self.window = window
        self.norm1 = norm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = norm(width)
        self.mlp = Mlp(width)

    def attend(self, x: Tensor) -> Tensor:
        """Attention in the windows of (B, width, H, W); a border that they overhang is repeated."""
        height, width = x.shape[-2:]
        pad = (0, -width % self.window, 0, -height % self.window)
        if any(pad):
            x = F.pad(x, pad, mode="replicate")
        mixed = self.attn(to_windows(x, self.window))
        return from_windows(mixed, self.window, *x.shape[-2:])[..., :height, :width]

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        x = x + self.attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SwinLayer(nn.Module):
    """x + conv3x3(back(block(into the layer's width))): what follows a U-Net block that has attention."""

    def __init__(self, channels: int, width: int, heads: int, window: int, norm: MakeNorm) -> None:
        super().__init__()
        self.patch_embed = Projection(channels, width)
        self.blocks = nn.ModuleList([SwinBlock(width, heads, window, norm)])
        self.patch_unembed = Projection(width, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same shape."""
        h = self.patch_embed(x)
        for block in self.blocks:
            h = block(h)
        return self.conv(self.patch_unembed(h)) + x
