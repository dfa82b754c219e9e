"""Which files a command works on, and where each result goes; all of it settled before anything starts."""

import glob
import os
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from onestep.batch.item import Item
from onestep.core.errors import UsageError

WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Extensions that results can have."""
READABLE = (*WRITABLE, ".gif", ".ppm", ".pgm", ".jp2", ".avif")
"""Extensions that are looked for in folders; a file that is named is tried whatever it is called."""


@dataclass(frozen=True)
class Found:
    """One input, or a word that names none."""

    path: Path
    problem: str | None = None
    """Why there is nothing to work on."""


def find(words: Sequence[str], leave_out: Collection[Path] = ()) -> list[Found]:
    """Every file that the words (files, folders, globs) name, once each, in their order.

    Folders give the pictures directly inside, by extension, in the order of their names; ``leave_out`` are
    files that are none (earlier results). A word that names nothing becomes an entry with a problem.
    """
    seen: dict[Path, Found] = {}
    for word in words:
        for found in _named(word, {path.resolve() for path in leave_out}):
            seen.setdefault(found.path.resolve(), found)
    return list(seen.values())


def single(words: Sequence[str]) -> bool:
    """Whether the words name one file, so that OUT may be one."""
    return len(words) == 1 and not Path(words[0]).expanduser().is_dir() and not _is_glob(words[0])


def is_folder(written: str, words: Sequence[str], suffix: str | None, extension: str | None) -> bool:
    """Whether OUT, as it was typed, means a folder for these inputs.

    Args:
        written: OUT.
        words: The inputs.
        suffix: ``--suffix``, which only a folder can have.
        extension: ``--ext`` with its dot, which a file's name must not contradict.

    Raises:
        UsageError: OUT is a file, but there may be several results; or its extension cannot be written.
    """
    if not written:
        raise UsageError("-o is empty; name a file or a folder")
    output = Path(written).expanduser()
    if output.is_dir() or written.endswith(("/", os.sep)):
        return True
    known = output.suffix.lower() in WRITABLE
    if known and suffix:
        raise UsageError(f"--suffix names the files of a folder, and -o {written} is a file's name")
    if known and extension not in (None, output.suffix.lower()):
        raise UsageError(f"--ext {extension} contradicts -o {written}; give one of them")
    if not single(words):
        if known or output.is_file():
            raise UsageError(f"-o {written}: several inputs need a folder, and this is a file's name")
        return True
    if output.suffix and not known:
        raise UsageError(f"-o {written}: cannot write {output.suffix!r}; use one of {' '.join(WRITABLE)}")
    if not output.suffix and output.exists():
        raise UsageError(f"-o {written}: is a file without an extension; choose another name")
    return not output.suffix


def pair(inputs: Sequence[Found], output: Path, folder: bool, name: Callable[[Path], str]) -> list[Item]:
    """Give every input its result; ``name`` makes a file name of an input's path, for a folder.

    Raises:
        UsageError: Two inputs would become one file, or a result would replace an input.
    """
    jobs = [
        Item(found.path, output / name(found.path) if folder else output, found.problem) for found in inputs
    ]
    there = [job for job in jobs if job.problem is None]
    sources = {job.source.resolve() for job in there}
    taken: dict[Path, Path] = {}
    for job in there:
        target = job.target.resolve()
        if target in sources:
            raise UsageError(
                f"{job.target}: the result would replace an input; choose another -o or --suffix"
            )
        other = taken.setdefault(target, job.source)
        if other != job.source:
            raise UsageError(
                f"{other} and {job.source} would both become {job.target}; run them apart or rename one"
            )
    return jobs


def file_name(source: Path, suffix: str, extension: str | None) -> str:
    """The name of a result: stem, suffix, and the extension wanted or the input's (png if unwritable)."""
    kept = source.suffix if source.suffix.lower() in WRITABLE else ".png"
    return f"{source.stem}{suffix}{extension or kept}"


def extension_of(word: str | None) -> str | None:
    """``--ext`` with its dot.

    Raises:
        UsageError: A format that cannot be written.
    """
    if word is None:
        return None
    extension = "." + word.lower().lstrip(".")
    if extension not in WRITABLE:
        raise UsageError(f"--ext {word}: cannot be written; use png, jpg, webp or tif")
    return extension


def make_room(folder: Path) -> None:
    """Make a folder for results and see that files can be written there.

    Raises:
        UsageError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"{folder}: results cannot be written there ({reason}); choose another -o"
        ) from error


def _named(word: str, leave_out: Collection[Path]) -> list[Found]:
    path = Path(word).expanduser()
    if path.is_dir():
        inside = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in READABLE and not file.name.startswith(".")
        )
        files = [Found(file) for file in inside if file.is_file() and file.resolve() not in leave_out]
        return files or [Found(path, f"{path}: no pictures in this folder; looked for {' '.join(READABLE)}")]
    if path.exists() or not _is_glob(word):
        return [Found(path, None if path.exists() else f"{path}: no such file or folder; check the name")]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [Found(match) for match in matches if match.is_file() and match.resolve() not in leave_out]
    return files or [Found(path, f"{path}: no file has such a name; check the pattern")]


def _is_glob(word: str) -> bool:
    return glob.has_magic(word) and not Path(word).expanduser().exists()
