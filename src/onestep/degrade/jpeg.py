"""JPEG as tensor arithmetic: YCbCr, 4:2:0, 8x8 DCT, the standard tables, rounding of coefficients.

Two conventions:

- ``"tensor"``: what the two-stage training pipelines use. Quality is any real number, tables are scaled but
  not rounded, sides are padded with zeros to multiples of 16, chroma is repeated on decoding, nothing but the
  coefficients is rounded.
- ``"libjpeg"``: what a file goes through. Integer tables, edges repeated, planes and pixels rounded to 8 bit,
  triangle filter for chroma on decoding. Close to, not bit-equal with, libjpeg (whose integer transforms
  round differently).

Entropy coding is lossless and left out. Tables: ITU-T T.81, annex K.
"""

import math
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from onestep.core.errors import UsageError

Convention = Literal["tensor", "libjpeg"]

# fmt: off
_LUMA = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)
_CHROMA = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *(99,) * 32,
)
# fmt: on


def tables(quality: float, convention: Convention = "tensor") -> tuple[Tensor, Tensor]:
    """Quantisation tables (luma, chroma), each (64,) in row order, in units of one 8-bit level.

    The standard tables times s / 100 with s = 5000 / quality below 50 and 200 - 2 quality from there.

    Args:
        quality: 1 to 100; ``"libjpeg"`` uses its integer part.
        convention: ``"libjpeg"`` rounds to integers in 1..255, ``"tensor"`` does not (quality 100 then has
            step 0, replaced by a step of 1/100 level).

    Raises:
        UsageError: ``quality`` is outside 1..100.
    """
    if not 1 <= quality <= 100:
        raise UsageError(f"JPEG quality {quality:g} is not in 1..100")
    if convention == "libjpeg":
        quality = int(quality)
        scale = float(5000 // quality if quality < 50 else 200 - 2 * quality)
        pair = [((torch.tensor(t) * scale + 50) / 100).floor().clamp(1, 255) for t in (_LUMA, _CHROMA)]
    else:
        scale = 5000 / quality if quality < 50 else 200 - 2 * quality
        pair = [(torch.tensor(t) * (scale / 100)).clamp(min=0.01) for t in (_LUMA, _CHROMA)]
    return pair[0], pair[1]


def jpeg(
    image: Tensor, quality: float, *, convention: Convention = "tensor", differentiable: bool = False
) -> Tensor:
    """Compress and decompress.

    Args:
        image: (3, H, W), RGB in [0, 1], float, any H and W of at least 1.
        quality: 1 to 100.
        convention: See the module.
        differentiable: Pass gradients straight through the rounding (as if it were the identity); same
            values.

    Returns:
        (3, H, W) in [0, 1].

    Raises:
        UsageError: ``quality`` is outside 1..100 or the image is not (3, H, W).
    """
    if image.dim() != 3 or image.shape[0] != 3:
        raise UsageError(f"JPEG takes an RGB picture (3, H, W), not {tuple(image.shape)}")
    height, width = image.shape[1:]
    exact = convention == "libjpeg"
    steps = tables(quality, convention)
    luma, chroma = _planes(_pad(image, "replicate" if exact else "constant") * 255)
    if exact:
        luma, chroma = _round(luma, differentiable), _round(chroma, differentiable)
    luma, chroma = _transform(luma, chroma, steps, differentiable)
    if exact:
        luma = _round(luma, differentiable).clamp(-128, 127)
        chroma = _round(chroma, differentiable).clamp(-128, 127)
        chroma = functional.interpolate(chroma[None], scale_factor=2, mode="bilinear")[0]
    else:
        chroma = functional.interpolate(chroma[None], scale_factor=2, mode="nearest")[0]
    pixels = _rgb(luma, chroma)[:, :height, :width].clamp(0, 255)
    return (_round(pixels, differentiable) if exact else pixels) / 255


def _round(values: Tensor, differentiable: bool) -> Tensor:
    if differentiable:
        return values + (values.round() - values).detach()
    return values.round()


def _pad(image: Tensor, mode: str) -> Tensor:
    bottom, right = -image.shape[1] % 16, -image.shape[2] % 16
    if not (bottom or right):
        return image
    return functional.pad(image[None], (0, right, 0, bottom), mode=mode)[0]


def _planes(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """RGB (3, H, W) in 0..255 to luma (1, H, W) and halved chroma (2, H/2, W/2), all shifted to -128..127."""
    red, green, blue = rgb[0], rgb[1], rgb[2]
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([(blue - y) * 0.564_334_085_8, (red - y) * 0.713_266_761_7])
    return y[None] - 128, functional.avg_pool2d(chroma, 2)


def _rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Inverse of the colour transform; planes (1, H, W) and (2, H, W) in -128..127 to RGB in 0..255."""
    y, blue, red = luma[0] + 128, chroma[0], chroma[1]
    return torch.stack(
        [y + 1.402 * red, y - 0.344_136_286_2 * blue - 0.714_136_286_2 * red, y + 1.772 * blue]
    )


def _transform(
    luma: Tensor, chroma: Tensor, steps: tuple[Tensor, Tensor], differentiable: bool
) -> tuple[Tensor, Tensor]:
    """DCT, quantise, restore, inverse DCT, on all blocks of all planes in two matrix products."""
    dct = _dct()
    first, second = _blocks(luma), _blocks(chroma)
    coefficients = torch.cat([first, second]) @ dct.T
    step = torch.cat([steps[0].expand(len(first), 64), steps[1].expand(len(second), 64)])
    restored = (_round(coefficients / step, differentiable) * step) @ dct
    return _unblocks(restored[: len(first)], luma), _unblocks(restored[len(first) :], chroma)


def _blocks(planes: Tensor) -> Tensor:
    """(C, H, W) to (C H/8 W/8, 64)."""
    channels, height, width = planes.shape
    return planes.reshape(channels, height // 8, 8, width // 8, 8).transpose(2, 3).reshape(-1, 64)


def _unblocks(blocks: Tensor, like: Tensor) -> Tensor:
    channels, height, width = like.shape
    return (
        blocks.reshape(channels, height // 8, width // 8, 8, 8)
        .transpose(2, 3)
        .reshape(channels, height, width)
    )


@cache
def _dct() -> Tensor:
    """Orthonormal 8x8 DCT-II as one matrix (64, 64) on blocks in row order."""
    n = torch.arange(8, dtype=torch.float64)
    one = 0.5 * torch.cos(math.pi * (2 * n[None, :] + 1) * n[:, None] / 16)
    one[0] /= math.sqrt(2)
    return torch.kron(one, one).to(torch.float32)
