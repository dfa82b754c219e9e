"""What a model sees of a picture, sRGB colours that can all be seen, and the way back to the picture's own.

A wide gamut does not fit into sRGB, and colours that are all but transparent would bleed over an edge. What a
model cannot be shown, the rest, travels beside it: it is resized plainly, weighted by alpha, and added again
at the end. So nothing is lost: a model that returns what it sees returns the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from onestep.core.picture import Picture, painted
from onestep.core.profile import Profile, profile_of
from onestep.core.resize import resize

_VISIBLE: Final = 0.5
"""Alpha below which a colour is drawn towards the nearest that is better to see, the more the fainter it is:
by alpha squared, less than its share of what is shown."""
_NOTHING: Final = 2e-6
"""A rest nowhere larger than this is rounding."""
_STRIP: Final = 256
"""Rows converted at a time, which bounds memory."""


@dataclass(frozen=True)
class Working:
    """A picture as a model sees it."""

    rgb: Tensor
    """(1, 3, h, w), sRGB in [0, 1]."""
    profile: Profile | None = None
    """Where the picture's own colours are others."""
    rest: Tensor | None = None
    """(1, 3, h, w): own colours minus those that come back, times alpha if there is any."""
    alpha: Tensor | None = None
    """(1, 1, h, w), where there is a rest of a picture with alpha."""

    def finish(self, picture: Picture, image: Tensor, size: tuple[int, int]) -> Picture:
        """What a model made of a picture, as a picture of the same kind.

        Args:
            picture: what this is the working copy of.
            image: (1, 3, H, W), sRGB in [0, 1], of any size.
            size: (height, width) of the result.
        """
        if tuple(image.shape[-2:]) != size:
            image = resize(image, size).clamp_(0, 1)
        own = self.back(image)
        if picture.grey:
            own = own.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        alpha = None if picture.alpha is None else resize(picture.alpha, size).clamp_(0, 1)
        return replace(picture, rgb=own, alpha=alpha)

    def back(self, rgb: Tensor) -> Tensor:
        """(1, 3, H, W) of sRGB, of any size, to the picture's own colours, in [0, 1]."""
        profile = self.profile
        own = rgb if profile is None else _in_strips(profile.from_srgb, rgb)
        if self.rest is None:
            return own
        size = (rgb.shape[-2], rgb.shape[-1])
        rest = resize(self.rest, size)
        if self.alpha is not None:
            rest /= resize(self.alpha, size).clamp_min_(1e-5)
        return rest.add_(own).clamp_(0, 1)


def working(picture: Picture) -> Working:
    """What a model shall see of a picture."""
    rgb, alpha, profile = picture.rgb, picture.alpha, profile_of(picture.icc)
    seen = rgb if alpha is None else _without_faint_colors(rgb, alpha)
    if profile is None and seen is rgb:
        return Working(rgb)
    shown = seen if profile is None else _in_strips(profile.to_srgb, seen)
    rest = rgb - (shown if profile is None else _in_strips(profile.from_srgb, shown))
    if float(rest.abs().max()) < _NOTHING:
        return Working(shown, profile)
    if alpha is None:
        return Working(shown, profile, rest)
    return Working(shown, profile, rest.mul_(alpha), alpha)


def _without_faint_colors(rgb: Tensor, alpha: Tensor) -> Tensor:
    """The colours, those of almost transparent pixels the more like the nearest well visible one."""
    plain = alpha[0, 0].cpu()
    if not bool(((plain > 0) & (plain < _VISIBLE)).any()):
        return rgb
    share = (alpha / _VISIBLE).clamp_(0, 1) ** 2
    return torch.lerp(painted(rgb, plain >= _VISIBLE), rgb, share)


def _in_strips(convert: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    out = torch.empty_like(image, memory_format=torch.contiguous_format)
    for top in range(0, image.shape[-2], _STRIP):
        out[..., top : top + _STRIP, :] = convert(image[..., top : top + _STRIP, :])
    return out
