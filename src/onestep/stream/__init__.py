"""Pictures of any height, file to file: read, restored and written strip by strip.

Memory depends on the width of a picture and not on its height. What was written stays, whatever happens: the
same call goes on behind the last strip, and the file becomes the same, byte for byte, as if nothing had been.
"""

import dataclasses
import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from onestep import __version__
from onestep.core import picture_write
from onestep.core.errors import UsageError
from onestep.core.picture import MAX_PIXELS, Picture, from_raster
from onestep.core.profile import profile_of
from onestep.core.working import Working
from onestep.onepass import warn_of_overlap
from onestep.plan import Plan, Settings, halved
from onestep.runtime import release_memory
from onestep.stream.growing import Growing, forget
from onestep.stream.rows import Flow, Window
from onestep.stream.sinks import STREAMABLE, Sink, make_sink, strip_rows
from onestep.stream.sources import Seen, Source, first_row, middle, open_rows
from onestep.stream.stages import Held, Recolored, Resized, Restored
from onestep.upscaler import Progress, Upscaler

__all__ = ["StoppedError", "forget", "memory_needed", "reason_against", "upscale_file"]

_SEEN: Final = 512
"""Side of the middle of a picture that decides what a model decides once for a whole one."""
_LARGEST_BAND: Final = 2**29
"""Bytes of a row of tiles, restored: automatic tiles are made smaller until it fits."""
_FLOAT_PIXEL: Final = 12
_ROWS_OF_TILES: Final = 2.4
"""Rows of tiles, restored, that memory holds at a time (measured)."""
_WAITING: Final = 2**26
"""Bytes of strips that are compressed or wait for it."""


class StoppedError(Exception):
    """The work was stopped between two strips, as asked; the same call continues it."""


@dataclass(frozen=True)
class _Output:
    """The rows of the result."""

    image: Window
    beside: Window | None
    """The rest of the colours, and alpha."""
    about: Picture
    """One row of the source."""

    def read(self, top: int, bottom: int) -> Picture:
        image = self.image.read(top, bottom)
        known, picture = Working(image, profile_of(self.about.icc)), replace(self.about, rgb=image)
        if self.beside is not None:
            rest, alpha = self.beside.read(top, bottom).split([3, 1], 1)
            has_alpha = self.about.alpha is not None
            known = replace(known, rest=rest.clone(), alpha=alpha if has_alpha else None)
            picture = replace(picture, alpha=alpha if has_alpha else None)
        return known.finish(picture, image, (bottom - top, self.image.width))


def reason_against(target: Path, color: str, consistent: bool = False) -> str | None:
    """Why a result cannot be made strip by strip; None where it can.

    Args:
        target: The result; its extension decides the format.
        color: The colour fix that is used.
        consistent: Whether the result is to be moved so that its downscaling is the input.
    """
    name = picture_write.format_of(target)
    if name not in STREAMABLE:
        return f"{target}: {name} is not written strip by strip; use .png, .tif or .jpg"
    if color == "adain":
        return "the colour fix adain needs the whole picture; use --color wavelet or none"
    if consistent:
        return "--consistent needs the whole picture; use --no-stream"
    return None


def memory_needed(up: Upscaler, plan: Plan, settings: Settings) -> int:
    """Bytes that a picture takes strip by strip, estimated, the network's own parameters aside.

    An input that cannot be read by rows takes its own size beside that.
    """
    tile = _tile(plan, settings, up)
    row = tile * up.model.traits.scale * plan.width * _FLOAT_PIXEL
    return int(_ROWS_OF_TILES * row) + up.layer_memory(replace(plan, tile=tile)) + _WAITING


