"""Which models there are by name, where their weights lie, and how a name or a file becomes a model.

A name is looked up among the weights that come with the package, then among the parameter-free models, then
among the release files in ``ONESTEP_HOME`` (that folder and its direct subfolders). A path names a release
file, or a folder that holds one (the newest release of a training run).
"""

import difflib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from onestep import __version__, checkpoint, hub, methods
from onestep.checkpoint import Card
from onestep.core.contract import OneStepModel
from onestep.core.errors import InputError, OneStepError, UsageError

PREFERRED = "oftsr-compact-x4"
"""The model that is used when none is named and its weights came with the package."""

_ESTIMATOR = "degradation-estimator"
"""Release files of this method restore nothing; what needs one looks for it itself."""
_SUFFIX = ".safetensors"
_OFFICIAL = {".pth", ".pt", ".ckpt", ".pkl", ".bin"}


@dataclass(frozen=True)
class Entry:
    """One model that can be used by name."""

    name: str
    where: str
    """``embedded`` (came with the package), ``built in`` (has no weights), ``home`` or ``file``."""
    path: Path | None
    """The release file; None for a model without weights."""
    card: Card


def models() -> list[Entry]:
    """All models that can be used by name here, the preferred one first; reads headers only."""
    found: dict[str, Entry] = {}
    for entry in (*_embedded(), *_built_in(), *_in_home()):
        found.setdefault(entry.name, entry)
    return sorted(found.values(), key=lambda entry: entry.name != PREFERRED)


def default() -> str:
    """The name of the model that is used when none is named."""
    return PREFERRED if any(entry.name == PREFERRED for entry in _embedded()) else "bicubic"


def find(source: str | Path | None = None) -> Entry:
    """The model of that name, file or folder; None means the default one.

    Raises:
        UsageError: nothing goes by that name, or the file is no release file.
    """
    text = str(source or default())
    known = {entry.name: entry for entry in models()}
    if text in known:
        return known[text]
    path = Path(text).expanduser()
    if path.is_dir():
        path = _release_in(path)
    if path.is_file():
        return _from_file(path, "file")
    if len(path.parts) > 1 or path.suffix in {_SUFFIX, *_OFFICIAL}:
        raise UsageError(f"{text}: no such model file; `onestep models` lists the names that work here")
    close = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {close[0]!r}? Known here" if close else "known here"
    raise UsageError(f"no model is called {text!r}; {hint}: {', '.join(known)}")


def load(entry: Entry) -> OneStepModel:
    """The model of an entry, with its weights, on the CPU in float32.

    Raises:
        UsageError: the file is damaged, or its weights do not fit the model that its card describes.
    """
    if entry.path is None:
        return methods.build(entry.card.method, entry.card.config)
    try:
        model = methods.build(entry.card.method, entry.card.config)
        tensors, _ = checkpoint.read(entry.path)
        checkpoint.load(model, tensors, entry.path)
    except InputError as error:
        raise UsageError(str(error)) from error
    except (UsageError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{entry.path}: no model can be built from its card ({why})") from error
    return model


def _built_in() -> Iterator[Entry]:
    for kernel in ("bicubic", "lanczos"):
        model = methods.build("resample", {"kernel": kernel, "scale": 4})
        card = Card(
            name=kernel,
            method="resample",
            config={"kernel": kernel, "scale": 4},
            traits=asdict(model.traits),
            step=0,
            license="Apache-2.0",
            recipe=None,
            version=__version__,
            limits=["Plain resampling: adds no detail."],
        )
        yield Entry(kernel, "built in", None, card)


def _embedded() -> Iterator[Entry]:
    folder = resources.files("onestep") / "weights"
    if isinstance(folder, Path) and folder.is_dir():
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            entry = _from_file(path, "embedded")
            if entry.card.method != _ESTIMATOR:
                yield entry


def _in_home() -> Iterator[Entry]:
    home = hub.home()
    for pattern in (f"*{_SUFFIX}", f"*/*{_SUFFIX}"):
        for path in sorted(home.glob(pattern)):
            try:
                yield _from_file(path, "home")
            except OneStepError:  # weights of something else (a metric, a prior)
                continue


def _from_file(path: Path, where: str) -> Entry:
    if path.suffix in _OFFICIAL:
        raise UsageError(
            f"{path}: not a release file; official checkpoints go through `onestep convert` first"
        )
    try:
        return Entry(path.stem, where, path, checkpoint.read_card(path))
    except InputError as error:
        raise UsageError(str(error)) from error


def _release_in(folder: Path) -> Path:
    files = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    if not files:
        raise UsageError(f"{folder}: no release file ({_SUFFIX}) in this folder")
    return files[-1]
