"""Who is scored: finished pictures, or a model that restores them here; and how one of them is made."""

import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from onestep import __version__
from onestep.core.contract import OneStepModel
from onestep.core.errors import InputError
from onestep.core.picture import Picture, read
from onestep.core.tiling import grid
from onestep.evaluate.pairs import Pair
from onestep.evaluate.report import Entrant
from onestep.plan import Plan, Settings
from onestep.upscaler import Upscaler

Degrade = Callable[[Picture, str], Picture]
"""(HR picture, name) -> LR picture."""


@dataclass(frozen=True)
class Restored:
    """A picture that a model made."""

    picture: Picture
    rows: tuple[int, ...] = ()
    """Where its tiles meet vertically, in pixels from the top; empty: it was made in one piece."""
    columns: tuple[int, ...] = ()


Restore = Callable[[Picture], Restored]
"""LR picture -> SR picture."""


@dataclass(frozen=True)
class Candidate:
    """Who is to be scored."""

    entrant: Entrant = field(default_factory=Entrant)
    """What the report says about it, without results."""
    restore: Restore | None = None
    """None: its pictures are finished."""
    scale: int | None = None
    """The factor of the model; None where it is not known."""


@dataclass(frozen=True)
class Made:
    """One picture of a candidate, and what it took."""

    picture: Picture | Path
    """A finished one is a file that is read by whoever scores it."""
    rows: tuple[int, ...] = ()
    columns: tuple[int, ...] = ()
    seconds: float | None = None
    memory: int | None = None


def of_model(
    up: Upscaler, options: Mapping[str, Any], settings: Settings, name: str | None = None, **about: Any
) -> Candidate:
    """A model with its options as a candidate.

    Args:
        up: The model on its device.
        options: Its own options, without defaults.
        settings: Seed and tiles.
        name: For tables; None: the model's, with the options that were given.
        about: Further fields of ``Entrant``, such as ``weights_sha256`` and ``degradation``.
    """

    def restore(picture: Picture) -> Restored:
        (result,), plan = up.run(picture, settings, [options])
        return Restored(result, *borders(up.model, picture, plan))

    chosen = {**(up.card.defaults if up.card else {}), **options}
    given = " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in options.items()
    )
    entrant = Entrant(
        name or f"{up.name} {given}".strip(),
        model=up.name,
        options=chosen,
        seed=settings.seed,
        tile=settings.tile,
        overlap=settings.overlap,
        device=described(up.device),
        dtype=str(up.dtype).removeprefix("torch."),
        **about,
    )
    return Candidate(entrant, restore, up.model.traits.scale)


def borders(model: OneStepModel, picture: Picture, plan: Plan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the tiles of a result meet: rows and columns, in its pixels; of each overlap, the middle.

    Args:
        model: What made it, in one pass, at its own scale.
        picture: LR.
        plan: What was done.
    """
    traits = model.traits
    sides = (picture.height, picture.width)
    height, width = (
        -(-max(side, traits.minimum) // traits.multiple_of) * traits.multiple_of for side in sides
    )
    noise = model.noise_shape(torch.Size((1, 3, height, width)))
    cells = grid(
        height,
        width,
        tile=plan.tile,
        overlap=plan.overlap,
        ratio=Fraction(noise[-1], width),
        multiple_of=traits.multiple_of,
        minimum=traits.minimum,
    )

    def middles(spans: Sequence[tuple[int, int]], side: int) -> tuple[int, ...]:
        found = ((before[1] + after[0]) * traits.scale // 2 for before, after in pairwise(spans))
        return tuple(border for border in found if border < side * traits.scale)

    return middles(cells.rows, sides[0]), middles(cells.columns, sides[1])


def make(candidate: Candidate, pair: Pair, small: Picture | None) -> Made:
    """The candidate's picture of a pair.

    Args:
        candidate: Who.
        pair: Which.
        small: LR, for candidates that restore.

    Raises:
        InputError: It cannot be made.
    """
    if candidate.restore is None:
        if pair.sr is None:
            raise InputError(f"{pair.name}: there is no finished picture")
        return Made(pair.sr)
    if small is None:
        raise InputError(f"{pair.name}: there is no LR picture to restore")
    meter = Meter(candidate.entrant.device)
    start = time.perf_counter()
    result = candidate.restore(small)
    seconds = round(time.perf_counter() - start, 4)
    return Made(result.picture, result.rows, result.columns, seconds, meter.peak())


def small_picture(pair: Pair, degrade: Degrade | None) -> Picture | None:
    """LR of a pair: read, or made from HR; None where there is neither.

    Raises:
        InputError: A file cannot be read.
    """
    if pair.lr is not None:
        return read(pair.lr)
    return degrade(read(pair.hr), pair.name) if degrade else None


class Meter:
    """The most memory in use from its making on: of the device, or of this process on the CPU."""

    def __init__(self, device: str | None) -> None:
        self._cuda = device.split()[0] if device and device.startswith("cuda") else None
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", "ascii")  # Linux: the peak starts anew

    def peak(self) -> int | None:
        """Bytes; None where the system does not say."""
        if self._cuda:
            return torch.cuda.max_memory_allocated(self._cuda)
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text("ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None


def described(device: torch.device) -> str:
    """A device by name, with what it is."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """Of what decides the numbers."""
    return {
        "onestep": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


@dataclass(frozen=True)
class Viewer:
    """Shows single pictures again, after the scores are known: read, or restored once more."""

    pairs: Sequence[Pair]
    candidates: Sequence[Candidate]
    degrade: Degrade | None = None

    def __call__(self, entrant: str, name: str) -> "Shown":
        """The pictures behind a row.

        Args:
            entrant: The name of the entrant.
            name: The name of the row.

        Raises:
            InputError: There are no such pictures, or they cannot be read.
        """
        who = next((one for one in renamed(self.candidates) if one.entrant.name == entrant), None)
        pair = next((one for one in self.pairs if one.name == name), None)
        if who is None or pair is None:
            raise InputError(f"{entrant}, {name}: the pictures are not at hand")
        small = small_picture(pair, self.degrade)
        made = make(who, pair, small).picture
        return Shown(read(made) if isinstance(made, Path) else made, read(pair.hr), small)


@dataclass(frozen=True)
class Shown:
    """The pictures behind a row of a report."""

    sr: Picture
    hr: Picture
    lr: Picture | None
    """None where finished pictures were scored without their LR."""


def renamed(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """The candidates, each with a name of its own."""
    taken: dict[str, int] = {}
    for one in candidates:
        count = taken[one.entrant.name] = taken.get(one.entrant.name, 0) + 1
        name = one.entrant.name if count == 1 else f"{one.entrant.name} ({count})"
        yield dataclasses.replace(one, entrant=dataclasses.replace(one.entrant, name=name))
