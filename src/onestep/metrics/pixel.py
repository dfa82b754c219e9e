"""PSNR and SSIM, on RGB and on luma, as the one-step papers measure them, and MS-SSIM.

All arithmetic is in float64. Images are (B, 3, H, W) in [0, 1]; scores are (B,).

Luma is BT.601 in studio range: Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from onestep.core.errors import InputError

WINDOW = 11
"""Side of the SSIM window, in pixels; only windows that lie inside the image count."""
_SIGMA = 1.5
_LUMA = (65.481, 128.553, 24.966)
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM from the finest scale to the coarsest (Wang et al., 2003, section 3.2)."""
_FLOOR = 1e-8
"""Added to the mean squared error, as the reference does: equal images score 80 dB."""


def luma(image: Tensor) -> Tensor:
    """BT.601 luma, not rounded: (B, 3, H, W) in [0, 1] to (B, 1, H, W) in [16/255, 235/255]."""
    return _weighted(image.split(1, dim=1)).add_(16).div_(255)


def psnr(sr: Tensor, hr: Tensor) -> Tensor:
    """Peak signal-to-noise ratio over all channels, in dB: 10 log10(1 / (MSE + 1e-8))."""
    return _psnr(_exact(sr) - _exact(hr))


def psnr_y(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR of the luma planes, which are not rounded, in dB."""
    channels = zip(sr.split(1, dim=1), hr.split(1, dim=1), strict=True)
    return _psnr(_weighted(_exact(a) - _exact(b) for a, b in channels).div_(255))


def ssim(sr: Tensor, hr: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004): Gaussian windows, per RGB channel, averaged; at most 1.

    Raises:
        InputError: a side is shorter than the window.
    """
    luminance, structure = _ssim_maps(_exact(sr), _exact(hr), peak=1.0)
    return (luminance * structure).mean(dim=(1, 2, 3))


def ssim_y(sr: Tensor, hr: Tensor) -> Tensor:
    """SSIM of the luma planes, rounded to whole 8-bit values; the contrast-structure part is clipped at 0.

    Raises:
        InputError: a side is shorter than the window.
    """
    planes = [(_weighted(map(_exact, image.split(1, dim=1))) + 16).round_() for image in (sr, hr)]
    luminance, structure = _ssim_maps(planes[0], planes[1], peak=255.0)
    return (luminance * structure.clamp_min(0)).mean(dim=(1, 2, 3))


def ms_ssim(sr: Tensor, hr: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik, 2003) of RGB channels, averaged.

    Five scales, each half of the one before (means of 2x2 pixels; an odd last line is left out); the
    contrast-structure part of each scale is averaged over the image, clipped at 0 and raised to its
    exponent, the luminance part counts at the coarsest scale alone.

    Raises:
        InputError: a side is below 176 pixels: the coarsest scale needs 11.
    """
    least = WINDOW << (len(SCALES) - 1)
    if min(sr.shape[-2:]) < least:
        raise InputError(f"MS-SSIM needs sides of at least {least} pixels")
    a, b = _exact(sr), _exact(hr)
    score = a.new_ones(a.shape[:2])
    for depth, exponent in enumerate(SCALES):
        if depth:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        luminance, structure = _ssim_maps(a, b, peak=1.0)
        part = structure if depth < len(SCALES) - 1 else luminance * structure
        score = score * part.mean(dim=(2, 3)).clamp_min(0) ** exponent
    return score.mean(dim=1)


def _exact(image: Tensor) -> Tensor:
    """In float64; on the CPU where the device (Apple's) has no such type."""
    return (image.cpu() if image.device.type == "mps" else image).double()


def _weighted(channels: Iterable[Tensor]) -> Tensor:
    """What luma is made of, from R, G and B in turn, (B, 1, H, W) each: one by one they stay in the cache."""
    each = iter(channels)
    total = next(each) * _LUMA[0]
    for weight in _LUMA[1:]:
        total = total.add_(next(each), alpha=weight)
    return total


def _psnr(difference: Tensor) -> Tensor:
    return -10 * torch.log10(difference.square().mean(dim=(1, 2, 3)) + _FLOOR)


def _ssim_maps(a: Tensor, b: Tensor, peak: float) -> tuple[Tensor, Tensor]:
    """The luminance part and the contrast-structure part, (B, C, H - 10, W - 10) each."""
    if min(a.shape[-2:]) < WINDOW:
        raise InputError(f"SSIM needs sides of at least {WINDOW} pixels")
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance, (2 * covariance + c2) / (var_a + var_b + c2)


def _blur(image: Tensor) -> Tensor:
    """Gaussian window of sigma 1.5, one axis after the other, without padding.

    A sum of shifted images: in float64 that is several times faster than a convolution.
    """
    line = [math.exp(-((tap - WINDOW // 2) ** 2) / (2 * _SIGMA**2)) for tap in range(WINDOW)]
    for axis in (-1, -2):
        inside = image.shape[axis] - WINDOW + 1
        blurred = image.narrow(axis, 0, inside) * (line[0] / sum(line))
        for tap in range(1, WINDOW):
            blurred.add_(image.narrow(axis, tap, inside), alpha=line[tap] / sum(line))
        image = blurred
    return image
