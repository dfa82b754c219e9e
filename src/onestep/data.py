"""Pictures become training pairs: crop, flip, degrade.

Everything about a pair follows from (seed, position): which picture, where it is cut, whether it is
flipped, how it is degraded. So the order needs no state, a run that was stopped continues with the same
pixels, and the number of workers changes nothing.
"""

import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from onestep.core.config import at_least
from onestep.core.errors import InputError, UsageError
from onestep.core.picture import Picture, read
from onestep.core.synthetic import synthetic

Degrade = Callable[[Tensor, torch.Generator], Tensor]
"""(3, H, W) in [0, 1] -> (3, H / scale, W / scale), parameters drawn from the generator."""


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how they are cut."""

    folder: str = "synthetic"
    """Folder of pictures, searched recursively; "synthetic" draws procedural ones instead."""
    crop: int = 256
    """HR side of a training crop in pixels; a multiple of ``scale``."""
    scale: int = 4
    horizontal: float = 0.5
    """Probability of a left-right flip, before the degradation (OFTSR 1.3)."""
    vertical: float = 0.06
    """Probability of an upside-down flip (OFTSR 1.3)."""
    holdout: int = 20
    """Every so many-th file, in sorted order and from the first, is never trained on; 0 keeps none back."""
    extensions: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
    cache: int = 1000
    """Megapixels of decoded pictures kept in memory by each worker, three bytes per pixel."""
    workers: int = 1
    """Processes that prepare pairs beside the training; 0 prepares them in turn with it."""
    pictures: int = 1000
    """How many different procedural pictures "synthetic" has."""

    def __post_init__(self) -> None:
        """Refuse numbers that count nothing.

        Raises:
            UsageError: One line that names the field.
        """
        at_least(self, ("crop", "scale", "pictures"), prefix="data.")


def keyed(*key: int | str) -> int:
    """A 63-bit seed that follows from the key, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def _generator(*key: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(keyed(*key))


def degraded(picture: Picture, degrade: Degrade, seed: int, name: str) -> Picture:
    """The LR partner of an HR picture, as a file holds it: clamped, rounded to 8 bit, without alpha.

    Args:
        picture: HR; its sides need not be multiples of the scale.
        degrade: Such as a preset of ``onestep.degrade``.
        seed: With ``name``, decides every random choice.
        name: The picture's file name without extension.
    """
    small = degrade(picture.rgb[0], _generator(seed, name)).clamp(0, 1)
    return replace(picture, rgb=(small * 255).round()[None] / 255, alpha=None, bits=8)


def files(config: DataConfig, *, held_out: bool) -> list[Path]:
    """The sorted files of one side of the split.

    Raises:
        UsageError: The folder is missing or holds no pictures.
    """
    folder = Path(config.folder).expanduser()
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of training pictures; set data.folder")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in config.extensions)
    kept = [
        path for i, path in enumerate(found) if (config.holdout > 0 and i % config.holdout == 0) == held_out
    ]
    if not kept and not held_out:
        raise UsageError(f"{folder}: no pictures to train on ({', '.join(config.extensions)})")
    return kept


def decode(path: Path) -> Tensor:
    """Read a picture as (3, H, W) uint8; deeper ones are rounded, transparency is dropped.

    Raises:
        InputError: The file is not a readable picture.
    """
    return (read(path).rgb[0] * 255).round().to(torch.uint8)


def _reflected(pixels: Tensor, side: int) -> Tensor:
    """At least (3, side, side), reflected at the lower and right border as often as needed."""
    short = [(0, max(0, side - length)) for length in pixels.shape[1:]]
    return torch.from_numpy(np.pad(pixels.numpy(), ((0, 0), *short), mode="reflect"))


def _stand_apart(worker: int) -> None:
    """Signals to a whole group of processes, such as Ctrl-C, are for the training: it ends its workers."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


def _one_line(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Free a worker's message from the trace that the loader wraps around it."""
    try:
        yield from batches
    except InputError as error:
        message = str(error).strip().splitlines()[-1]
        raise InputError(message.removeprefix(f"{InputError.__module__}.InputError: ")) from error


class Source:
    """Pictures by index; what was decoded once is kept in memory, as far as the configuration allows."""

    def __init__(self, config: DataConfig, *, held_out: bool = False) -> None:
        self.config = config
        self.drawn = config.folder == "synthetic"
        self.name = "held out" if held_out else "train"
        self.paths = [] if self.drawn else files(config, held_out=held_out)
        drawn = max(1, config.pictures // 20) if held_out else config.pictures
        self.count = drawn if self.drawn else len(self.paths)
        self._decoded: dict[int, Tensor] = {}
        self._pixels = 0

    def crop(self, index: int, side: int, generator: torch.Generator | None) -> Tensor:
        """A square (3, side, side) float32 in [0, 1]: at random, or central without generator."""
        if self.drawn:
            return synthetic(side, _generator("synthetic", self.name, index))
        pixels = self._read(index)
        if min(pixels.shape[1:]) < side:
            pixels = _reflected(pixels, side)
        spare = [length - side for length in pixels.shape[1:]]
        if generator is None:
            top, left = (length // 2 for length in spare)
        else:
            top, left = (int(torch.randint(0, n + 1, (1,), generator=generator)) for n in spare)
        return pixels[:, top : top + side, left : left + side].float() / 255

    def label(self, index: int) -> str:
        """What to call this picture in reports."""
        return f"synthetic-{index:04d}" if self.drawn else self.paths[index].stem

    def _read(self, index: int) -> Tensor:
        if index not in self._decoded:
            pixels = decode(self.paths[index])
            area = pixels.shape[1] * pixels.shape[2]
            if self._pixels + area > self.config.cache * 1_000_000:
                return pixels
            self._decoded[index] = pixels
            self._pixels += area
        return self._decoded[index]


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """(LR, HR) by position, endless: epoch after epoch, each in its own order."""

    def __init__(self, config: DataConfig, degrade: Degrade, seed: int) -> None:
        """Look at the folder; nothing is decoded yet.

        Args:
            config: Which pictures and how they are cut.
            degrade: Makes LR from HR.
            seed: Another seed is another order, other crops, other degradations.

        Raises:
            UsageError: The crop does not divide by the scale, or there are no pictures.
        """
        if config.crop % config.scale:
            raise UsageError(f"data.crop={config.crop} is not a multiple of data.scale={config.scale}")
        self.config, self.degrade, self.seed = config, degrade, seed
        self.source = Source(config)
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        """Pictures per epoch."""
        return self.source.count

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """Same as :meth:`at`, for the loader."""
        return self.at(position)

    def at(self, position: int) -> tuple[Tensor, Tensor]:
        """LR (3, crop / scale, crop / scale) and HR (3, crop, crop), nominally in [0, 1].

        Args:
            position: Any number from 0; the same position gives the same pixels.
        """
        generator = _generator("pair", self.seed, position)
        hr = self.source.crop(self._index(position), self.config.crop, generator)
        across, down = torch.rand(2, generator=generator).tolist()
        if across < self.config.horizontal:
            hr = hr.flip(2)
        if down < self.config.vertical:
            hr = hr.flip(1)
        return self.degrade(hr, generator), hr

    def batches(
        self, positions: Iterable[list[int]], *, pin: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One (LR, HR) batch per list of positions, in order, prepared ahead by the workers.

        Args:
            positions: The positions of each batch.
            pin: Whether to page-lock the batches, for a faster copy to a GPU.
        """
        workers = self.config.workers
        loader = DataLoader(
            self,
            batch_sampler=positions,
            num_workers=workers,
            worker_init_fn=_stand_apart if workers else None,
            prefetch_factor=4 if workers else None,
            pin_memory=pin,
            generator=torch.Generator(),
        )
        return _one_line(iter(loader))

    def _index(self, position: int) -> int:
        epoch, within = divmod(position, self.source.count)
        if epoch != self._epoch:
            self._order = torch.randperm(self.source.count, generator=_generator("epoch", self.seed, epoch))
            self._epoch = epoch
        return int(self._order[within])
