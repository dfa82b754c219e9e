"""Run a VAE of diffusers over a large image window by window: the whole image's result, in bounded memory.

Every layer is finished for the whole image before the next one begins. A convolution sees, around each
window, the neighbours that it looks at; a group normalisation gets its mean and variance from all windows by
the law of total variance; attention is calculated for some queries at a time. So the result is that of the
untiled VAE up to rounding, whatever the window. (The published tiling averages variances over tiles, counts
padding twice and attends inside tiles.) Two feature maps are held at once, on the CPU; only windows are where
the network is.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = Callable[[Tensor], Tensor]

WINDOW = 512
"""Side of a window, in elements of whatever feature map."""
QUERIES = 4096
"""Attention is calculated for so many positions at a time."""


def encode(vae: nn.Module, image: Tensor, window: int = WINDOW) -> Tensor:
    """Moments (B, 2 C, H / f, W / f) of an image (B, 3, H, W), as ``quant_conv(encoder(image))``."""
    network = cast("Any", vae)
    encoder, maps = network.encoder, _Maps(vae, image, window)
    maps.apply(encoder.conv_in, halo=1)
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            maps.resnet(resnet)
        for down in block.downsamplers or ():
            maps.apply(down, halo=2, shrink=2)
    maps.middle(encoder.mid_block)
    maps.normalized(encoder.conv_norm_out, encoder.conv_act, encoder.conv_out)
    maps.apply(network.quant_conv)
    return maps.map.to(image.device)


def decode(vae: nn.Module, latent: Tensor, window: int = WINDOW) -> Tensor:
    """An image (B, 3, h * f, w * f) of an unscaled latent, as ``decoder(post_quant_conv(latent))``."""
    network = cast("Any", vae)
    decoder, maps = network.decoder, _Maps(vae, latent, window)
    maps.apply(network.post_quant_conv)
    maps.apply(decoder.conv_in, halo=1)
    maps.middle(decoder.mid_block)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            maps.resnet(resnet)
        for up in block.upsamplers or ():
            maps.apply(up, halo=1, grow=2)
    maps.normalized(decoder.conv_norm_out, decoder.conv_act, decoder.conv_out)
    return maps.map.to(latent.device)


def spans(length: int, window: int, step: int = 1) -> list[tuple[int, int]]:
    """Where windows begin and end along a side: nearly equal ones, at multiples of ``step``, none empty."""
    count = max(1, -(-length // max(window, step)))
    edges = [round(i * length / count / step) * step for i in range(count)] + [length]
    return [(a, b) for a, b in pairwise(edges) if b > a]


def moments(parts: Iterator[Tensor], groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance per group over all parts of a feature map: each (B, groups), float64.

    The variance of the whole is the mean of the parts' variances plus the variance of their means, weighted
    by their sizes.

    Args:
        parts: Disjoint, each (B, C, h, w).
        groups: Of channels.
    """
    found: list[tuple[int, Tensor, Tensor]] = []
    for part in parts:
        flat = part.reshape(len(part), groups, -1).float()
        variance, mean = torch.var_mean(flat, dim=-1, correction=0)
        found.append((flat.shape[-1], mean.double().cpu(), variance.double().cpu()))
    total = sum(size for size, _, _ in found)
    mean = torch.stack([size / total * mean for size, mean, _ in found]).sum(0)
    within = torch.stack([size / total * variance for size, _, variance in found]).sum(0)
    between = torch.stack([size / total * (one - mean).square() for size, one, _ in found]).sum(0)
    return mean, within + between


