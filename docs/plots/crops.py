"""Lay what several models make of the same spoiled photographs side by side.

    python docs/plots/crops.py FILE MODEL... [--preset resshift] [--side 192]

Pictures: astronaut, coffee and chelsea of scikit-image, spoiled by a preset with seed 0. Columns: the
models in the order given (names, release files, or either with options: ``FILE,guidance=1``), then the
truth. Those of the pages:

    crops.py docs/assets/ctmsr-crops.webp bicubic REGRESSION CT FULL --preset resshift
    crops.py docs/assets/osediff-crops.webp bicubic PLAIN VSD --preset osediff
    crops.py docs/assets/s3diff-crops.webp bicubic PLAIN GATED BEGUN-PLAIN FULL,guidance=1 --preset realesrgan
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from onestep import Upscaler
from onestep.core.picture import as_picture
from onestep.data import degraded
from onestep.degrade.presets import preset

CROPS = {"astronaut": (0, 132), "coffee": (60, 200), "chelsea": (40, 96)}
"""Top and left corner of what is shown, in HR pixels."""


def pixels(image: torch.Tensor, top: int, left: int, side: int) -> np.ndarray:
    """The shown part of (1, 3, H, W) in [0, 1], 8 bit."""
    shown = image[0, :, top : top + side, left : left + side]
    return (shown.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def column(words: str) -> tuple[Upscaler, dict[str, float]]:
    """A model and its options, which are numbers, from ``NAME,option=value,...``."""
    name, *options = words.split(",")
    pairs = (option.split("=", 1) for option in options)
    return Upscaler.load(name), {option: float(value) for option, value in pairs}


def draw(given: argparse.Namespace) -> None:
    """Restore and write."""
    columns = [column(words) for words in given.models]
    spoil = preset(given.preset, 4)
    rows: list[np.ndarray] = []
    for name, (top, left) in CROPS.items():
        photo = getattr(data, name)()
        sides = [side // 4 * 4 for side in photo.shape[:2]]
        picture = as_picture(photo[: sides[0], : sides[1]])
        small = degraded(picture, spoil, 0, name)
        results = [upscaler(small, **options).rgb for upscaler, options in columns]
        shown = [pixels(one, top, left, given.side) for one in (*results, picture.rgb)]
        rows.append(np.concatenate(shown, 1))
    Image.fromarray(np.concatenate(rows)).save(given.file, quality=90)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--preset", default="resshift")
    parser.add_argument("--side", type=int, default=192)
    draw(parser.parse_args())


if __name__ == "__main__":
    main()
