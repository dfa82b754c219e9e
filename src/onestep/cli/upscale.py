"""``onestep upscale``."""

import functools
import operator
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_type_hints

import typer

from onestep.cli import options as o
from onestep.cli.inputs import extension_of, file_name, find, is_folder, make_room, pair
from onestep.cli.screen import Screen
from onestep.core.errors import UsageError

if TYPE_CHECKING:
    from onestep.batch.manifest import Keep
    from onestep.plan import Settings
    from onestep.upscaler import Upscaler


def upscale(
    inputs: o.Inputs,
    output: o.Output,
    model: o.Model = None,
    scale: o.Scale = None,
    width: o.Width = None,
    height: o.Height = None,
    realism: o.Realism = None,
    realism_map: o.RealismMap = None,
    option: o.ModelOptions = None,
    tile: o.Tile = "auto",
    overlap: o.Overlap = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    color: o.Color = None,
    consistent: o.Consistent = False,
    downscale: o.Downscale = "bicubic",
    ext: o.Extension = None,
    suffix: o.Suffix = None,
    quality: o.Quality = 95,
    strip_metadata: o.Strip = False,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    skip_existing: o.SkipExisting = False,
    max_pixels: o.MaxPixels = 500_000_000,
    stream: o.Stream = None,
    engine: o.Engine = "local",
    address: o.Address = None,
    cores: o.Cores = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Upscale pictures: files, folders or globs, each to exactly the size asked for."""
    screen, keep = Screen(as_json, quiet, verbose), policy(resume, overwrite, skip_existing)
    extension = extension_of(ext)
    in_folder = is_folder(output, inputs, suffix, extension)
    if suffix is not None and Path(suffix).name != suffix and suffix:
        raise UsageError(f"--suffix {suffix}: a part of a file's name, without folders")
    if engine not in ("local", "ray"):
        raise UsageError(f"--engine {engine}: choose local or ray")
    if engine == "local" and (address is not None or cores is not None):
        raise UsageError("--address and --cores are for --engine ray")
    from onestep import catalog, hub
    from onestep.batch.manifest import Manifest
    from onestep.cli.batch import Batch, Engine
    from onestep.plan import Settings
    from onestep.upscaler import Upscaler

    words = (cast("Any", color), consistent, cast("Any", downscale))
    settings = Settings(scale, width, height, seed, tile_of(tile), overlap, *words)
    entry = catalog.find(model)
    where = ("cpu", "auto") if engine == "ray" else (device, dtype)  # workers may have other devices
    up = Upscaler(catalog.load(entry), device=where[0], dtype=where[1], name=entry.name, card=entry.card)
    target = Path(output).expanduser()
    manifest = Manifest(
        entry.name if entry.path is None or entry.where != "file" else str(entry.path.resolve()),
        settings,
        model_options(up, realism, option or [], realism_map),
        device=device,
        dtype=dtype,
        quality=quality,
        keep_metadata=not strip_metadata,
        max_pixels=max_pixels,
        keep=keep,
        strips="auto" if stream is None else "always" if stream else "never",
        folder=target if in_folder else None,
        run=secrets.token_hex(8),
        weights=hub.sha256(entry.path) if in_folder and entry.path else None,
    )
    journal = manifest.journal()
    found = find(inputs, journal.results() if journal else ())
    after = default_suffix(settings, up.model.traits.scale) if suffix is None else suffix
    items = pair(found, target, in_folder, lambda source: file_name(source, after, extension))
    if not dry_run:
        make_room(target if in_folder else target.parent)
    screen.detail(f"{up.name} on {up.device} in {str(up.dtype).removeprefix('torch.')}")
    batch = Batch(screen, manifest, up, Engine(engine, address, cores), debug)
    with screen.warnings():
        code = batch.preview(items) if dry_run else batch.work(items)
    if code:
        raise typer.Exit(code)


def policy(resume: bool, overwrite: bool, skip_existing: bool) -> "Keep":
    """What to do with results that are there.

    Raises:
        UsageError: More than one is asked for.
    """
    if resume + overwrite + skip_existing > 1:
        raise UsageError("choose one of --resume, --overwrite and --skip-existing")
    return "overwrite" if overwrite else "skip-existing" if skip_existing else "resume"


def tile_of(text: str) -> "int | Literal['auto', 'off']":
    """``--tile`` as a number or a word.

    Raises:
        UsageError: Anything else.
    """
    if text in ("auto", "off"):
        return text
    if not text.isdecimal():
        raise UsageError(f"--tile {text}: give a number of pixels, auto or off")
    return int(text)


def default_suffix(settings: "Settings", scale: int) -> str:
    """What tells a result from its input: the factor, or the exact size."""
    if settings.width and settings.height:
        return f"_{settings.width}x{settings.height}"
    if settings.width or settings.height:
        return f"_{settings.width}w" if settings.width else f"_{settings.height}h"
    return f"_x{scale if settings.scale is None else settings.scale:g}"


def model_options(
    up: "Upscaler", realism: float | None, texts: Sequence[str], realism_map: str | None = None
) -> dict[str, Any]:
    """The model's own options, from ``--realism``, ``--realism-map`` and ``--option NAME=VALUE``, checked.

    Raises:
        UsageError: The model lacks one, or its value makes no sense.
    """
    chosen: dict[str, Any] = {} if realism is None else {"realism": realism}
    if realism_map is not None:
        if realism is not None:
            raise UsageError("--realism and --realism-map contradict each other; give one of them")
        chosen["realism"] = Path(realism_map).expanduser()
        chosen["realism"] = up.options(chosen).realism
    kinds = get_type_hints(up.model.Options)
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text}: write it as NAME=VALUE")
        if name in chosen:
            raise UsageError(f"--option {text}: {name} is given twice")
        chosen[name] = value_of(name, value, kinds[name]) if name in kinds else value
    up.options(chosen)
    return chosen


def value_of(name: str, text: str, kind: Any) -> Any:
    """A piece of text as the type that an option has; tensors cannot be typed in.

    Raises:
        UsageError: It is no such value.
    """
    from pydantic import TypeAdapter, ValidationError
    from torch import Tensor

    kinds = tuple(one for one in get_args(kind) if one is not Tensor)
    if Tensor in get_args(kind):
        kind = functools.reduce(operator.or_, kinds)
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_strings(text)
    except ValidationError as error:
        raise UsageError(f"--option {name}={text}: {error.errors()[0]['msg'].lower()}") from error
