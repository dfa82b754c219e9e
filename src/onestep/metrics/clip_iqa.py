"""CLIP-IQA (Wang, Chan and Loy, 2023; arXiv:2207.12396) with a vision transformer: is this a good photo?

The score is the probability that CLIP gives the text "Good photo." against "Bad photo." Published values
come from CLIP's ResNet-50 without its position embedding, which transformers does not have; this metric has
the network in its name, and its values compare with each other alone. The vision transformer sees windows of
224x224 pixels at full resolution that cover the picture, overlapping as little as they can; the score is the
mean over windows. Pictures with a shorter side are enlarged to it (bicubic).
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from onestep.core.resize import resize
from onestep.networks.backbones import Clip

PROMPTS = ("Good photo.", "Bad photo.")
_BATCH = 16
"""Windows that pass the network at a time: memory does not grow with the picture."""


def clip_iqa(device: torch.device) -> Callable[[Tensor], Tensor]:
    """A scorer for images (B, 3, H, W) in [0, 1]; it returns (B,), 0 (bad) to 1 (good).

    Raises:
        InputError: (at once) transformers or the files of CLIP are not on this machine.
    """
    return scorer(Clip.load("clip-vit-base-patch16", "openai/clip-vit-base-patch16").to(device))


def scorer(clip: Clip) -> Callable[[Tensor], Tensor]:
    """The metric with any CLIP."""
    with torch.inference_mode():
        texts = clip.texts(PROMPTS)

    def one(image: Tensor) -> Tensor:
        batches = torch.stack(list(windows(image, clip.side))).split(_BATCH)
        good = [
            (clip.sharpness * clip.images(batch * 2 - 1) @ texts.T).softmax(dim=1)[:, 0] for batch in batches
        ]
        return torch.cat(good).mean()

    def score(image: Tensor) -> Tensor:
        with torch.inference_mode():
            return torch.stack([one(each) for each in image.to(texts.device).float()])

    return score


def windows(image: Tensor, side: int) -> Iterator[Tensor]:
    """Square windows that cover an image (3, H, W), evenly spaced, row by row."""
    height, width = image.shape[-2:]
    if min(height, width) < side:
        grow = side / min(height, width)
        size = max(side, round(height * grow)), max(side, round(width * grow))
        image = resize(image[None], size)[0].clamp(0, 1)
        height, width = size
    for top in _starts(height, side):
        for left in _starts(width, side):
            yield image[:, top : top + side, left : left + side]


def _starts(length: int, side: int) -> list[int]:
    count = math.ceil(length / side)
    return [round(index * (length - side) / max(1, count - 1)) for index in range(count)]
