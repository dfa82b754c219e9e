"""Which picture is compared with which: folders paired by name, and nothing read yet."""

import re
from dataclasses import dataclass
from pathlib import Path

from onestep.core.errors import UsageError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """The files of one picture."""

    name: str
    hr: Path
    sr: Path | None = None
    """The finished picture; None where a model restores one."""
    lr: Path | None = None
    """The small picture; None where it is made from HR, or nobody asks for it."""


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


def finished(sr: Path, hr: Path, lr: Path | None = None) -> tuple[list[Pair], dict[str, str]]:
    """Pairs of finished pictures, and of those that lack a partner: name -> what is missing.

    An SR picture without partner may carry its factor, as ``upscale`` names it: ``cat_x4`` goes with ``cat``.

    Args:
        sr: The folder of finished pictures.
        hr: The folder of true ones.
        lr: The folder of small ones, for metrics that need them; each pair must have one.

    Raises:
        UsageError: A folder is missing or empty, or holds two pictures of one name.
    """
    named, truth = pictures(sr), pictures(hr)
    ours, alone = _both(_without_factor(named, truth), truth, ("SR", sr), ("HR", hr))
    if lr is None:
        return [Pair(name, truth[name], sr=ours[name]) for name in ours], alone
    kept = {name: truth[name] for name in ours}
    small = {name: file for name, file in pictures(lr).items() if name in kept or name not in truth}
    both, lonely = _both(small, kept, ("LR", lr), ("HR", hr))
    return [Pair(name, truth[name], sr=ours[name], lr=both[name]) for name in both], {**alone, **lonely}


def restored(lr: Path, hr: Path) -> tuple[list[Pair], dict[str, str]]:
    """Pairs whose SR is restored from a folder of LR pictures, and those without a partner.

    Raises:
        UsageError: As :func:`finished`.
    """
    found, truth = pictures(lr), pictures(hr)
    small, alone = _both(found, truth, ("LR", lr), ("HR", hr))
    return [Pair(name, truth[name], lr=small[name]) for name in small], alone


def degraded(hr: Path) -> list[Pair]:
    """Pairs whose LR is made from HR.

    Raises:
        UsageError: As :func:`finished`.
    """
    return [Pair(name, file) for name, file in pictures(hr).items()]


def _both(
    ours: dict[str, Path], truth: dict[str, Path], our: tuple[str, Path], their: tuple[str, Path]
) -> tuple[dict[str, Path], dict[str, str]]:
    """Those of ours that have a partner, and what the others lack."""
    both = {name: file for name, file in ours.items() if name in truth}
    alone = {
        name: f"{ours[name]}: has no {their[0]} partner in {their[1]}" for name in ours if name not in both
    }
    alone |= {
        name: f"{truth[name]}: has no {our[0]} partner in {our[1]}" for name in truth if name not in ours
    }
    return both, dict(sorted(alone.items()))


def _without_factor(ours: dict[str, Path], hr: dict[str, Path]) -> dict[str, Path]:
    """Our pictures by the name of their HR partner, where only the factor at the end keeps them apart."""
    named = {name: file for name, file in ours.items() if name in hr}
    for name, file in ours.items():
        short = re.sub(r"_x\d+(\.\d+)?$", "", name)
        if name not in hr:
            named[short if short in hr and short not in named else name] = file
    return dict(sorted(named.items()))
