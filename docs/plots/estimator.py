"""Draw docs/assets/estimator.svg: scores of the degradation estimator against degradations of known strength.

    python docs/plots/estimator.py [--held-out TRAINING-FOLDER] [FOLDER...]

One crop of each picture (the middle, up to 512 pixels, reduced to a quarter by antialiased bicubic) is
degraded by one kind at a time, in ten strengths from 0 to 1, and rounded to 8 bits. Spearman's coefficient is
taken over all pictures and strengths of a kind together. Pictures: all of the folders; those that training
sets aside of a folder (every 20th); four of scikit-image. Needs the extras ``docs`` and ``demo``.

``--variants`` measures, in place of the five kinds, what else the page tells: resize without antialiasing,
JPEG whose blocks begin at the corner of the picture, and elsewhere; and how well strengths of both kinds of
resize are told by the share that is left of the energy of second differences, which takes the clean picture.
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from onestep.data import DataConfig, decode, files, keyed
from onestep.degrade import jpeg as codec
from onestep.degrade.chain import pick, uniform
from onestep.degrade.presets import preset
from onestep.degrade.strengths import BLUR, KINDS, degrade, resize
from onestep.estimates import estimate, load_estimator

ROOT = Path(__file__).parents[2]
STRENGTHS = [index / 9 for index in range(10)]
TITLES = {
    "gaussian-blur": "Gaussian blur (0 to 3 pixels)",
    "resize": "resize (to a quarter and back)",
    "gaussian-noise": "Gaussian noise (0 to 30 levels)",
    "poisson": "Poisson noise (scale 0 to 3)",
    "jpeg": "JPEG (none, quality 95 to 30)",
}


def pictures(folders: list[str], held_out: str | None) -> Iterator[tuple[str, Tensor]]:
    """Name and (3, H, W) in [0, 1]."""
    for folder in folders:
        for path in sorted(Path(folder).iterdir()):
            yield f"{folder}/{path.name}", decode(path).float() / 255
    if held_out is not None:
        from skimage import data

        for path in files(DataConfig(held_out), held_out=True):
            yield path.name, decode(path).float() / 255
        for name in ("astronaut", "coffee", "chelsea", "rocket"):
            yield name, torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1).float() / 255


def crop(image: Tensor) -> Tensor:
    """The middle, sides up to 512 and multiples of 4."""
    sides = [min(512, side // 4 * 4) for side in image.shape[1:]]
    top, left = ((length - side) // 2 for length, side in zip(image.shape[1:], sides, strict=True))
    return image[:, top : top + sides[0], left : left + sides[1]]


def measured(folders: list[str], held_out: str | None, weights: str | None) -> tuple[list[str], np.ndarray]:
    """Names, and scores (pictures, kinds, strengths, 2)."""
    net, reduce = load_estimator(Path(weights) if weights else None), preset("bicubic", 4)
    names: list[str] = []
    rows: list[list[list[tuple[float, float]]]] = []
    for name, image in pictures(folders, held_out):
        lr = reduce(crop(image), torch.Generator()).clamp(0, 1)
        rows.append([])
        for kind in KINDS:
            rows[-1].append([])
            for strength in STRENGTHS:
                generator = torch.Generator().manual_seed(keyed(name.rpartition("/")[2], kind, strength))
                spoilt = degrade(lr, {kind: strength}, generator)
                rows[-1][-1].append(estimate(net, ((spoilt * 255).round().clamp(0, 255) / 255)[None]))
        names.append(name)
        print(f"{len(names)} {name}", end="\r", flush=True)
    return names, np.array(rows)


def plain_resize(image: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """To 1 - 3/4 strength of the sides without antialiasing, and back, each in a mode at random."""
    size = (image.shape[-2], image.shape[-1])
    small = tuple(max(1, round(side * (1 - 0.75 * strength))) for side in size)
    down = ("area", "bilinear", "bicubic")[pick(generator, (1.0, 1.0, 1.0))]
    up = ("bilinear", "bicubic")[pick(generator, (1.0, 1.0))]
    if small == size:
        return image
    reduced = functional.interpolate(image[None], size=small, mode=down)
    return functional.interpolate(reduced, size=size, mode=up)[0].clamp(0, 1)


def jpeg(image: Tensor, strength: float, generator: torch.Generator, cut: bool) -> Tensor:
    """JPEG as of the kind, with blocks that begin at the corner, or 1 to 7 pixels before it."""
    if strength <= 0:
        return image
    top, left = (1 + int(uniform(generator, 0.0, 7.0)) if cut else 0 for _ in range(2))
    framed = functional.pad(image.clamp(0, 1)[None], (left, 0, top, 0), mode="replicate")[0]
    return codec.jpeg(framed, 95 - 65 * strength)[:, top:, left:]


def energy(image: Tensor) -> float:
    """Of second differences along both sides."""
    return sum(float(torch.diff(image, 2, side).square().mean()) for side in (-2, -1))


def variants(folders: list[str], held_out: str | None, weights: str | None) -> dict[str, float]:
    """Coefficients of what is not among the kinds."""
    net, reduce = load_estimator(Path(weights) if weights else None), preset("bicubic", 4)
    ways = {
        "resize": resize,
        "resize, not antialiased": plain_resize,
        "jpeg at the corner": partial(jpeg, cut=False),
        "jpeg elsewhere": partial(jpeg, cut=True),
    }
    found: dict[str, list[float]] = {}
    for name, image in pictures(folders, held_out):
        lr = reduce(crop(image), torch.Generator()).clamp(0, 1)
        for way, spoil in ways.items():
            for strength in STRENGTHS:
                generator = torch.Generator().manual_seed(keyed(name.rpartition("/")[2], way, strength))
                spoilt = ((spoil(lr, strength, generator) * 255).round().clamp(0, 255) / 255)[None]
                scores = estimate(net, spoilt)
                found.setdefault(way, []).append(scores["jpeg" in way])
                if "resize" in way:
                    found.setdefault(f"{way}, by energy", []).append(-energy(spoilt) / energy(lr))
    count = len(found["resize"]) // len(STRENGTHS)
    return {way: float(spearmanr(STRENGTHS * count, values).statistic) for way, values in found.items()}


def coefficients(scores: np.ndarray) -> dict[str, dict[str, float]]:
    """Kind -> Spearman's coefficient of its own score, of the other, and the median over single pictures."""
    found: dict[str, dict[str, float]] = {}
    for index, kind in enumerate(KINDS):
        own = 0 if kind in BLUR else 1
        strengths = np.tile(STRENGTHS, len(scores))
        single = [spearmanr(STRENGTHS, one[index, :, own]).statistic for one in scores]
        found[kind] = {
            "own": float(spearmanr(strengths, scores[:, index, :, own].ravel()).statistic),
            "other": float(spearmanr(strengths, scores[:, index, :, 1 - own].ravel()).statistic),
            "one picture": float(np.median(single)),
        }
    return found


