"""What images must be for a metric to mean anything: one line each where they are not."""

from collections.abc import Callable

import torch
from torch import Tensor

from onestep.core.errors import InputError

_LARGEST = 2.0
"""No result in [0, 1] overshoots this far; 8-bit and 16-bit values do."""


def check_image(image: Tensor) -> None:
    """Refuse what is not (B, 3, H, W), real, finite and in [0, 1] (a little overshoot is let through).

    Raises:
        InputError: The line says what is wrong.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise InputError(
            f"metrics take images (B, 3, H, W), not {tuple(image.shape)}; grey ones need 3 channels"
        )
    if not image.is_floating_point():
        raise InputError(f"metrics take values in [0, 1], not {str(image.dtype).removeprefix('torch.')}")
    if image.numel() == 0:
        raise InputError(f"the image is empty: {tuple(image.shape)}")
    low, high = (float(value) for value in torch.aminmax(image.detach()))
    if not -_LARGEST < low <= high < _LARGEST:  # false for values that are not numbers, too
        raise InputError(_wrong_values(image, low, high))


def check_pair(sr: Tensor, hr: Tensor) -> None:
    """Refuse two images that are not the same size, or of which one is no image.

    Raises:
        InputError: The line says what is wrong.
    """
    check_image(sr)
    check_image(hr)
    if sr.shape != hr.shape:
        raise InputError(f"two images of one size are compared, not {tuple(sr.shape)} and {tuple(hr.shape)}")


def of_image(measure: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A measure of one image that refuses what is none."""

    def checked(image: Tensor) -> Tensor:
        check_image(image)
        return measure(image)

    return checked


def of_pair(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A measure of two images that refuses what are none, or not of one size."""

    def checked(sr: Tensor, hr: Tensor) -> Tensor:
        check_pair(sr, hr)
        return measure(sr, hr)

    return checked


def _wrong_values(image: Tensor, low: float, high: float) -> str:
    if not bool(torch.isfinite(image).all()):
        return "the image holds values that are not numbers"
    return f"metrics take values in [0, 1]; these run from {low:.4g} to {high:.4g}"
