"""``onestep evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onestep.cli import options as o
from onestep.cli.inputs import make_room
from onestep.cli.screen import Screen, complain
from onestep.core.errors import UsageError

if TYPE_CHECKING:
    from onestep.evaluate import Pair

Folder = Annotated[Path, typer.Option("--hr", metavar="DIR", help="The true pictures.")]


def evaluate(
    hr: Folder,
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
    metrics: Annotated[
        str, typer.Option("--metrics", metavar="A,B", help="Which scores, separated by commas.")
    ] = "psnr-y,ssim-y,lpips-squeeze,niqe",
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="P", help="How scores are taken.", show_default=True)
    ] = "full",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Report: .json, .csv or .md.")
    ] = None,
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
    if sum(given is not None for given in (sr, lr, preset)) != 1:
        raise UsageError("give one of --sr DIR, --lr DIR and --preset P beside --hr DIR")
    if sr is not None and (model is not None or realism is not None or option):
        raise UsageError(
            "--sr scores finished pictures: --model, --realism and --option have no meaning there"
        )
    if output is not None and output.suffix.lower() not in (".json", ".csv", ".md"):
        raise UsageError(f"{output}: a report ends in .json, .csv or .md")
    screen = Screen(as_json, quiet, verbose)
    from onestep import evaluate as journey
    from onestep.runtime import pick_device

    how, place = journey.protocol(protocol), pick_device(device)
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    if not names:
        raise UsageError("--metrics names none; onestep evaluate --help shows the usual ones")
    if output is not None:
        make_room(output.parent)
    about: dict[str, Any] = {}
    with screen.warnings():
        if sr is not None:
            pairs, alone = journey.finished(sr, hr)
        else:
            pairs, alone, about = _with_model(
                lr, hr, preset, model, realism, option or [], device, dtype, seed
            )
        with screen.progress("evaluate") as report:
            found = journey.evaluate(pairs, names, how, device=place, failed=alone, progress=report)
    found.about = about
    for name, why in found.skipped.items():
        complain(f"{name} left out: {why}")
    for why in found.failed.values():
        complain(why)
    if output is not None:
        found.write(output)
    screen.record(found.to_json())
    values = [(name, "–" if (mean := found.mean(name)) is None else f"{mean:.4f}") for name in found.metrics]
    screen.table(f"{len(found.rows)} pictures, protocol {how.name}", ("metric", "mean"), values)
    if found.failed or not found.rows:
        raise typer.Exit(1)


def _with_model(
    lr: Path | None,
    hr: Path,
    preset: str | None,
    model: str | None,
    realism: float | None,
    option: list[str],
    device: str,
    dtype: str,
    seed: int,
) -> "tuple[list[Pair], dict[str, str], dict[str, Any]]":
    """Pairs that a model restores, those without a partner, and what the report says about the model."""
    from onestep import catalog, hub
    from onestep import evaluate as journey
    from onestep.cli.upscale import model_options
    from onestep.core.picture import Picture
    from onestep.degrade.presets import preset as named
    from onestep.upscaler import Upscaler

    entry = catalog.find(model)
    up = Upscaler(catalog.load(entry), device=device, dtype=dtype, name=entry.name, card=entry.card)
    chosen = model_options(up, realism, option)
    about = {
        "model": entry.name,
        "weights_sha256": hub.sha256(entry.path) if entry.path else None,
        "options": {**entry.card.defaults, **chosen},
        "degradation": preset,
        "seed": seed,
        "device": str(up.device),
        "dtype": str(up.dtype).removeprefix("torch."),
    }

    def restore(picture: Picture) -> Picture:
        return up(picture, seed=seed, **chosen)

    if preset is not None:
        return journey.degraded(hr, named(preset, up.model.traits.scale), restore, seed), {}, about
    if lr is None:
        raise UsageError("give --lr DIR or --preset P")
    return *journey.restored(lr, hr, restore), about
