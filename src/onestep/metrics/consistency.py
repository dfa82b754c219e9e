"""LR-consistency: does the result, made small again, give the picture that it was made from?

A restored picture may invent detail, but not contradict its input. The result is reduced to the size of the
input by antialiased bicubic resizing (MATLAB's, a = -0.5), rounded to 8 bit, and compared with the input by
PSNR. Of pictures that were reduced that way the true HR image scores 80 dB, the highest value; of pictures
that were spoilt in another way, or taken small by a camera, nothing reaches that, and scores of several
models on the same pictures can be compared with each other alone. After Lugmayr et al., "NTIRE 2021 Learning
the Super-Resolution Space Challenge" (LR-PSNR), which wants at least 45 dB.
"""

from torch import Tensor

from onestep.core.errors import InputError
from onestep.core.resize import resize
from onestep.metrics.checks import check_image
from onestep.metrics.pixel import psnr


def lr_consistency(sr: Tensor, lr: Tensor) -> Tensor:
    """PSNR in dB between the input and the reduced result, over all channels: (B,), at most 80.

    Args:
        sr: (B, 3, H, W) in [0, 1], the whole result: nothing cut from its sides.
        lr: (B, 3, h, w) in [0, 1], what it was restored from.

    Raises:
        InputError: the result is no enlargement of the input, or shows another section.
    """
    check_image(sr)
    check_image(lr)
    factors = [large / small for large, small in zip(sr.shape[-2:], lr.shape[-2:], strict=True)]
    height, width = lr.shape[-2:]
    off = abs(factors[0] - factors[1]) * min(height, width)  # in pixels of the result; rounding makes up to 1
    if sr.shape[0] != lr.shape[0] or min(factors) < 1 or off > 1.001:
        sizes = f"{sr.shape[-1]}x{sr.shape[-2]} and {width}x{height}"
        raise InputError(f"LR-consistency needs a result and the whole input that it enlarges, not {sizes}")
    reduced = resize(sr.float(), (height, width), "bicubic", convention="matlab")
    return psnr((reduced.clamp(0, 1) * 255).round() / 255, lr.float())
