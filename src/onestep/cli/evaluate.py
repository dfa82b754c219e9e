"""``onestep evaluate``."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from onestep.cli import options as o
from onestep.cli.screen import Screen

Folder = Annotated[Path | None, typer.Option("--hr", metavar="DIR", help="The true pictures.")]


def evaluate(
    context: typer.Context,
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
    also: Annotated[
        str | None,
        typer.Option("--also", metavar="A,B", help="Score further models beside it, with their defaults."),
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
        typer.Option("--output", "-o", metavar="FILE", help="Report: .json, .csv, .md or .html; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="TEXT", help="What the scored one is called in tables.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="paper", help="Show the rows of the papers' tables beside ours."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="Which test set of the papers the pictures are."),
    ] = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="No pictures in the .html report.")] = False,
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
    from onestep.cli.reports import Output

    others = tuple(one for word in (also or "").split(",") if (one := word.strip()))
    given = scoring.Given(
        hr,
        sr,
        lr,
        model,
        preset,
        realism,
        tuple(option or ()),
        sweep,
        others,
        seed,
        tile,
        overlap,
        device,
        dtype,
    )
    command = shlex.join(("onestep", *context.obj))
    where = Output(tuple(output or ()), against, dataset, not no_images, command)
    wanted = scoring.Wanted(metrics, protocol, scale, where, workers, name)
    screen = Screen(as_json, quiet, verbose)
    code = (
        scoring.compare(tuple(reports or ()), given, wanted, screen)
        if compare
        else scoring.score(tuple(reports or ()), given, wanted, screen)
    )
    if code:
        raise typer.Exit(code)