def draw(scores: np.ndarray, found: dict[str, dict[str, float]], file: Path) -> None:
    """Median and middle half of both scores, per kind."""
    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "estimator", "font.size": 9, "axes.spines.top": False})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(9, 5.2), layout="constrained", sharex=True, sharey=True)
    for index, (kind, at) in enumerate(zip(KINDS, axes.flat, strict=False)):
        own = 0 if kind in BLUR else 1
        for column, label, color in ((0, "blur score", "C0"), (1, "noise score", "C1")):
            low, middle, high = np.percentile(scores[:, index, :, column], (25, 50, 75), axis=0)
            style = "-" if column == own else "--"
            at.plot(STRENGTHS, middle, style, color=color, label=label)
            at.fill_between(STRENGTHS, low, high, color=color, alpha=0.2, linewidth=0)
        at.set(title=TITLES[kind], xlim=(0, 1), ylim=(0, 1))
        at.text(0.04, 0.9, f"Spearman {found[kind]['own']:.3f}", transform=at.transAxes)
        at.spines["right"].set_visible(False)
        at.grid(alpha=0.25)
    axes[1, 2].axis("off")
    axes[1, 2].legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, loc="center")
    figure.supxlabel("strength")
    figure.supylabel("score")
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--held-out")
    parser.add_argument("--estimator")
    parser.add_argument("--drawing", default=str(ROOT / "docs" / "assets" / "estimator.svg"))
    parser.add_argument("--scores", help="where to write, or to read when it is there, all scores (npz)")
    parser.add_argument("--variants", action="store_true", help="what is not among the kinds; draws nothing")
    parser.add_argument("--report", help="where to write the coefficients (json)")
    asked = parser.parse_args()
    if not (asked.folders or asked.held_out):
        parser.error("no pictures: name folders, or --held-out")
    if asked.variants:
        print(json.dumps(variants(asked.folders, asked.held_out, asked.estimator), indent=1))
        return
    if asked.scores and Path(asked.scores).is_file():
        held = np.load(asked.scores)
        names, scores = list(held["names"]), held["scores"]
    else:
        names, scores = measured(asked.folders, asked.held_out, asked.estimator)
        if asked.scores:
            np.savez(asked.scores, names=names, scores=scores)
    found = coefficients(scores)
    first = sum(name.startswith(tuple(asked.folders)) for name in names)
    print(f"{len(names)} pictures; {first} of them in the folders")
    print(json.dumps({"all": found} | ({"folders": coefficients(scores[:first])} if first else {}), indent=1))
    if asked.report:
        own = {
            kind: {"blur" if kind in BLUR else "noise": round(one["own"], 3)} for kind, one in found.items()
        }
        Path(asked.report).write_text(json.dumps(own, indent=1), "utf-8")
    draw(scores, found, Path(asked.drawing))


if __name__ == "__main__":
    main()
