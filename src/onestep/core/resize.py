"""Resizing as torch, as Pillow and as MATLAB define it.

The three agree on the kernels and differ in details that shift results measurably: the sharpness of the
bicubic kernel, whether it widens when an image shrinks, and what lies beyond the border.

=========== ============================ ======================== =========================
convention  bicubic                      antialias                beyond the border
=========== ============================ ======================== =========================
torch       a = -0.5, or -0.75 without   an option                weights renormalised, or
            antialias                                             replicated without
pillow      a = -0.5                     always                   weights renormalised
matlab      a = -0.5                     an option                mirrored (symmetric)
=========== ============================ ======================== =========================
"""

import math
from collections.abc import Callable
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

Kernel = Literal["bicubic", "bilinear", "lanczos", "area", "nearest"]
Convention = Literal["torch", "pillow", "matlab"]

_PILLOW: Final = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


def resize(
    image: Tensor,
    size: tuple[int, int],
    kernel: Kernel = "bicubic",
    antialias: bool = True,
    convention: Convention = "torch",
) -> Tensor:
    """Resize a batch to an exact size; values are not clamped, so sharp kernels may overshoot.

    Args:
        image: (B, C, H, W), any floating type and any device.
        size: (height, width) of the result.
        kernel: "lanczos" has three lobes; "area" averages; "nearest" takes the pixel under the centre.
        antialias: whether the kernel widens when the image shrinks. With convention "torch" it also selects
            the bicubic kernel, when the image grows too (a = -0.5 with, -0.75 without).
        convention: whose definition. For "lanczos", "torch" means "pillow".

    Returns:
        (B, C, height, width), type and device of the image.

    Raises:
        ValueError: the size is not positive, or Pillow's way is asked for without antialias.
    """
    if min(size) < 1:
        raise ValueError(f"a size must be positive, got {size}")
    full = image.float()
    if convention == "matlab":
        out = _matlab(full, size, kernel, antialias)
    elif convention == "torch" and kernel != "lanczos":
        out = _torch(full, size, kernel, antialias)
    elif not antialias and kernel != "nearest":
        raise ValueError(f"Pillow's {kernel} always antialiases; use antialias=True or another convention")
    elif kernel in ("bicubic", "bilinear", "nearest"):
        out = _torch(full, size, kernel, antialias=True)
    else:
        out = _pillow(full, size, kernel)
    return out.to(image.dtype)


def taps(top: int, bottom: int, length: int, target: int, kernel: Kernel = "bicubic") -> tuple[int, Tensor]:
    """How some outputs of an antialiased resize of one axis are made, as torch and Pillow define it.

    Args:
        top: the first of the outputs.
        bottom: behind the last.
        length: inputs of the whole axis.
        target: outputs of the whole axis.
        kernel: as for ``resize``.

    Returns:
        the first input i that is needed, and weights (bottom - top, n), float64, of the inputs i to i + n.
    """
    shape, width = _KERNELS[kernel]
    step = length / target
    stretch = max(step, 1.0)
    reach = width / 2 * stretch
    centres = (torch.arange(top, bottom, dtype=torch.float64) + 0.5) * step
    firsts = (centres - reach + 0.5).floor().clamp_min(0)
    ends = (centres + reach + 0.5).floor().clamp_max(length)
    first, end = int(firsts.min()), int(ends.max())
    inputs = torch.arange(first, end, dtype=torch.float64)
    weights = shape((centres[:, None] - inputs - 0.5) / stretch)
    weights *= (inputs >= firsts[:, None]) & (inputs < ends[:, None])
    return first, weights / weights.sum(1, keepdim=True)


def _torch(image: Tensor, size: tuple[int, int], kernel: Kernel, antialias: bool) -> Tensor:
    """``interpolate``; its antialiased kernels are Pillow's, too."""
    if kernel == "area":
        return F.interpolate(image, size, mode="area")
    if kernel == "nearest":
        return F.interpolate(image, size, mode="nearest-exact")
    if antialias and size[1] == 1:  # torch 2.13 fills a column with its first value
        return F.interpolate(image.mT, (1, size[0]), mode=kernel, align_corners=False, antialias=True).mT
    return F.interpolate(image, size, mode=kernel, align_corners=False, antialias=antialias)


def _pillow(image: Tensor, size: tuple[int, int], kernel: Kernel) -> Tensor:
    """Pillow itself, plane by plane in its float mode (no gradients)."""
    planes = image.detach().cpu().flatten(0, 1).contiguous().numpy()
    out = np.empty((len(planes), *size), dtype=np.float32)
    for plane, target in zip(planes, out, strict=True):
        target[:] = np.asarray(Image.fromarray(plane).resize((size[1], size[0]), _PILLOW[kernel]))
    return torch.from_numpy(out).unflatten(0, image.shape[:2]).to(image.device)


def _matlab(image: Tensor, size: tuple[int, int], kernel: Kernel, antialias: bool) -> Tensor:
    """MATLAB's ``imresize``: one axis after the other, the one that shrinks more first."""
    ratios = {axis: size[axis] / image.shape[axis] for axis in (-2, -1)}
    for axis in sorted(ratios, key=lambda a: ratios[a]):
        taps, weights = _matlab_weights(image.shape[axis], size[axis], kernel, antialias)
        image = _gather(image, axis, taps.to(image.device), weights.to(image))
    return image


def _matlab_weights(length: int, target: int, kernel: Kernel, antialias: bool) -> tuple[Tensor, Tensor]:
    """Which inputs, and how much of each, make an output: two (target, taps) tensors, int64 and float64."""
    shape, support = _KERNELS[kernel]
    scale = target / length
    stretch = 1 / scale if antialias and scale < 1 and kernel != "nearest" else 1.0
    support *= stretch
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centres - support / 2)
    taps = first[:, None] + torch.arange(math.ceil(support) + 2, dtype=torch.float64)
    weights = shape((centres[:, None] - taps) / stretch)
    weights = weights / weights.sum(1, keepdim=True)
    mirrored = torch.remainder(taps.long(), 2 * length)
    mirrored = torch.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    used = weights.abs().amax(0) > 0
    return mirrored[:, used], weights[:, used]


def _gather(image: Tensor, axis: int, taps: Tensor, weights: Tensor) -> Tensor:
    """Sum over k of weights[:, k] * image[taps[:, k]] along an axis, one tap at a time to bound memory."""
    shape = (-1, 1) if axis == -2 else (-1,)
    out = image.index_select(axis, taps[:, 0]) * weights[:, 0].reshape(shape)
    for k in range(1, taps.shape[1]):
        out.addcmul_(image.index_select(axis, taps[:, k]), weights[:, k].reshape(shape))
    return out


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5 (IEEE ASSP 29, 1981)."""
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, 0.0))


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_min(0)


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)


def _box(x: Tensor) -> Tensor:
    return ((x >= -0.5) & (x < 0.5)).to(x.dtype)


_KERNELS: Final[dict[Kernel, tuple[Callable[[Tensor], Tensor], float]]] = {
    "bicubic": (_cubic, 4.0),
    "bilinear": (_triangle, 2.0),
    "lanczos": (_lanczos, 6.0),
    "area": (_box, 1.0),
    "nearest": (_box, 1.0),
}
"""Kernel and the width of its support, in input pixels."""
