"""``onestep evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from onestep.cli import options as o
from onestep.cli.screen import Screen

Folder = Annotated[Path | None, typer.Option("--hr", metavar="DIR", help="The true pictures.")]


def evaluate(
    reports: Annotated[
        list[Path] | None, typer.Argument(metavar="[REPORT...]", help="Finished reports, for --compare.")
    ] = None,
    hr: Folder = None,
    sr: Annotated[
        Path | None, typer.Option("--sr", metavar="DIR", help="Finished pictures to score.")
    ] = None,
    lr: Annotated[Path | None, typer.Option("--lr", metavar="DIR", help="Small pictures to upscale.")] = None,
    model: o.Model = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="P", help="Make the small pictures from HR by this degradation."),
    ] = None,
    realism: o.Realism = None,
    option: o.ModelOptions = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="NAME=A,B,C", help="Score the model once per value of an option."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="A,B", help="Which scores; default: those of the protocol."),
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="P", help="How scores are taken.", show_default=True)
    ] = "full",
    scale: Annotated[
        int | None,
        typer.Option("--scale", "-s", metavar="S", min=1, help="The factor of finished pictures."),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", metavar="FILE", help="Report: .json, .csv or .md; repeatable."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Join finished reports into one.")] = False,
    workers: Annotated[
        str, typer.Option("--workers", metavar="N|auto", help="Processes that score.", show_default=True)
    ] = "auto",
    tile: o.Tile = "auto",
    overlap: o.Overlap = None,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Score finished pictures (--sr), or a model on small ones (--lr) or on ones it is given (--preset)."""
    del debug
    from onestep.cli import scoring

    given = scoring.Given(
        hr, sr, lr, model, preset, realism, tuple(option or ()), sweep, seed, tile, overlap, device, dtype
    )
    wanted = scoring.Wanted(metrics, protocol, scale, tuple(output or ()), workers)
    screen = Screen(as_json, quiet, verbose)
    code = (
        scoring.compare(tuple(reports or ()), given, wanted, screen)
        if compare
        else scoring.score(tuple(reports or ()), given, wanted, screen)
    )
    if code:
        raise typer.Exit(code)
