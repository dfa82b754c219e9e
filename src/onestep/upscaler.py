"""Upscale one picture: any picture in, the same kind of picture out, at exactly the size asked for.

The way of a picture: RGB, alpha set aside; padded as the model's traits ask; [-1, 1]; the condition of the
whole image, once; tiles over one noise canvas (the noise depends on the seed and the place alone); cropped;
[0, 1]; colour fix. Where the factor is not the model's own, this is done again until the size is reached or
passed, and one antialiased resize follows. Then alpha, resized on its own; metadata kept.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from onestep import catalog
from onestep.checkpoint import Card
from onestep.core.color import color_fix
from onestep.core.consistent import Downscale, matched
from onestep.core.contract import ColorFix, OneStepModel
from onestep.core.errors import InputError
from onestep.core.noise import pool_bytes
from onestep.core.picture import Picture, as_picture
from onestep.core.resize import resize
from onestep.core.working import working
from onestep.knobs import options_of, warn_of_stretching
from onestep.onepass import Engine, warn_of_overlap
from onestep.plan import Plan, Settings, Tile, even, halved, make_plan, passes_needed, target_size, whole
from onestep.runtime import free_memory, out_of_memory, pick_device, pick_dtype

Progress = Callable[[float], None]
"""Called with the finished share of one picture, in (0, 1]."""

Source = str | Path | Image | np.ndarray[Any, Any] | Tensor | Picture
"""What can be upscaled."""


class Upscaler:
    """A model, ready to upscale pictures on one device."""

    def __init__(
        self,
        model: OneStepModel,
        *,
        device: str = "auto",
        dtype: torch.dtype | str | None = None,
        name: str | None = None,
        card: Card | None = None,
    ) -> None:
        """Move the model to the device and put it in evaluation mode; it stays the caller's object.

        Args:
            model: Any one-step model.
            device: ``auto``, ``cpu``, ``cuda:0``, ``mps`` …
            dtype: What to calculate in; None or ``auto``: bfloat16 where the device has it natively and the
                model keeps its quality, else float32. Parameters and pixels stay float32.
            name: For messages and reports.
            card: What is known about the weights; its ``defaults`` are the options used without asking.

        Raises:
            UsageError: No such device or precision here.
        """
        where = pick_device(device)
        self.model = model.to(where).eval()
        self.model.apply(_channels_last)
        self.engine = Engine(self.model, where, pick_dtype(dtype, where, half=model.traits.half))
        """Runs the model over images."""
        self.card = card
        self.name = name or (card.name if card else type(model).__name__)

    @classmethod
    def load(
        cls, source: str | Path | None = None, *, device: str = "auto", dtype: torch.dtype | str | None = None
    ) -> Self:
        """Make an upscaler of a model's name, a release file or a folder with one; None: the default model.

        Raises:
            UsageError: Unknown name, a file that is no release file, no such device or precision.
        """
        entry = catalog.find(source)
        return cls(catalog.load(entry), device=device, dtype=dtype, name=entry.name, card=entry.card)

    def __call__(
        self,
        image: Source,
        *,
        scale: float | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = 0,
        tile: Tile = "auto",
        overlap: int | None = None,
        color: ColorFix | None = None,
        consistent: bool = False,
        downscale: Downscale = "bicubic",
        progress: Progress | None = None,
        **options: Any,
    ) -> Picture:
        """Upscale one picture.

        Args:
            image: A file, a PIL image, an array (H, W, C), a tensor ([1,] 3, H, W) in [0, 1], or a Picture.
            scale: Any factor from 1 to 16; the result has exactly round(scale * side) pixels, half to even.
                None: the model's own.
            width: Exact width in pixels instead of a factor; ``height`` follows where it is not given.
            height: Exact height, likewise.
            seed: Same seed, same input, same model: same output.
            tile: Side of the pieces in LR pixels; ``auto``: by the model and the free memory; ``off``: whole.
            overlap: LR pixels shared by neighbouring tiles; None: as the model wants it.
            color: Colour fix against the input; None: as the model wants it.
            consistent: Move the result so that its downscaling is the input, as near as [0, 1] and
                rounding allow.
            downscale: Which downscaling that is: ``bicubic``, ``bilinear``, ``lanczos`` or ``area``.
            progress: Called with the finished share.
            options: The model's own options, such as ``realism``.

        Raises:
            InputError: The picture cannot be read, or memory does not suffice for it.
            UsageError: An option that the model lacks, an impossible size or tile.
        """
        settings = Settings(scale, width, height, seed, tile, overlap, color, consistent, downscale)
        return self.run(image, settings, [options], progress)[0][0]

    def sweep(
        self, image: Source, *, realism: Sequence[Any], progress: Progress | None = None, **same: Any
    ) -> list[Picture]:
        """Upscale one picture once per value of ``realism``; what the values have in common is computed once.

        The results equal single calls; ``same`` takes every other argument of a call. Raises as a call does.
        """
        names = {field.name for field in dataclasses.fields(Settings)}
        settings = Settings(**{name: value for name, value in same.items() if name in names})
        options = {name: value for name, value in same.items() if name not in names}
        return self.run(image, settings, [{**options, "realism": value} for value in realism], progress)[0]

    def run(
        self,
        image: Source,
        settings: Settings,
        options: Sequence[Mapping[str, Any]],
        progress: Progress | None = None,
    ) -> tuple[list[Picture], Plan]:
        """Upscale one picture once per set of options; also returns what was done in the end.

        Raises:
            InputError: As a call.
            UsageError: As a call.
        """
        chosen = [self.options(given) for given in options]
        picture = as_picture(image)
        plan = self._plan(picture.width, picture.height, settings, len(chosen))
        free = free_memory(torch.device("cpu"))
        if free is not None and plan.memory > free:
            raise InputError(
                f"{plan.width}x{plan.height} needs about {plan.memory / 1e9:.1f} GB for its pixels, and "
                f"{free / 1e9:.1f} GB of memory are free; ask for a smaller size"
            )
        if not chosen:
            return [], plan
        warn_of_overlap(settings, plan)
        for one in chosen:
            warn_of_stretching(one, picture.width, picture.height)
        try:
            with torch.no_grad():
                return self._results(picture, settings, chosen, plan, progress)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise InputError(
                "memory ran out, even with small tiles; ask for a smaller size or free memory"
            ) from error

    @property
    def device(self) -> torch.device:
        """Where it calculates."""
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """What it calculates in."""
        return self.engine.dtype

    def options(self, given: Mapping[str, Any]) -> Any:
        """The model's ``Options``, from what is given and, for the rest, the defaults of the card.

        Raises:
            UsageError: The model lacks one of them, or ``realism`` is outside [0, 1] or no picture.
        """
        return options_of(self.model.Options, self.card.defaults if self.card else {}, given, self.name)

    def plan(
        self,
        width: int,
        height: int,
        settings: Settings | None = None,
        results: int = 1,
        *,
        layers: bool = True,
    ) -> Plan:
        """What upscaling a picture of this size would take; ``layers``: in memory, those of the network too.

        Raises:
            UsageError: An impossible size or tile.
        """
        plan = self._plan(width, height, settings or Settings(), results)
        if not layers:
            return plan
        return dataclasses.replace(plan, memory=plan.memory + self.layer_memory(plan))

    def layer_memory(self, plan: Plan) -> int:
        """Bytes that the network's layers and the noise take at a time, estimated."""
        side = self.model.traits.scale
        across, down = (min(plan.tile, -(-n // side)) for n in (plan.width, plan.height))
        noise = self.model.noise_shape(torch.Size((1, 3, across, down)))
        return int(across * down * self._layer_bytes) + pool_bytes(noise[1])

    @cached_property
    def _layer_bytes(self) -> float:
        return self.engine.layer_bytes()

    def _plan(self, width: int, height: int, settings: Settings, results: int) -> Plan:
        traits = self.model.traits
        target = target_size(width, height, settings, traits)
        last = traits.scale ** (passes_needed(width, height, target, traits.scale) - 1)
        tile = self._tile(settings, width * last, height * last)
        return make_plan(width, height, settings, traits, tile=tile, results=results, ratio=self.noise_ratio)

    @cached_property
    def noise_ratio(self) -> Fraction:
        """Noise elements per LR pixel."""
        side = whole(1, self.model.traits)
        return Fraction(self.model.noise_shape(torch.Size((1, 3, side, side)))[-1], side)

    def _tile(self, settings: Settings, width: int, height: int) -> int:
        """The side of the pieces for a picture of this size, in LR pixels of the last pass."""
        traits = self.model.traits
        in_one = whole(max(width, height), traits)
        if settings.tile == "off":
            return in_one
        if settings.tile != "auto":
            return min(whole(settings.tile, traits), in_one)
        wanted = whole(max(traits.tile, 2 * (settings.overlap or 0)), traits)
        if in_one <= wanted:
            return in_one
        tile, free = wanted, free_memory(self.engine.device)
        while free is not None and tile**2 * self._layer_bytes > free / 2 and halved(tile, traits) < tile:
            tile = halved(tile, traits)
        return even(width, height, tile, settings.overlap, traits, self.noise_ratio)

    def _results(
        self,
        picture: Picture,
        settings: Settings,
        options: Sequence[Any],
        plan: Plan,
        progress: Progress | None,
    ) -> tuple[list[Picture], Plan]:
        """Run the model as often as planned; a further pass goes over each result of the first on its own."""
        scale, tile = self.model.traits.scale, plan.tile
        total = 1 + sum(len(options) * scale ** (2 * done) for done in range(1, plan.passes))
        finished = 0.0

        def one_pass(image: Tensor, some: Sequence[Any], work: float) -> list[Tensor]:
            nonlocal tile, finished

            def report(share: float) -> None:
                if progress is not None:
                    progress((finished + share * work) / total)

            out, tile = self.engine.restore(
                image, some, seed=settings.seed, tile=tile, overlap=settings.overlap, progress=report
            )
            finished += work
            return [self._recolored(one, image, settings.color) for one in out]

        seen = working(picture)
        images = one_pass(seen.rgb, options, 1)
        for again in range(1, plan.passes):
            for k, one in enumerate(options):
                images[k] = one_pass(images[k], [one], scale ** (2 * again))[0]
        size = (plan.height, plan.width)
        of = (picture.width, picture.height, settings, self.model.traits)
        done = make_plan(*of, tile=tile, results=len(options), ratio=self.noise_ratio)
        pictures = [seen.finish(picture, image, size) for image in images]
        if not settings.consistent:
            return pictures, done
        both = [matched(result, picture, settings.downscale) for result in pictures]
        worst = max(difference for _, difference in both)
        return [result for result, _ in both], dataclasses.replace(done, difference=worst)

    def _recolored(self, image: Tensor, reference: Tensor, wanted: ColorFix | None) -> Tensor:
        kind = self.model.traits.color if wanted is None else wanted
        if kind == "none":
            return image
        return color_fix(kind, image, resize(reference, (image.shape[-2], image.shape[-1])).clamp_(0, 1))


def upscale(image: Source, model: str | Path | None = None, **arguments: Any) -> Picture:
    """Upscale one picture with the model of that name or file; None: the default model.

    ``arguments`` are those of :meth:`Upscaler.load` (``device``, ``dtype``) and of a call.

    Raises:
        InputError: The picture cannot be read, or memory does not suffice for it.
        UsageError: Unknown model, an option that it lacks, an impossible size.
    """
    where = {name: arguments.pop(name) for name in ("device", "dtype") if name in arguments}
    return Upscaler.load(model, **where)(image, **arguments)


def _channels_last(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
