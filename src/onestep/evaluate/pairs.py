"""What there is to score: pairs of an SR picture and its HR partner, matched by name, made one at a time."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onestep import data
from onestep.core.errors import UsageError
from onestep.core.picture import Picture, read
from onestep.degrade.chain import Degradation

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

Restore = Callable[[Picture], Picture]
"""LR picture -> SR picture."""


@dataclass(frozen=True)
class Pair:
    """One picture to score."""

    name: str
    hr: Path
    restored: Callable[[Picture], tuple[Picture, float | None]]
    """HR picture -> (SR picture, seconds it took to restore); HR is for those who degrade it themselves.

    Of a finished picture nobody knows the seconds: None.
    """


def pictures(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their stem, sorted.

    Raises:
        UsageError: It is no folder, or holds none, or two of the same name.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS)
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise UsageError(
                f"{folder}: {found[file.stem].name} and {file.name} have the same name; keep one"
            )
        found[file.stem] = file
    if not found:
        raise UsageError(f"{folder}: no pictures; looked for {', '.join(EXTENSIONS)}")
    return found


def partners(
    ours: Path, hr: Path, what: Literal["SR", "LR"]
) -> tuple[dict[str, tuple[Path, Path]], dict[str, str]]:
    """Pair two folders by name: (name -> (ours, HR), name -> what is missing).

    An SR picture without partner may carry its factor, as ``upscale`` names it: ``cat_x4`` goes with ``cat``.
    """
    left, right = pictures(ours), pictures(hr)
    if what == "SR":
        left = _without_factor(left, right)
    both = {name: (left[name], right[name]) for name in left if name in right}
    alone = {name: f"{left[name]}: has no HR partner in {hr}" for name in left if name not in right}
    alone |= {name: f"{right[name]}: has no {what} partner in {ours}" for name in right if name not in left}
    return both, dict(sorted(alone.items()))


def _without_factor(ours: dict[str, Path], hr: dict[str, Path]) -> dict[str, Path]:
    """Our pictures by the name of their HR partner, where only the factor at the end keeps them apart."""
    named = {name: file for name, file in ours.items() if name in hr}
    for name, file in ours.items():
        short = re.sub(r"_x\d+(\.\d+)?$", "", name)
        if name not in hr:
            named[short if short in hr and short not in named else name] = file
    return dict(sorted(named.items()))


def finished(sr: Path, hr: Path) -> tuple[list[Pair], dict[str, str]]:
    """Pairs of finished pictures, and those without a partner."""
    both, alone = partners(sr, hr, "SR")

    def pair(name: str, file: Path, truth: Path) -> Pair:
        return Pair(name, truth, lambda _: (read(file), None))

    return [pair(name, *files) for name, files in both.items()], alone


def restored(lr: Path, hr: Path, restore: Restore) -> tuple[list[Pair], dict[str, str]]:
    """Pairs whose SR is restored from a folder of LR pictures, and those without a partner."""
    both, alone = partners(lr, hr, "LR")

    def pair(name: str, file: Path, truth: Path) -> Pair:
        return Pair(name, truth, lambda _: _timed(restore, read(file)))

    return [pair(name, *files) for name, files in both.items()], alone


def degraded(hr: Path, degrade: Degradation, restore: Restore, seed: int = 0) -> list[Pair]:
    """Pairs whose LR is made from HR by ``onestep.data.degraded``, as ``onestep degrade`` makes it."""

    def pair(name: str, truth: Path) -> Pair:
        return Pair(name, truth, lambda picture: _timed(restore, data.degraded(picture, degrade, seed, name)))

    return [pair(name, file) for name, file in pictures(hr).items()]


def _timed(restore: Restore, picture: Picture) -> tuple[Picture, float]:
    start = time.perf_counter()
    return restore(picture), time.perf_counter() - start
