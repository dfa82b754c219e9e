"""``onestep degrade``."""

import traceback
from pathlib import Path
from typing import Annotated

import typer

from onestep.cli import options as o
from onestep.cli.estimate import estimate
from onestep.cli.inputs import extension_of, file_name, find, is_folder, make_room, pair
from onestep.cli.screen import Screen, complain
from onestep.core.errors import InputError, OneStepError, UsageError


def degrade(
    inputs: o.Inputs,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", help="A file for one input, else a folder.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="P", help="bicubic, average-pool, realesrgan, resshift …"),
    ] = None,
    scale: Annotated[int, typer.Option("--scale", "-s", metavar="S", min=1, help="HR side / LR side.")] = 4,
    seed: o.Seed = 0,
    ext: o.Extension = None,
    suffix: Annotated[
        str, typer.Option("--suffix", metavar="TEXT", help="After the name, in a folder.")
    ] = "",
    quality: o.Quality = 95,
    max_pixels: o.MaxPixels = 500_000_000,
    estimated: Annotated[
        bool, typer.Option("--estimate", help="Make nothing; print how blurred and noisy the inputs are.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", "-n", metavar="FILE", help="A release file of another estimator."),
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Make small pictures from large ones, as a camera or the web would; same seed, same pixels."""
    screen = Screen(as_json, quiet, verbose)
    if estimated:
        if output is not None or preset is not None:
            raise UsageError("--estimate makes no pictures: leave --output and --preset out")
        estimate(inputs, model, max_pixels, screen, debug)
        return
    if output is None or preset is None:
        raise UsageError("give --output and --preset, or --estimate")
    if model is not None:
        raise UsageError("--model names an estimator, which only --estimate uses")
    in_folder, extension = is_folder(output, inputs, suffix, extension_of(ext)), extension_of(ext or "png")
    target = Path(output).expanduser()
    jobs = pair(find(inputs), target, in_folder, lambda source: file_name(source, suffix, extension))
    from onestep.core.picture import read
    from onestep.data import degraded
    from onestep.degrade.presets import preset as named

    degradation = named(preset, scale)
    make_room(target if in_folder else target.parent)
    failed = 0
    with screen.warnings(), screen.progress("degrade") as report:
        for index, job in enumerate(jobs):
            report(index / len(jobs), job.source.name)
            row = {"input": str(job.source), "output": str(job.target), "preset": preset, "seed": seed}
            try:
                if job.problem:
                    raise InputError(job.problem)
                small = degraded(read(job.source, max_pixels), degradation, seed, job.source.stem)
                small.save(job.target, quality=quality)
            except (OneStepError, OSError, MemoryError) as error:
                failed += 1
                if debug:
                    traceback.print_exception(error)
                complain(str(error) if str(job.source) in str(error) else f"{job.source}: {error}")
                screen.record({**row, "status": "failed", "error": str(error)})
                continue
            screen.say(f"{job.source} -> {job.target}  {small.width}x{small.height}")
            screen.record(
                {**row, "status": "ok", "width": small.width, "height": small.height, "error": None}
            )
    if failed:
        raise typer.Exit(1)
