"""Give a restored image the colours of a reference, usually its upsampled LR image.

Two established corrections: matching of channel statistics (AdaIN; Huang and Belongie, 2017) and replacement
of the lowest frequencies by those of the reference (wavelet; Wang et al., StableSR, 2023).
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from onestep.core.contract import ColorFix

_DILATIONS: Final = (1, 2, 4, 8, 16)
REACH: Final = sum(_DILATIONS)
"""How far the low pass looks, in pixels."""
_STRIP_PIXELS: Final = 2**20
"""Pixels corrected at a time, which bounds memory."""


def color_fix(kind: ColorFix, image: Tensor, reference: Tensor) -> Tensor:
    """Apply the correction of that name; "none" returns the image itself.

    Args:
        kind: "none", "wavelet" or "adain".
        image: (B, C, H, W) in [0, 1].
        reference: same shape, in [0, 1].
    """
    if kind == "wavelet":
        return wavelet(image, reference)
    if kind == "adain":
        return adain(image, reference)
    return image


def adain(image: Tensor, reference: Tensor, eps: float = 1e-5) -> Tensor:
    """Give every channel the mean and the standard deviation that it has in the reference.

    (y - mean_y) / sqrt(var_y + eps) * sqrt(var_x + eps) + mean_x, with unbiased variances over all pixels of
    an image, clamped to [0, 1].

    Args:
        image: y, (B, C, H, W) in [0, 1].
        reference: x, (B, C, h, w) in [0, 1]; its size may differ.
        eps: added to both variances, in squared pixel values.
    """
    var_y, mean_y = _moments(image)
    var_x, mean_x = _moments(reference)
    gain = ((var_x + eps) / (var_y + eps)).sqrt()
    return torch.addcmul(mean_x - mean_y * gain, image, gain).clamp_(0, 1)


def wavelet(image: Tensor, reference: Tensor) -> Tensor:
    """Replace the low frequencies of the image by those of the reference.

    The published algorithm splits both images into five bands and adds the high bands of one to the low band
    of the other. The bands telescope to y - LP(y) + LP(x), and the low pass is linear, so this computes
    y + LP(x - y), clamped to [0, 1]. Rows are handled in strips; the result does not depend on them.

    Args:
        image: y, (B, C, H, W) in [0, 1].
        reference: x, same shape, in [0, 1].

    Raises:
        ValueError: the shapes differ.
    """
    if image.shape != reference.shape:
        raise ValueError(f"image {tuple(image.shape)} and reference {tuple(reference.shape)} differ in shape")
    out = torch.empty_like(image)
    height, width = image.shape[-2:]
    rows = max(2 * REACH, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first, last = max(0, top - REACH), min(height, bottom + REACH)
        low = low_pass(reference[..., first:last, :] - image[..., first:last, :])
        strip = image[..., top:bottom, :] + low[..., top - first : bottom - first, :]
        out[..., top:bottom, :] = strip.clamp_(0, 1)
    return out


def low_pass(image: Tensor) -> Tensor:
    """Blur (B, C, H, W) five times by [1 2 1; 2 4 2; 1 2 1] / 16, dilated by 1, 2, 4, 8 and 16 pixels.

    Borders are replicated. The kernel is separable, and replication commutes with that.
    """
    for dilation in _DILATIONS:
        image = _blur_rows(image, dilation)
        image = _blur_rows(image.mT, dilation).mT
    return image


def _blur_rows(image: Tensor, dilation: int) -> Tensor:
    """[1 2 1] / 4 along the last axis."""
    padded = F.pad(image, (dilation, dilation, 0, 0), mode="replicate")
    sides = padded[..., : -2 * dilation] + padded[..., 2 * dilation :]
    return sides.mul_(0.25).add_(image, alpha=0.5)


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased variance and mean over the pixels, each (B, C, 1, 1); a single pixel has variance 0."""
    several = int(image.shape[-2] * image.shape[-1] > 1)
    return torch.var_mean(image, dim=(-2, -1), keepdim=True, correction=several)
