"""``onestep train``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onestep.cli import options as o
from onestep.cli.screen import INTERRUPTED, Screen
from onestep.core.errors import UsageError

if TYPE_CHECKING:
    from onestep.train import Progress


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A name of --list, FILE.py:function, or a run's recipe.json."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="Change a value of the recipe; repeatable."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="The run folder; default: runs/RECIPE.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="FILE", help="Start from this release file's weights.")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", metavar="N", min=0, help="Stop cleanly after this long."),
    ] = None,
    device: o.Device = "auto",
    listing: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Train a recipe, or continue it: the same command again picks up where it stopped."""
    del debug
    screen = Screen(as_json, quiet, verbose)
    from onestep.core.config import override, to_dict
    from onestep.recipe import outlined
    from onestep.recipes import RECIPES
    from onestep.recipes import recipe as named

    if listing:
        for name, make in RECIPES.items():
            one = make()
            screen.record({"name": name, "method": one.method, "steps": one.train.steps})
        rows = [(name, (one := make()).method, f"{one.train.steps}") for name, make in RECIPES.items()]
        screen.table("", ("recipe", "method", "steps"), rows)
        return
    if recipe is None:
        raise UsageError("name a recipe; onestep train --list shows them")
    chosen = override(named(recipe), settings or [])
    folder = run or Path("runs") / chosen.name
    if dry_run:
        from onestep.train.memory import estimate

        objective = outlined(chosen.objective)
        count = sum(p.numel() for members in objective.groups().values() for p in members)
        whole = sum(p.numel() for p in objective.parameters())
        screen.say(json.dumps(to_dict(chosen), indent=1))
        memory = estimate(objective, chosen)
        screen.say(f"{whole:,} parameters, {count:,} of them trained; would run in {folder}")
        screen.say(f"memory: {memory}")
        found = {"parameters": whole, "trained": count, "memory": memory.total}
        screen.record({"recipe": to_dict(chosen), "run": str(folder), **found})
        return
    from onestep.train import StoppedError
    from onestep.train import train as journey

    with screen.warnings(), screen.progress(chosen.name) as report:

        def progress(at: "Progress") -> None:
            losses = "  ".join(f"{name} {value:.4g}" for name, value in at.losses.items() if "/" in name)
            report(at.step / at.steps, f"step {at.step}  {losses}")

        try:
            released = journey(
                chosen,
                folder,
                init=init,
                max_minutes=max_minutes,
                device=device,
                progress=progress,
                notice=screen.say,
            )
        except StoppedError as error:
            screen.say(str(error))
            raise typer.Exit(INTERRUPTED) from None
    screen.say(f"{released}")
    screen.record({"recipe": chosen.name, "run": str(folder), "release": str(released)})
