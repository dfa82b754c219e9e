"""Upscale a list of files, one after the other: what is finished stays, what fails does not stop the rest."""

import dataclasses
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from onestep.cli.inputs import Job
from onestep.cli.journal import Journal
from onestep.cli.screen import INTERRUPTED, Screen, complain, megabytes
from onestep.core.errors import InputError, OneStepError, UsageError
from onestep.core.picture import read
from onestep.plan import Settings
from onestep.upscaler import Upscaler

Keep = Literal["resume", "overwrite", "skip-existing"]


@dataclass(frozen=True)
class Outcome:
    """What came of one job."""

    row: dict[str, Any]
    """The JSON line."""
    refused: bool = False
    """Whether the request itself does not fit this input, so that nothing was begun."""


@dataclass(frozen=True)
class Batch:
    """How every file of a batch is done."""

    screen: Screen
    up: Upscaler
    settings: Settings
    options: dict[str, Any]
    """The model's own."""
    saving: dict[str, Any]
    """Keyword arguments of ``Picture.save``."""
    max_pixels: int
    keep: Keep
    journal: Journal | None
    """None for a single file: it is done whenever it is asked for."""
    debug: bool = False
    """Whether the traceback of what fails is shown."""

    def work(self, jobs: Sequence[Job]) -> int:
        """Do the jobs; returns the exit code."""
        outcomes: list[Outcome] = []
        try:
            with self.screen.progress("upscale") as report:
                for index, job in enumerate(jobs):

                    def share(done: float, index: int = index, name: str = job.source.name) -> None:
                        report((index + done) / len(jobs), name)

                    share(0.0)
                    outcomes.append(self._do(job, share))
                    self.screen.record(outcomes[-1].row)
        except KeyboardInterrupt:
            kept = sum(outcome.row["status"] == "ok" for outcome in outcomes)
            complain(f"interrupted: {kept} of {len(jobs)} finished and kept; the same command continues")
            return INTERRUPTED
        return exit_code(outcomes)

    def preview(self, jobs: Sequence[Job]) -> int:
        """Say what would be done, without doing it; returns the exit code."""
        outcomes: list[Outcome] = []
        lines: list[tuple[str, ...]] = []
        for job in jobs:
            outcomes.append(self._foresee(job))
            row = outcomes[-1].row
            self.screen.record(row)
            if row["status"] == "planned":
                size = f"{row['width']}x{row['height']}"
                lines.append((row["input"], row["output"], size, str(row["tiles"]), megabytes(row["memory"])))
        self.screen.table("", ("input", "output", "size", "tiles", "memory"), lines)
        return exit_code(outcomes)

    def _do(self, job: Job, share: Callable[[float], None]) -> Outcome:
        if job.problem is not None:
            return self._failed(job, InputError(job.problem))
        if self._skipped(job):
            self.screen.detail(f"{job.target}: is there already, skipped")
            return self._outcome(job, "skipped")
        started = time.perf_counter()
        try:
            picture = read(job.source, self.max_pixels)
            (result,), plan = self.up.run(picture, self.settings, [self.options], share)
            result.save(job.target, **self.saving)
            if self.journal is not None:
                self.journal.add(job.source, job.target)
        except (OneStepError, OSError, MemoryError) as error:
            return self._failed(job, error)
        seconds = round(time.perf_counter() - started, 3)
        self.screen.say(f"{job.source} -> {job.target}  {plan.width}x{plan.height}  {seconds:.1f} s")
        size = {"width": plan.width, "height": plan.height, "tiles": plan.tiles}
        return self._outcome(job, "ok", seconds=seconds, **size)

    def _foresee(self, job: Job) -> Outcome:
        if job.problem is not None:
            return self._failed(job, InputError(job.problem))
        if self._skipped(job):
            return self._outcome(job, "skipped")
        try:
            plan = self.up.plan(*upright_size(job.source, self.max_pixels), self.settings)
        except OneStepError as error:
            return self._failed(job, error)
        size = {"width": plan.width, "height": plan.height, "tiles": plan.tiles, "memory": plan.memory}
        return self._outcome(job, "planned", **size)

    def _skipped(self, job: Job) -> bool:
        if self.keep == "skip-existing":
            return job.target.exists()
        return (
            self.keep == "resume"
            and self.journal is not None
            and self.journal.finished(job.source, job.target)
        )

    def _failed(self, job: Job, error: Exception) -> Outcome:
        message = "memory ran out; ask for a smaller size" if isinstance(error, MemoryError) else str(error)
        if str(job.source) not in message and str(job.target) not in message:
            message = f"{job.source}: {message}"
        message = " ".join(message.split())
        if self.debug:
            traceback.print_exception(error)
        complain(message)
        refused = isinstance(error, UsageError)
        return dataclasses.replace(self._outcome(job, "failed", error=message), refused=refused)

    def _outcome(self, job: Job, status: str, **known: Any) -> Outcome:
        row = {
            "input": str(job.source),
            "output": None if job.problem else str(job.target),
            "status": status,
            "width": None,
            "height": None,
            "model": self.up.name,
            "realism": getattr(self.up.options(self.options), "realism", None),
            "seed": self.settings.seed,
            "seconds": None,
            "tiles": None,
            "error": None,
        }
        return Outcome({**row, **known})


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 all done; 1 some failed; 2 the request fits none of the inputs."""
    if outcomes and all(outcome.refused for outcome in outcomes):
        return 2
    return int(any(outcome.row["status"] == "failed" for outcome in outcomes))


def upright_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Width and height of a picture as it will be read; from its header where Pillow knows it.

    Raises:
        InputError: It cannot be read, or is larger than allowed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) >= 5
        if 0 < width * height <= max_pixels:
            return (height, width) if turned else (width, height)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # reading it in full says what is wrong, or shows that Pillow alone does not know it
    picture = read(path, max_pixels)
    return picture.width, picture.height
