"""Blur kernels of the two-stage pipelines: three Gaussian families and the circular low-pass.

Every kernel is a float32 tensor (size, size) with sum 1, computed in float64, and point-symmetric about its
centre (so convolution and correlation agree). ``size`` is odd, lengths are pixels of the image the kernel is
applied to.

With q(x) = x' S^-1 x and S = R(angle) diag(sigma_x^2, sigma_y^2) R(angle)', the families are

- Gaussian: exp(-q / 2)
- generalised Gaussian: exp(-q^beta / 2)
- plateau: 1 / (1 + q^beta)

An isotropic kernel has sigma_x = sigma_y. Source: Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833).
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from onestep.core.errors import UsageError

_Array = npt.NDArray[np.float64]


def gaussian(size: int, sigma_x: float, sigma_y: float | None = None, angle: float = 0.0) -> Tensor:
    """Gaussian kernel, exp(-q / 2) normalised.

    Args:
        size: Odd side in pixels.
        sigma_x: Standard deviation along the first axis of the ellipse, in pixels.
        sigma_y: Standard deviation along the second axis; ``sigma_x`` when not given.
        angle: Rotation of the ellipse in radians.

    Returns:
        Tensor (size, size), sum 1.

    Raises:
        UsageError: ``size`` is even or not positive, or a sigma is not positive.
    """
    return _normalised(np.exp(-0.5 * _quadratic(size, sigma_x, sigma_y, angle)))


def generalized(
    size: int, sigma_x: float, sigma_y: float | None = None, angle: float = 0.0, *, beta: float
) -> Tensor:
    """Generalised Gaussian kernel, exp(-q^beta / 2) normalised; ``beta`` 1 is the Gaussian.

    Args:
        size: Odd side in pixels.
        sigma_x: Standard deviation along the first axis, in pixels.
        sigma_y: Along the second axis; ``sigma_x`` when not given.
        angle: Rotation in radians.
        beta: Shape, above 0: below 1 peaked with long tails, above 1 flatter.

    Returns:
        Tensor (size, size), sum 1.

    Raises:
        UsageError: ``size`` is even or not positive, or a sigma is not positive.
    """
    return _normalised(np.exp(-0.5 * _quadratic(size, sigma_x, sigma_y, angle) ** beta))


def plateau(
    size: int, sigma_x: float, sigma_y: float | None = None, angle: float = 0.0, *, beta: float
) -> Tensor:
    """Plateau kernel, 1 / (1 + q^beta) normalised.

    Args:
        size: Odd side in pixels.
        sigma_x: Scale along the first axis, in pixels.
        sigma_y: Along the second axis; ``sigma_x`` when not given.
        angle: Rotation in radians.
        beta: Shape, above 0: the larger, the flatter the top.

    Returns:
        Tensor (size, size), sum 1.

    Raises:
        UsageError: ``size`` is even or not positive, or a sigma is not positive.
    """
    return _normalised(1.0 / (1.0 + _quadratic(size, sigma_x, sigma_y, angle) ** beta))


def sinc(size: int, cutoff: float) -> Tensor:
    """Circular (two-dimensional) ideal low-pass, w J1(w r) / (2 pi r) with centre w^2 / (4 pi), normalised.

    It gives the ringing and overshoot of sharpened or recompressed pictures.

    Args:
        size: Odd side in pixels.
        cutoff: Cut-off frequency w in radians per pixel, in (0, pi].

    Returns:
        Tensor (size, size), sum 1; entries may be negative.

    Raises:
        UsageError: ``size`` is even or not positive.
    """
    x, y = _grid(size)
    r = np.hypot(x, y)
    away = np.where(r == 0, 1.0, r)
    values = cutoff * special.j1(cutoff * away) / (2 * math.pi * away)
    return _normalised(np.where(r == 0, cutoff**2 / (4 * math.pi), values))


def zero_pad(kernel: Tensor, size: int) -> Tensor:
    """Centre a kernel (k, k) in zeros of side ``size``; a convolution with it is unchanged.

    Raises:
        UsageError: ``size`` is smaller than the kernel, or of the other parity.
    """
    margin, odd = divmod(size - kernel.shape[-1], 2)
    if margin < 0 or odd:
        raise UsageError(
            f"a kernel of side {kernel.shape[-1]} cannot be centred in {size}: use a larger odd size"
        )
    return functional.pad(kernel, (margin, margin, margin, margin))


def convolve(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel of (3, H, W) with one point-symmetric kernel (k, k), k odd; reflected borders.

    Done with a Fourier transform, exact to float32 rounding and the fastest way here for kernels above 7. The
    border is reflected as often as the kernel reaches, so a picture may be smaller than the kernel.
    """
    reach = kernel.shape[-1] // 2
    height, width = image.shape[-2:]
    rows, columns = _reflected(height, reach), _reflected(width, reach)
    padded = image.index_select(-2, rows).index_select(-1, columns)
    size = [next_fast_len(side + 2 * reach, real=True) for side in (height, width)]
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernel, s=size)
    full = torch.fft.irfft2(spectrum, s=size)
    return full[..., 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]


def _grid(size: int) -> tuple[_Array, _Array]:
    if size < 1 or size % 2 == 0:
        raise UsageError(f"kernel size {size} is not an odd positive number")
    axis = np.arange(size, dtype=np.float64) - size // 2
    return axis[None, :], axis[:, None]


def _quadratic(size: int, sigma_x: float, sigma_y: float | None, angle: float) -> _Array:
    """q(x) = x' S^-1 x on the grid of a kernel."""
    sigma_y = sigma_x if sigma_y is None else sigma_y
    if sigma_x <= 0 or sigma_y <= 0:
        raise UsageError(f"kernel sigma ({sigma_x}, {sigma_y}) must be positive")
    x, y = _grid(size)
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def _normalised(values: _Array) -> Tensor:
    return torch.from_numpy(values / values.sum()).to(torch.float32)


def _reflected(length: int, reach: int) -> Tensor:
    """Indices -reach .. length + reach - 1 folded into 0 .. length - 1 by reflection at the end pixels."""
    index = torch.arange(-reach, length + reach)
    period = max(1, 2 * (length - 1))
    index = index.remainder(period)
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)
