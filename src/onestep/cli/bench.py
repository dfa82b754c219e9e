"""``onestep bench``."""

import json
from pathlib import Path
from typing import Annotated

import typer

from onestep.cli import options as o
from onestep.cli.inputs import make_room
from onestep.cli.screen import Screen
from onestep.core.errors import UsageError


def bench(
    model: o.Model = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Timed runs of each.", show_default=True)
    ] = 5,
    rivals: Annotated[
        Path | None, typer.Option("--rivals", metavar="DIR", help="Folder with the packages of other tools.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Report: .md or .json.")
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Measure speed and memory on this machine, as ratios against named rivals in the same run."""
    del debug
    if output is not None and output.suffix.lower() not in (".md", ".json"):
        raise UsageError(f"{output}: a report ends in .md or .json")
    if output is not None:
        make_room(output.parent)
    screen = Screen(as_json, quiet, verbose)
    from onestep.bench import bench as measure
    from onestep.bench.report import markdown
    from onestep.checkpoint import replace_file

    report = measure(model, repeats=repeats, rivals=rivals, notice=screen.say)
    text = markdown(report)
    if output is not None:
        whole = text if output.suffix.lower() == ".md" else json.dumps(report.to_json(), indent=1) + "\n"
        replace_file(output, lambda temporary: temporary.write_text(whole, "utf-8"))
    screen.record(report.to_json())
    screen.say(text)