def upscale_file(
    up: Upscaler,
    source: str | Path,
    target: str | Path,
    settings: Settings | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    quality: int = 95,
    keep_metadata: bool = True,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Plan:
    """Upscale a picture file of any height into another, in bounded memory; go on where a run was stopped.

    Beside the target lie, until it is complete, ``.NAME.part`` and ``.NAME.part.jsonl``; the latter stays
    until ``forget(target)``, so that a caller can note first that the target is finished. While it is there,
    the same call finds the target finished and does nothing.

    Args:
        up: The model.
        source: Any picture file. PNG and TIFF are read by rows; others are held as they are stored.
        target: PNG, TIFF or JPEG. Its pixels are those of ``up(source, ...)`` with the same tile, if no
            resize is needed (scale is a power of the model's) and no alpha is there; else within a grey
            level, or, at 60 000 rows, 0.004 of the range: see ``stream.stages``.
        settings: Size, seed, tile and colour fix. An automatic tile is chosen once, when a file is begun.
        options: The model's own. A model that looks at the whole picture once sees its middle instead.
        quality: 1 to 100, for JPEG.
        keep_metadata: False drops ICC (colours become sRGB), EXIF, XMP and resolution.
        max_pixels: Refuse sources whose header announces more.
        progress: Called with the finished share after every strip.
        stop: Asked after every strip whether to stop there.

    Raises:
        InputError: The source cannot be read, the target cannot be written, or another process writes it.
        UsageError: What cannot be made strip by strip, or as a call of the upscaler.
        StoppedError: ``stop`` said so.
    """
    source, target, settings = Path(source), Path(target), settings or Settings()
    color = settings.color or up.model.traits.color
    against = reason_against(target, color, settings.consistent)
    if against is not None:
        raise UsageError(against)
    rows = open_rows(source, max_pixels)
    chosen = up.options(options or {})
    plan = up.plan(rows.width, rows.height, settings, layers=False)
    saving = (quality, keep_metadata)
    growing = Growing(target, _digest(source, up, settings, chosen, saving))
    if growing.finished():
        return plan
    tile = growing.facts["tile"] if growing.begun else _tile(plan, settings, up)
    if tile != plan.tile:
        overlap = None if settings.overlap is None else min(settings.overlap, tile // 2)
        plan = up.plan(rows.width, rows.height, replace(settings, tile=tile, overlap=overlap), layers=False)
    warn_of_overlap(settings, plan)
    about = from_raster(first_row(rows))
    with growing, torch.inference_mode():
        output = _output(up, rows, about, settings, chosen, plan)
        if about.icc is not None and not keep_metadata and profile_of(about.icc) is None:
            about.in_srgb()  # says once that the profile is dropped
            output = replace(output, about=replace(about, icc=None))
        _write(growing, output, target, plan, saving, progress, stop)
    return plan


def _output(
    up: Upscaler, rows: Source, about: Picture, settings: Settings, options: Any, plan: Plan
) -> _Output:
    """The stages from a file to the rows of the result."""
    flow: Flow = Seen(rows)
    seen, color = middle(rows, _SEEN), settings.color or up.model.traits.color
    maps = {
        field.name: value
        for field in dataclasses.fields(options)
        if isinstance(value := getattr(options, field.name), Tensor) and value.ndim == 4
    }
    options = dataclasses.replace(options, **dict.fromkeys(maps, 0.0))
    for done in range(plan.passes):
        if done:
            seen = up.engine.restore(
                seen, [options], seed=settings.seed, tile=plan.tile, overlap=settings.overlap
            )[0][0][..., :_SEEN, :_SEEN]
        fitted = {
            name: Resized(Held(value.float()), (flow.height, flow.width), "bilinear", clip=False)
            for name, value in maps.items()
        }
        restored = Restored(
            flow, up.engine, options, settings.seed, plan.tile, settings.overlap, seen, fitted
        )
        size = (restored.height, restored.width)
        flow = Recolored(restored, Resized(flow, size)) if color == "wavelet" else restored
    size = (plan.height, plan.width)
    if (flow.height, flow.width) != size:
        flow = Resized(flow, size)
    plain = about.alpha is None and profile_of(about.icc) is None
    beside = None if plain else Window(Resized(Seen(rows, beside=True), size, clip=False))
    return _Output(Window(flow), beside, about)


def _write(
    growing: Growing,
    output: _Output,
    target: Path,
    plan: Plan,
    saving: tuple[int, bool],
    progress: Progress | None,
    stop: Callable[[], bool] | None,
) -> None:
    """Append the strips that are missing, and finish the file."""
    quality, keep_metadata = saving
    first = output.about.raster(target, keep_metadata=keep_metadata)
    rows = strip_rows(target, plan.width, first.array.shape[-1] * first.array.itemsize, quality)
    sink = _sink(target, output, plan, rows, saving)
    strips = -(-plan.height // rows)
    if growing.begun:
        growing.go_on()
    else:
        growing.begin({"tile": plan.tile}, sink.head())
    flatten = picture_write.format_of(target) in picture_write.WITHOUT_ALPHA
    workers = min(os.cpu_count() or 1, 4)
    pending: deque[Future[tuple[bytes, int, int]]] = deque()

    def settle(most: int) -> None:
        while len(pending) > most:
            growing.add(*pending.popleft().result())
            release_memory()  # else holes in the heap let it grow slowly with the number of strips
            if progress is not None:
                progress(len(growing.strips) / strips)

    with ThreadPoolExecutor(workers) as pool:
        for index in range(len(growing.strips), strips):
            part = output.read(index * rows, min((index + 1) * rows, plan.height))
            array = part.raster(target, keep_metadata=keep_metadata).array
            if flatten and array.shape[-1] in (2, 4):
                array = picture_write.on_white(array)
            pending.append(pool.submit(sink.strip, index, array))
            settle(workers)
            if stop is not None and stop():
                settle(0)
                raise StoppedError
        settle(0)
    growing.finish(sink)


def _sink(target: Path, output: _Output, plan: Plan, rows: int, saving: tuple[int, bool]) -> Sink:
    """The sink, from a small file that the ordinary writer makes of a few rows of nothing."""
    quality, keep_metadata = saving
    about = output.about
    blank = torch.zeros(1, 3, min(16, plan.height), plan.width)
    alpha = None if about.alpha is None else torch.ones_like(blank[:, :1])
    raster = replace(about, rgb=blank, alpha=alpha).raster(target, keep_metadata=keep_metadata)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / f"small{target.suffix}"
        whole = (plan.height, plan.width)
        picture_write.store(target, raster, quality=quality, lossless=True, whole=whole, into=small)
        return make_sink(target, small.read_bytes(), plan.height, rows, quality)


def _tile(plan: Plan, settings: Settings, up: Upscaler) -> int:
    """The side of tiles; where it is automatic, so that a row of them fits."""
    traits, tile = up.model.traits, plan.tile
    if settings.tile == "auto":
        while tile * traits.scale * plan.width * _FLOAT_PIXEL > _LARGEST_BAND and halved(tile, traits) < tile:
            tile = halved(tile, traits)
    return tile


def _digest(source: Path, up: Upscaler, settings: Settings, options: Any, saving: tuple[int, bool]) -> str:
    """Stands for everything that decides the content of a result."""
    digest = hashlib.blake2b(digest_size=16)
    with source.open("rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    for name, tensor in sorted(up.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    words: list[Any] = [
        __version__,
        up.name,
        str(up.device),
        str(up.dtype),
        dataclasses.asdict(settings),
        saving,
    ]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        words.append((field.name, value.tolist() if isinstance(value, Tensor) else value))
    digest.update(repr(words).encode())
    return digest.hexdigest()