class _Maps:
    """The current feature map, and what layers do to it."""

    def __init__(self, vae: nn.Module, start: Tensor, window: int) -> None:
        self.device = next(vae.parameters()).device
        self.map, self.window = start.cpu(), window

    def apply(self, layer: Layer, *, halo: int = 0, grow: int = 1, shrink: int = 1) -> None:
        """Replace the map by what a layer makes of it.

        Args:
            layer: Looks no further than ``halo`` elements, and pads borders of the image itself.
            halo: A multiple of ``shrink``.
            grow: Sides become so many times longer.
            shrink: Sides become so many times shorter.
        """
        self.map = self._made(self.map, layer, halo, grow, shrink)

    def normalized(self, norm: nn.Module, act: Layer, conv: Layer) -> None:
        """Replace the map by a convolution of its activated normalisation."""
        normalize = self._normalization(norm, self.map)
        self.map = self._made(self.map, lambda piece: conv(act(normalize(piece))), 1)

    def resnet(self, block: Any) -> None:
        """A residual block: two normalised convolutions beside a shortcut."""
        first, act = self._normalization(block.norm1, self.map), block.nonlinearity
        inner = self._made(self.map, lambda piece: block.conv1(act(first(piece))), 1)
        if block.conv_shortcut is not None:
            self.apply(block.conv_shortcut)
        second = self._normalization(block.norm2, inner)
        self._made(inner, lambda piece: block.conv2(act(second(piece))), 1, into=self.map)
        if block.output_scale_factor != 1:
            self.map /= block.output_scale_factor

    def middle(self, block: Any) -> None:
        """The block at the lowest resolution: residual blocks around attention."""
        self.resnet(block.resnets[0])
        for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
            if attention is not None:
                self.map += self._attended(attention)
            self.resnet(resnet)

    def _made(
        self,
        source: Tensor,
        layer: Layer,
        halo: int = 0,
        grow: int = 1,
        shrink: int = 1,
        into: Tensor | None = None,
    ) -> Tensor:
        """What a layer makes of a map; added to ``into`` where that is given."""
        height, width = source.shape[-2:]
        out = into
        for top, bottom in spans(height, self.window, shrink):
            for left, right in spans(width, self.window, shrink):
                above, before = min(halo, top), min(halo, left)
                below, behind = min(halo, height - bottom), min(halo, width - right)
                piece = source[..., top - above : bottom + below, left - before : right + behind]
                made = layer(piece.to(self.device)).cpu()
                rows, columns = (bottom - top) * grow // shrink, (right - left) * grow // shrink
                skip = above * grow // shrink, before * grow // shrink
                made = made[..., skip[0] : skip[0] + rows, skip[1] : skip[1] + columns]
                if out is None:
                    size = height * grow // shrink, width * grow // shrink
                    out = made.new_empty(*made.shape[:-2], *size)
                place = top * grow // shrink, left * grow // shrink
                target = out[..., place[0] : place[0] + rows, place[1] : place[1] + columns]
                target.copy_(target + made if into is not None else made)
        assert out is not None
        return out

    def _normalization(self, norm: nn.Module, source: Tensor) -> Layer:
        """The group normalisation of a whole map, as a function of its windows."""
        group = cast("nn.GroupNorm", norm)
        mean, variance = moments(self._windows(source), group.num_groups)
        each = source.shape[1] // group.num_groups
        rate = (variance + group.eps).rsqrt().repeat_interleave(each, 1).to(self.device)
        gain = rate * group.weight.double()
        shift = group.bias.double() - mean.repeat_interleave(each, 1).to(self.device) * gain
        a, b = (one.float()[..., None, None] for one in (gain, shift))

        def normalize(piece: Tensor) -> Tensor:
            return torch.addcmul(b, piece.float(), a).to(piece.dtype)

        return normalize

    def _windows(self, source: Tensor) -> Iterator[Tensor]:
        for top, bottom in spans(source.shape[-2], self.window):
            for left, right in spans(source.shape[-1], self.window):
                yield source[..., top:bottom, left:right].to(self.device)

    def _attended(self, attention: Any) -> Tensor:
        """What self-attention over all positions adds to the map."""
        batch, channels, height, width = self.map.shape
        normalize = self._normalization(attention.group_norm, self.map)
        seen = normalize(self.map.to(self.device)).reshape(batch, channels, -1).transpose(1, 2)
        keys, values = attention.to_k(seen)[:, None], attention.to_v(seen)[:, None]
        parts = [
            F.scaled_dot_product_attention(attention.to_q(some)[:, None], keys, values)[:, 0]
            for some in seen.split(QUERIES, 1)
        ]
        out = attention.to_out[0](torch.cat(parts, 1))
        return out.transpose(1, 2).reshape(batch, channels, height, width).to(self.map.dtype).cpu()
