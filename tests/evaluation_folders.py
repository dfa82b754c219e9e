"""Folders of pictures to score, and what restores them without weights."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as photographs

from onestep.core.picture import Picture
from onestep.core.resize import resize
from onestep.evaluate import Candidate, Entrant, Restored


def photograph(top=0, height=64, width=96):
    """A part of a photograph, (height, width, 3) uint8."""
    return photographs.astronaut()[top : top + height, :width]


def noisy(picture, deviation, seed=0):
    """A picture with noise of that deviation, in 8-bit levels."""
    rng = np.random.default_rng(seed)
    return np.clip(picture.astype(float) + rng.normal(0, deviation, picture.shape), 0, 255).astype(np.uint8)


def put(path: Path, array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_folders(root: Path, count=3, height=64, width=96) -> Path:
    """HR crops of a photograph, noisy SR copies of them, and LR by Pillow's bicubic x4."""
    for index in range(count):
        crop = photograph(16 * index, height, width)
        put(root / "hr" / f"p{index}.png", crop)
        put(root / "sr" / f"p{index}.png", noisy(crop, 4 + index, index))
        small = Image.fromarray(crop).resize((width // 4, height // 4), Image.Resampling.BICUBIC)
        put(root / "lr" / f"p{index}.png", np.asarray(small))
    return root


def enlarged(picture: Picture, scale=4) -> Restored:
    """Bicubic, as Pillow has it."""
    size = (picture.height * scale, picture.width * scale)
    return Restored(Picture(resize(picture.rgb, size, "bicubic", convention="pillow").clamp(0, 1)))


def bicubic(name="enlarged", restore=enlarged) -> Candidate:
    return Candidate(Entrant(name, model=name), restore, scale=4)


def without_seconds(report):
    """The JSON of a report without what differs from run to run."""

    def plain(entrant):
        rows = [{k: v for k, v in row.items() if k not in ("seconds", "memory")} for row in entrant["images"]]
        drop = ("seconds", "seconds_per_picture", "peak_memory", "workers", "command", "others", "images")
        return {k: v for k, v in entrant.items() if k not in drop} | {"images": rows}

    values = report if isinstance(report, dict) else report.to_json()
    values = json.loads(json.dumps(values))
    return [plain(one) for one in (values, *values.get("others", ()))]
