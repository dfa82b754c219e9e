"""The scores of one picture, in this process or in a worker: the same numbers wherever they are taken.

What is summed by several threads depends on how many there are, so every score is taken by one thread;
several pictures are scored at once by several processes.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onestep import metrics as table
from onestep.core.errors import InputError, OneStepError, UsageError
from onestep.core.picture import Picture, read
from onestep.evaluate.protocols import EvalProtocol

Array = NDArray[np.float32]

COLOURED = 2 / 255
"""Mean spread of the channels from which a picture counts as coloured."""


@dataclass(frozen=True)
class Pixels:
    """A picture on its way to another process."""

    rgb: Array
    """(3, H, W) in [0, 1]."""
    grey: bool
    bits: int

    @classmethod
    def of(cls, picture: Picture, *, bits: int = 8) -> "Pixels":
        """The pixels of a picture; results of a model have no depth of their own and count as 8 bits."""
        return cls(picture.rgb[0].detach().float().cpu().numpy(), picture.grey, bits)


@dataclass(frozen=True)
class Task:
    """One picture to score."""

    name: str
    hr: Path
    sr: Path | Pixels
    lr: Path | Pixels | None = None
    rows: tuple[int, ...] = ()
    """Where its tiles meet."""
    columns: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a task."""

    scores: dict[str, float | None] = field(default_factory=dict[str, float | None])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    """Metric -> why it could not be taken."""
    features: dict[str, tuple[Array, Array]] = field(default_factory=dict[str, tuple[Array, Array]])
    """Metric of sets -> features of SR and HR, (D,) each."""
    width: int = 0
    """Of HR, in pixels."""
    height: int = 0
    failed: str | None = None
    """Why nothing could be scored."""
    said: tuple[tuple[int, str], ...] = ()
    """What a worker would have logged: level and message."""


class Scorer:
    """The metrics, made once, and the protocol."""

    def __init__(self, names: Sequence[str], how: EvalProtocol, device: str = "cpu") -> None:
        """Make the metrics; one that cannot be made is in ``skipped``, with the reason.

        Raises:
            UsageError: There is no such metric.
        """
        self.how, self.device = how, torch.device(device)
        self.skipped: dict[str, str] = {}
        self.measures: dict[str, table.Measure] = {}
        self.sets: dict[str, table.SetMeasure] = {}
        self._asked = tuple(dict.fromkeys(names))
        for name in self._asked:
            try:
                if table.find(name).needs == "set":
                    self.sets[name] = table.make_set(name, self.device)
                else:
                    self.measures[name] = table.make(name, self.device)
            except InputError as error:
                self.skipped[name] = str(error)

    @property
    def names(self) -> list[str]:
        """The metrics that could be made, in the order they were asked for."""
        return [name for name in self._asked if name in self.measures or name in self.sets]

    @property
    def needs_lr(self) -> bool:
        """Whether a metric asks for LR."""
        return any(table.find(name).needs == "lr" for name in self.measures)

    def __call__(self, task: Task) -> Outcome:
        """Score a picture; what fails is a line in the outcome, so that the rest goes on."""
        try:
            with one_thread(), torch.no_grad():
                return self._score(task)
        except (OneStepError, OSError, MemoryError) as error:
            return Outcome(failed=str(error) or "memory ran out; use fewer workers")

    def _score(self, task: Task) -> Outcome:
        hr = _pixels(task.hr)
        sr, lr = _pixels(task.sr), None if task.lr is None else _pixels(task.lr)
        whole, cut, truth = prepared(task.name, sr, hr, self.how)
        scores: dict[str, float | None] = {}
        missing: dict[str, str] = {}
        for name, measure in self.measures.items():
            scores[name] = None
            needs = table.find(name).needs
            try:
                if needs == "borders":
                    scores[name] = _finite(_at_borders(measure, whole.to(self.device), task))
                elif needs == "lr":
                    small = _needed(lr)
                    scores[name] = _finite(measure(whole.to(self.device), small.to(self.device)))
                else:
                    given = (cut, truth) if needs == "pair" else (cut,)
                    scores[name] = _finite(measure(*(image.to(self.device) for image in given)))
            except InputError as error:
                missing[name] = str(error)
        features: dict[str, tuple[Array, Array]] = {}
        for name, measure in self.sets.items():
            try:
                both = (measure.features(image.to(self.device))[0] for image in (cut, truth))
                ours, theirs = (one.float().cpu().numpy() for one in both)
                features[name] = ours, theirs
            except InputError as error:
                missing[name] = str(error)
        return Outcome(scores, missing, features, hr.rgb.shape[2], hr.rgb.shape[1])


