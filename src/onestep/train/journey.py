"""From a recipe to a release file: build, resume, fit, check, write."""

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

import onestep
from onestep.checkpoint import Card, load, read, write
from onestep.core.config import to_dict
from onestep.core.contract import OneStepModel
from onestep.core.errors import UsageError
from onestep.data import Pairs, keyed
from onestep.degrade.presets import preset
from onestep.recipe import Recipe, without_folders
from onestep.runtime import pick_device
from onestep.train.check import Check
from onestep.train.loop import Progress, fit
from onestep.train.run_folder import RunFolder
from onestep.train.step import ALONE, Ranks


def train(
    recipe: Recipe,
    folder: Path,
    *,
    init: Path | None = None,
    max_minutes: float | None = None,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> Path:
    """Train a recipe, or continue it: the same call again picks up where the folder stands.

    Started by torchrun, all its processes share the work, and the first one writes.

    Args:
        recipe: What to train.
        folder: The run folder; made when missing.
        init: Release file whose weights the model starts from; a folder that has a state needs it no more.
        max_minutes: Stop cleanly after this long, state and release file saved; one step is always made.
        device: "auto", or a torch device name.
        progress: Called after every step.
        notice: Called with one-line remarks, such as what is not installed.

    Returns:
        The release file of the last step.

    Raises:
        UsageError: The recipe does not fit the folder, the data or the number of ranks.
        InputError: A file cannot be read or written.
        StoppedError: By SIGINT or SIGTERM, after the state was saved.
        DivergedError: A loss is not finite; the last saved state is kept.
    """
    deadline = math.inf if max_minutes is None else time.monotonic() + 60 * max_minutes
    place = pick_device(device)
    ranks, joined = _join(place)
    run = RunFolder(folder, writes=ranks.index == 0)
    say = notice if notice and run.writes else _silent
    try:
        result = _train(recipe, run, init, deadline, place, ranks, progress, say)
        if joined:
            dist.barrier()  # a rank that leaves early tears the threads of the others down
        return result
    finally:
        run.close()
        if joined:
            dist.destroy_process_group()


def _train(
    recipe: Recipe,
    run: RunFolder,
    init: Path | None,
    deadline: float,
    device: torch.device,
    ranks: Ranks,
    progress: Callable[[Progress], None] | None,
    notice: Callable[[str], None],
) -> Path:
    degrade = preset(recipe.degradation, recipe.data.scale)
    pairs = Pairs(recipe.data, degrade, recipe.train.seed)
    check = _check(recipe, degrade, device, notice) if run.writes else None
    torch.manual_seed(keyed("init", recipe.train.seed))
    objective = recipe.objective.build()
    if init is not None and not run.states():
        load(objective.model, read(init)[0], init)
    run.settle(to_dict(recipe))
    objective.to(device)
    if recipe.train.channels_last:
        cast("Any", objective).to(memory_format=torch.channels_last)
    if not run.open_board():
        notice("tensorboard is not installed: scalars go to log.jsonl alone (pip install tensorboard)")

    def look(model: OneStepModel, step: int) -> None:
        scores = _checked(check, model, step, run) if check else {}
        write(
            run.release(step), model.state_dict(), _card(recipe, model, step, scores), half=recipe.card.half
        )

    step = fit(
        objective,
        pairs,
        recipe.train,
        run,
        look,
        look_every=recipe.check.every,
        ranks=ranks,
        deadline=deadline,
        progress=progress,
    )
    return run.release(step)


def _silent(line: str) -> None:
    del line


def _join(device: torch.device) -> tuple[Ranks, bool]:
    """Join the processes that torchrun started (alone when it did not); whether this call joined them."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE, False
    if device.type != "cpu":
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    joined = not dist.is_initialized()
    if joined:
        dist.init_process_group(dist.get_default_backend_for_device(device))
    return Ranks(dist.get_rank(), dist.get_world_size()), joined


def _check(recipe: Recipe, degrade: Any, device: torch.device, notice: Callable[[str], None]) -> Check | None:
    """The check of a recipe; None where it wants none or nothing is held out."""
    if not recipe.check.every or not recipe.check.images:
        return None
    check = Check(recipe, degrade, device, notice)
    if not check.source.count:
        notice("no pictures are held out (data.holdout), so nothing is checked while training")
        return None
    return check


def _checked(check: Check, model: OneStepModel, step: int, run: RunFolder) -> dict[str, Any]:
    """Check, and write what was found: check-*.json, TensorBoard."""
    report = check(model)
    run.write_json(f"check-{step:08d}.json", {"step": step, "scores": report.scores})
    rows = {f"check/{label}/{name}": v for label, row in report.scores.items() for name, v in row.items()}
    run.scalars(step, rows)
    for name, image in report.pictures.items():
        run.picture(f"check/{name}", step, image)
    return {"held-out": report.scores}


def _card(recipe: Recipe, model: OneStepModel, step: int, scores: Mapping[str, Any]) -> Card:
    """What the release file says about itself.

    Raises:
        UsageError: The model does not say what it was built from.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise UsageError(
            f"{type(model).__name__} has no attribute config, so no release file can name what built it"
        )
    return Card(
        name=recipe.name,
        method=recipe.method,
        config=to_dict(config),
        traits=asdict(model.traits),
        step=step,
        license=recipe.card.license,
        recipe=without_folders(to_dict(recipe)),
        version=onestep.__version__,
        scores=dict(scores),
        limits=list(recipe.card.limits),
        attributions=list(recipe.card.attributions),
        defaults=dict(recipe.card.defaults),
    )
