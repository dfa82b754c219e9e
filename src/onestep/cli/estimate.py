"""``onestep degrade --estimate``: how blurred and how noisy pictures are."""

import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from onestep.cli.inputs import find
from onestep.cli.screen import Screen, complain
from onestep.core.errors import InputError, OneStepError


def estimate(inputs: Sequence[str], model: str | None, max_pixels: int, screen: Screen, debug: bool) -> None:
    """Print blur and noise of every picture, from 0 (none) to 1 (worst).

    Raises:
        UsageError: ``model`` is no release file of an estimator.
        InputError: It cannot be read.
    """
    from onestep import estimates
    from onestep.core.picture import read
    from onestep.core.working import working

    net = estimates.load_estimator(Path(model).expanduser() if model else None)
    rows: list[tuple[str, str, str]] = []
    failed = 0
    found = find(inputs)
    with screen.warnings(), screen.progress("estimate") as report:
        for index, one in enumerate(found):
            report(index / len(found), one.path.name)
            row = {"input": str(one.path)}
            try:
                if one.problem:
                    raise InputError(one.problem)
                blur, noise = estimates.estimate(net, working(read(one.path, max_pixels)).rgb)
            except (OneStepError, OSError, MemoryError) as error:
                failed += 1
                if debug:
                    traceback.print_exception(error)
                complain(str(error) if str(one.path) in str(error) else f"{one.path}: {error}")
                screen.record({**row, "status": "failed", "blur": None, "noise": None, "error": str(error)})
                continue
            rows.append((str(one.path), f"{blur:.3f}", f"{noise:.3f}"))
            screen.record({**row, "status": "ok", "blur": blur, "noise": noise, "error": None})
    screen.table("", ("picture", "blur", "noise"), rows)
    if failed:
        raise typer.Exit(1)
