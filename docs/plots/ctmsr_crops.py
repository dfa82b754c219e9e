"""Draw docs/assets/ctmsr-crops.webp: three compact models trained with one budget, side by side.

Pictures: astronaut, coffee and chelsea of scikit-image, spoiled by the preset ``resshift`` with seed 0.
Columns: bicubic, regression, consistency training, the same with matching, the truth.
``python docs/plots/ctmsr_crops.py REGRESSION CT FULL [FILE]`` (release files; needs scikit-image).
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from onestep import Upscaler
from onestep.core.picture import as_picture
from onestep.data import degraded
from onestep.degrade.presets import preset

ROOT = Path(__file__).parents[2]
CROPS = {"astronaut": (0, 132), "coffee": (60, 200), "chelsea": (40, 96)}
"""Top and left corner of what is shown, in HR pixels."""
SIDE = 192


def pixels(image: torch.Tensor, top: int, left: int) -> np.ndarray:
    """The shown part of (1, 3, H, W) in [0, 1], 8 bit."""
    shown = image[0, :, top : top + SIDE, left : left + SIDE]
    return (shown.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def draw(models: list[str], file: Path) -> None:
    """Restore and write."""
    columns = [Upscaler.load(name) for name in ("bicubic", *models)]
    spoil = preset("resshift", 4)
    rows = []
    for name, (top, left) in CROPS.items():
        photo = getattr(data, name)()
        sides = [side // 4 * 4 for side in photo.shape[:2]]
        picture = as_picture(photo[: sides[0], : sides[1]])
        small = degraded(picture, spoil, 0, name)
        results = [upscaler(small).rgb for upscaler in columns]
        rows.append(np.concatenate([pixels(one, top, left) for one in (*results, picture.rgb)], 1))
    Image.fromarray(np.concatenate(rows)).save(file, quality=90)


if __name__ == "__main__":
    target = Path(sys.argv[4]) if len(sys.argv) > 4 else ROOT / "docs" / "assets" / "ctmsr-crops.webp"
    draw(sys.argv[1:4], target)
    print(target)
