"""A batch on the screen: bars and lines while it runs, one JSON line per input, and how it ends."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, Final

from onestep.batch import local
from onestep.batch.item import Item, Outcome
from onestep.batch.manifest import Manifest
from onestep.batch.worker import Task, Worker
from onestep.cli.interrupt import Interrupt
from onestep.cli.screen import INTERRUPTED, Screen, complain, megabytes
from onestep.core.errors import UsageError
from onestep.stream import memory_needed
from onestep.upscaler import Upscaler

_LARGE: Final = 2**28
"""Bytes of pixels from which it is said how much memory a picture takes."""


@dataclass(frozen=True)
class Engine:
    """Where a batch runs."""

    name: str = "local"
    """``local`` or ``ray``."""
    address: str | None = None
    """Of a Ray cluster; None: this machine."""
    cores: int | None = None
    """Of a CPU, per Ray worker; None: a default."""


@dataclass(frozen=True)
class Batch:
    """How a batch is shown."""

    screen: Screen
    manifest: Manifest
    up: Upscaler
    engine: Engine = field(default_factory=Engine)
    debug: bool = False
    """Whether the traceback of what fails is shown."""

    def work(self, items: Sequence[Item]) -> int:
        """Do the items; returns the exit code."""
        journal = self.manifest.journal()
        outcomes: list[Outcome] = []
        if journal is not None:
            journal.claim()
        try:
            with self.screen.progress("upscale") as report, Interrupt() as interrupt:

                def watch(index: int, done: float) -> None:
                    report((index + done) / len(items), items[index].source.name)

                worker = Worker(self.manifest, self.up, journal, begin=self._begin)
                numbered = list(enumerate(items))
                if self.engine.name == "ray":
                    found = _ray_engine().run(
                        worker, numbered, interrupt, address=self.engine.address, cores=self.engine.cores
                    )
                else:
                    found = local.run(worker, numbered, watch, interrupt)
                for outcome in found:
                    outcomes.append(outcome)
                    report(len(outcomes) / len(items), items[outcome.index].source.name)
                    self._show(outcome, items[outcome.index])
                if interrupt() and len(outcomes) < len(items):
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            kept = sum(outcome.status in ("ok", "skipped") for outcome in outcomes)
            complain(f"interrupted: {kept} of {len(items)} finished and kept; the same command continues")
            return INTERRUPTED
        finally:
            if journal is not None:
                journal.release()
        return exit_code(outcomes)

    def preview(self, items: Sequence[Item]) -> int:
        """Say what would be done, without doing it; returns the exit code."""
        worker = Worker(self.manifest, self.up, self.manifest.journal(), dry=True)
        outcomes: list[Outcome] = []
        lines: list[tuple[str, ...]] = []
        for index, item in enumerate(items):
            task = worker.prepare(index, item)
            if isinstance(task, Outcome):
                outcomes.append(task)
                self._show(task, item)
                continue
            plan = task.plan
            memory = self._strips(task) if task.strips else task.memory
            size = {"width": plan.width, "height": plan.height, "tiles": plan.tiles}
            self.screen.record({**self._row(item), **size, "status": "planned", "memory": memory})
            where = f"{plan.width}x{plan.height}"
            lines.append((str(item.source), str(item.target), where, str(plan.tiles), megabytes(memory)))
        self.screen.table("", ("input", "output", "size", "tiles", "memory"), lines)
        return exit_code(outcomes, len(lines))

    def _begin(self, task: Task) -> None:
        """Say what a large picture will take, before it is begun."""
        plan = task.plan
        if plan.tiles == 1 and plan.memory < _LARGE:
            return
        memory = self._strips(task) if task.strips else plan.memory + self.up.layer_memory(plan)
        needs = f"{'strip by strip, ' * task.strips}about {megabytes(memory)} of memory"
        line = f"{task.item.source}: {plan.width}x{plan.height} in {plan.tiles} tiles, {needs}"
        (self.screen.detail if plan.memory < _LARGE else self.screen.say)(line)

    def _strips(self, task: Task) -> int:
        """Bytes that a picture takes that goes strip by strip."""
        return memory_needed(self.up, task.plan, self.manifest.settings)

    def _show(self, outcome: Outcome, item: Item) -> None:
        row = self._row(item)
        row |= {name: getattr(outcome, name) for name in ("status", "width", "height", "seconds", "tiles")}
        if outcome.status == "failed":
            row |= {"error": outcome.error}
            if self.debug:
                sys.stderr.write(outcome.trace or "")
            complain(outcome.error or "")
        elif outcome.status == "skipped":
            self.screen.detail(f"{item.target}: is there already, skipped")
        else:
            size = f"{outcome.width}x{outcome.height}"
            self.screen.say(f"{item.source} -> {item.target}  {size}  {outcome.seconds:.1f} s")
            if outcome.difference is not None:
                row |= {"difference": outcome.difference}
                bound = f"{255 * outcome.difference:.2f} of 255"
                kernel = self.manifest.settings.downscale
                lossy = item.target.suffix.lower() in (".jpg", ".jpeg", ".webp")
                when = ", before it is compressed" if lossy else ""
                self.screen.say(
                    f"  downscaled ({kernel}), it differs from the input by at most {bound}{when}"
                )
        self.screen.record(row)

    def _row(self, item: Item) -> dict[str, Any]:
        realism = getattr(self.up.options(self.manifest.options), "realism", None)
        return {
            "input": str(item.source),
            "output": None if item.problem else str(item.target),
            "status": None,
            "width": None,
            "height": None,
            "model": self.up.name,
            "realism": realism if isinstance(realism, float | None) else "map",
            "seed": self.manifest.settings.seed,
            "seconds": None,
            "tiles": None,
            "error": None,
        }


def exit_code(outcomes: Sequence[Outcome], planned: int = 0) -> int:
    """0 all done; 1 some failed; 2 the request fits none of the inputs."""
    if outcomes and not planned and all(outcome.refused for outcome in outcomes):
        return 2
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _ray_engine() -> ModuleType:
    """The engine of several machines.

    Raises:
        UsageError: Ray is not installed.
    """
    try:
        return import_module("onestep.batch.ray_engine")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("ray"):
            raise
        raise UsageError("--engine ray needs Ray: pip install 'onestep-sr[ray]'") from error