def prepared(name: str, sr: Pixels, hr: Pixels, how: EvalProtocol) -> tuple[Tensor, Tensor, Tensor]:
    """What is measured: SR whole, and SR and HR with the borders cut; each (1, 3, H, W) in [0, 1].

    Raises:
        InputError: They do not belong together, or are nothing that the protocol measures.
    """
    for what, pixels in (("the result", sr), ("HR", hr)):
        if how.round8 and pixels.bits > 8:
            raise InputError(
                f"{name}: {what} has {pixels.bits} bits and {how.name} measures 8; use --protocol full-float"
            )
        if not np.isfinite(pixels.rgb).all():
            raise InputError(f"{name}: {what} holds values that are not numbers")
    if sr.grey != hr.grey and max(_spread(sr.rgb), _spread(hr.rgb)) > COLOURED:
        grey, colour = ("the result", "HR") if sr.grey else ("HR", "the result")
        raise InputError(f"{name}: {grey} is grey and {colour} has colours; make both alike")
    height, width = sr.rgb.shape[1:]
    missing = (hr.rgb.shape[1] - height, hr.rgb.shape[2] - width)
    if min(missing) < 0 or (how.surplus is not None and max(missing) > how.surplus):
        raise InputError(
            f"{name}: the result is {width}x{height}, HR is {hr.rgb.shape[2]}x{hr.rgb.shape[1]}; "
            "sizes must agree"
        )
    whole, truth = torch.from_numpy(sr.rgb)[None], torch.from_numpy(hr.rgb)[None, :, :height, :width]
    if how.round8:
        whole = (whole.clamp(0, 1) * 255).round() / 255
    if min(height, width) <= 2 * how.border:
        raise InputError(f"{name}: nothing is left after cutting {how.border} pixels from every side")
    cut = (..., slice(how.border, height - how.border), slice(how.border, width - how.border))
    return whole, whole[cut].contiguous(), truth[cut].contiguous()


@contextmanager
def one_thread() -> Generator[None]:
    """Calculate with a single thread while the block runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pixels(source: Path | Pixels) -> Pixels:
    if isinstance(source, Pixels):
        return source
    picture = read(source)
    return Pixels.of(picture, bits=picture.bits)


def _spread(rgb: Array) -> float:
    """How far the channels of a pixel lie apart, on average."""
    return float((rgb.max(axis=0) - rgb.min(axis=0)).mean())


def _at_borders(measure: table.Measure, sr: Tensor, task: Task) -> Tensor:
    if not task.rows and not task.columns:
        raise InputError("the picture was made in one piece: it has no tile borders")
    return measure(sr, task.rows, task.columns)


def _needed(lr: Pixels | None) -> Tensor:
    if lr is None:
        raise InputError("there is no LR picture")
    return torch.from_numpy(lr.rgb)[None]


def _finite(score: Tensor) -> float:
    value = float(score)
    if not math.isfinite(value):
        raise InputError(f"the score is {value}")
    return value


def require(names: Sequence[str], *, lr: bool, tiles: bool) -> None:
    """See that every metric could be taken.

    Args:
        names: The metrics.
        lr: Whether there are LR pictures.
        tiles: Whether tile borders are known.

    Raises:
        UsageError: An unknown metric, or one that needs what there is not.
    """
    for name in names:
        needs = table.find(name).needs
        if needs == "borders" and not tiles:
            raise UsageError(
                f"the metric {name} needs tile borders, which only a model that runs here has; use -n"
            )
        if needs == "lr" and not lr:
            raise UsageError(f"the metric {name} needs the LR pictures; name their folder with --lr")
