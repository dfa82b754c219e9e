"""Which picture is compared with which: folders paired by name, and nothing read yet."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from onestep.core.errors import InputError, UsageError

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


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder."""

    what: str
    """HR, SR or LR."""
    path: Path
    files: dict[str, Path]
    """By stem, sorted."""
    doubtful: dict[str, str]
    """Stem -> why nobody can say which file is meant."""


def pictures(what: str, folder: Path) -> Folder:
    """The pictures of a folder.

    Raises:
        UsageError: There is no such folder.
        InputError: It holds no pictures.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS)
    if not files:
        raise InputError(f"{folder}: no pictures; looked for {', '.join(EXTENSIONS)}")
    found: dict[str, Path] = {}
    doubtful: dict[str, str] = {}
    for file in files:
        if file.stem in found:
            first = found[file.stem].name
            doubtful[file.stem] = f"{folder}: {first} and {file.name} have the same name; keep one"
        found.setdefault(file.stem, file)
    return Folder(what, folder, found, doubtful)


def finished(sr: Path, hr: Path, lr: Path | None = None) -> tuple[list[Pair], dict[str, str]]:
    """Pairs of finished pictures, and what cannot be paired: name -> why.

    An SR picture without partner may carry its factor, as ``upscale`` names it: ``cat_x4`` goes with ``cat``.

    Args:
        sr: The folder of finished pictures.
        hr: The folder of true ones.
        lr: The folder of small ones, for metrics that need them; each pair must have one.

    Raises:
        UsageError: A folder is missing.
        InputError: A folder holds no pictures.
    """
    ours, truth = pictures("SR", sr), pictures("HR", hr)
    ours = replace(ours, files=_without_factor(ours.files, truth.files))
    names, why = _both(ours, truth)
    if lr is None:
        return [Pair(name, truth.files[name], sr=ours.files[name]) for name in names], why
    small = pictures("LR", lr)
    known = {name: file for name, file in truth.files.items() if name not in why}
    others = {name: file for name, file in small.files.items() if name not in why}
    names, rest = _both(replace(small, files=others), replace(truth, files=known))
    pairs = [Pair(name, truth.files[name], sr=ours.files[name], lr=others[name]) for name in names]
    return pairs, dict(sorted({**rest, **why}.items()))


def restored(lr: Path, hr: Path) -> tuple[list[Pair], dict[str, str]]:
    """Pairs whose SR is restored from a folder of LR pictures, and what cannot be paired.

    Raises:
        UsageError: A folder is missing.
        InputError: A folder holds no pictures.
    """
    small, truth = pictures("LR", lr), pictures("HR", hr)
    names, why = _both(small, truth)
    return [Pair(name, truth.files[name], lr=small.files[name]) for name in names], why


def degraded(hr: Path) -> tuple[list[Pair], dict[str, str]]:
    """Pairs whose LR is made from HR, and what cannot be one.

    Raises:
        UsageError: The folder is missing.
        InputError: The folder holds no pictures.
    """
    truth = pictures("HR", hr)
    return [
        Pair(name, file) for name, file in truth.files.items() if name not in truth.doubtful
    ], truth.doubtful


def _both(ours: Folder, truth: Folder) -> tuple[list[str], dict[str, str]]:
    """The names that both folders have, and what the others lack."""
    why = {
        name: f"{one.files[name]}: has no {other.what} partner in {other.path}"
        for one, other in ((ours, truth), (truth, ours))
        for name in one.files
        if name not in other.files
    }
    why |= {name: line for one in (ours, truth) for name, line in one.doubtful.items() if name in one.files}
    return [name for name in ours.files if name not in why], dict(sorted(why.items()))


def _without_factor(ours: dict[str, Path], hr: dict[str, Path]) -> dict[str, Path]:
    """Our pictures by the name of their HR partner, where only the factor at the end keeps them apart."""
    named = {name: file for name, file in ours.items() if name in hr}
    for name, file in ours.items():
        short = re.sub(r"_x\d+(\.\d+)?$", "", name)
        if name not in hr:
            named[short if short in hr and short not in named else name] = file
    return dict(sorted(named.items()))
