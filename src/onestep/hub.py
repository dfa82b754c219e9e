"""Where weights come from: files of ``known_weights``, found locally first, downloaded and hashed otherwise.

``ONESTEP_HOME`` names the folder of weights (default: ``onestep`` in the user's cache folder). A file is
looked for there under its path in the table, under its bare name, and under its bare name in each direct
subfolder. Only then is it downloaded, to a temporary name in the same folder, and renamed when its SHA-256 is
right: a file that is there is whole. Nothing here decodes a file; the callers do, and only as plain tensors.
"""

import hashlib
import os
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO

from onestep.core.errors import InputError, UsageError
from onestep.known_weights import FILES, FOLDERS, Copy, Folder, Weights

__all__ = [
    "FILES",
    "FOLDERS",
    "HOME_VARIABLE",
    "Copy",
    "Progress",
    "Weights",
    "candidates",
    "fetch",
    "fetch_folder",
    "home",
    "locate",
    "locate_folder",
    "sha256",
]

HOME_VARIABLE = "ONESTEP_HOME"

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while a file is downloaded."""

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30.0


def home() -> Path:
    """The folder of weights: ``ONESTEP_HOME``, else ``onestep`` in the user's cache folder. May not exist."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "onestep"


def candidates(path: str) -> Iterator[Path]:
    """Existing files below ``home()`` that ``path`` may mean: exact path, bare name, one folder down."""
    root, name = home(), PurePosixPath(path).name
    places = [root / path, root / name]
    with suppress(OSError):
        places += sorted(folder / name for folder in root.iterdir() if folder.is_dir())
    for place in dict.fromkeys(places):
        if place.is_file():
            yield place


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def locate(name: str) -> Path | None:
    """The local file for a name of ``FILES``, its hash checked; None when no such file is there.

    Raises:
        UsageError: the name is not in the table.
    """
    for copy in _known(name).copies:
        for place in candidates(copy.path):
            if place.stat().st_size == copy.size and sha256(place) == copy.sha256:
                return place
    return None


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The local file for a name of ``FILES``, downloaded into ``home()`` where needed.

    Raises:
        UsageError: the name is not in the table.
        InputError: it could not be downloaded either; one line says where to put it and where to get it.
    """
    weights = _known(name)
    found = locate(name)
    if found is not None:
        return found
    reasons: list[str] = []
    for copy in weights.copies:
        for mirror in copy.mirrors:
            try:
                return _download(mirror, copy, progress)
            except (OSError, HTTPException, ValueError) as error:
                reasons.append(" ".join(f"{_host(mirror)}: {error}".split())[:160])
    raise InputError(_how_to_get(weights, reasons))


def locate_folder(name: str) -> Path | None:
    """The local folder for a name of ``FOLDERS``, in ``home()`` or in the cache of Hugging Face; else None.

    A folder in ``home()`` counts as it is, whatever it holds: the caller checks what it reads.
    """
    if (home() / name).is_dir():
        return home() / name
    from huggingface_hub import try_to_load_from_cache  # slow to import, and few need it

    known = FOLDERS[name]
    for repository in (*known.repositories, *known.withdrawn):
        found = [try_to_load_from_cache(repository, file) for file in known.files]
        if all(isinstance(path, str) for path in found):
            first = next(iter(known.files))
            return Path(str(found[0])).parents[first.count("/")]
    return None


def fetch_folder(name: str, progress: Progress | None = None) -> Path:
    """The local folder for a name of ``FOLDERS``, downloaded into ``home()`` where needed.

    Raises:
        UsageError: the name is not in the table.
        InputError: it could not be downloaded either; one line says what to put where.
    """
    if name not in FOLDERS:
        raise UsageError(f"no folder of weights is known as {name!r}; known are {', '.join(FOLDERS)}")
    found = locate_folder(name)
    if found is not None:
        return found
    known, reasons = FOLDERS[name], list[str]()
    for repository in known.repositories:
        try:
            return _download_folder(name, known, repository, progress)
        except (OSError, HTTPException, ValueError) as error:
            reasons.append(" ".join(f"{repository}: {error}".split())[:120])
    parts = ", ".join(dict.fromkeys(file.split("/")[0] for file in known.files))
    raise InputError(
        f"{known.what}: not found; put the folders {parts} of a copy (such as "
        f"huggingface.co/{known.repositories[0]}) into {home() / name}; download failed: {'; '.join(reasons)}"
    )


def _known(name: str) -> Weights:
    if name not in FILES:
        raise UsageError(f"no weights are known as {name!r}; known are {', '.join(FILES)}")
    return FILES[name]


def _host(mirror: str) -> str:
    return "huggingface.co" if mirror.startswith("hf://") else mirror.split("/")[2]


def _how_to_get(weights: Weights, reasons: list[str]) -> str:
    copy = next((one for one in weights.copies if one.mirrors), weights.copies[0])
    line = f"{weights.what}: file not found; put it at {home() / copy.path}"
    line += f" (from {copy.mirrors[0] if copy.mirrors else weights.source}) or set {HOME_VARIABLE}"
    wrong = [place for one in weights.copies for place in candidates(one.path)]
    if wrong:
        line += f"; {wrong[0]} is there, but its content is not the expected one"
    return f"{line}; download failed: {reasons[0]}" if reasons else line


def _download(mirror: str, copy: Copy, progress: Progress | None) -> Path:
    target = home() / copy.path
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as folder:
        part = _from_url(_address(mirror), Path(folder) / "part", copy.size, progress)
        got = sha256(part)
        if got != copy.sha256:
            raise ValueError(f"content differs from the expected one (sha256 {got[:16]})")
        os.replace(part, target)
    return target


def _download_folder(name: str, known: Folder, repository: str, progress: Progress | None) -> Path:
    """All files of a folder, small ones first; it has its name only when it is whole."""
    target = home() / name
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=home()) as place:
        whole = Path(place) / name
        for file, expected in known.files.items():
            part = whole / file
            part.parent.mkdir(parents=True, exist_ok=True)
            _from_url(_address(f"hf://{repository}/{file}"), part, None, progress)
            if expected is not None and sha256(part) != expected:
                raise ValueError(f"content of {file} differs from the expected one")
        os.replace(whole, target)
    return target


def _from_url(url: str, part: Path, size: int | None, progress: Progress | None) -> Path:
    """Store what an address answers with; where the size is not known, as much as the answer announces."""
    request = urllib.request.Request(url, headers={"User-Agent": "onestep"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer, part.open("wb") as file:
        announced = size if size is not None else int(answer.headers.get("Content-Length") or 0)
        _pump(answer, file, announced, progress)
    if size is None and part.stat().st_size != announced:
        raise ValueError(f"the answer broke off at {part.stat().st_size} of {announced} bytes")
    return part


def _pump(source: IO[bytes], target: IO[bytes], size: int, progress: Progress | None) -> None:
    done = 0
    while done <= size and (chunk := source.read(_CHUNK)):
        target.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(min(done, size), size)


def _address(mirror: str) -> str:
    """The URL of a mirror; for one on Hugging Face it follows ``HF_ENDPOINT``.

    The file itself is read as any other: the library's own download asks for a missing network again and
    again, for half a minute and many lines.
    """
    if not mirror.startswith("hf://"):
        return mirror
    from huggingface_hub import hf_hub_url  # slow to import, and only downloads need it

    owner, repository, file = mirror.removeprefix("hf://").split("/", 2)
    return hf_hub_url(f"{owner}/{repository}", file)
