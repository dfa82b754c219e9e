"""One process that does items of a batch, in three parts, so that an engine can overlap them."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from torch import device

from onestep.batch.item import Item, Outcome
from onestep.batch.journal import Journal, content_hash, unnamed
from onestep.batch.manifest import Manifest
from onestep.core.errors import InputError, OneStepError, UsageError
from onestep.core.picture import Picture, read
from onestep.core.picture_read import DAMAGE, describe
from onestep.core.picture_write import check_side
from onestep.plan import Plan
from onestep.runtime import free_memory
from onestep.stream import forget, reason_against, upscale_file
from onestep.upscaler import Progress, Upscaler

LARGE: Final = 10**9
"""Bytes of pixels in memory from which a picture is worked on strip by strip."""
_FACTS: Final = ("width", "height", "tiles", "seconds")
FAILURES: Final = (OneStepError, OSError, MemoryError)
"""What spoils one item, and leaves the others alone."""


@dataclass(frozen=True)
class Task:
    """An item that is to be done."""

    index: int
    item: Item
    plan: Plan
    strips: bool
    started: float

    @property
    def memory(self) -> int:
        """Bytes that it occupies while it is on its way."""
        return 0 if self.strips else self.plan.memory


@dataclass(frozen=True)
class Loaded:
    """A task with its picture, unless that is read strip by strip."""

    task: Task
    picture: Picture | None
    content: str


@dataclass(frozen=True)
class Restored:
    """A task with its result, unless that is in its file already."""

    task: Task
    picture: Picture | None
    content: str
    plan: Plan


class Worker:
    """Does items. ``load`` and ``write`` may run in other threads, beside ``restore``."""

    def __init__(
        self,
        manifest: Manifest,
        up: Upscaler,
        journal: Journal | None,
        *,
        dry: bool = False,
        begin: Callable[[Task], None] | None = None,
    ) -> None:
        """A worker with its model and its journal.

        Args:
            manifest: What to do.
            up: The model.
            journal: Of the batch.
            dry: Only to see what items need.
            begin: Called before the model sees a picture.
        """
        self.manifest, self.up, self.journal, self._dry = manifest, up, journal, dry
        self._begin = begin

    def prepare(self, index: int, item: Item) -> Task | Outcome:
        """See what an item needs, from the header of its file; done or hopeless ones are settled."""
        started = time.perf_counter()
        settled = self.settled(index, item)
        if settled is not None:
            return settled
        try:
            size = upright_size(item.source, self.manifest.max_pixels)
            plan = self.up.plan(*size, self.manifest.settings, layers=self._dry)
            check_side(item.target, (plan.height, plan.width))
            return Task(index, item, plan, self._strips(item, plan), started)
        except FAILURES as error:
            return self.failed(index, item, error)

    def settled(self, index: int, item: Item) -> Outcome | None:
        """What came of an item that needs nothing more: its result is there, or there is no input."""
        if item.problem is not None:
            return self.failed(index, item, InputError(item.problem))
        try:
            known = self._finished(item)
        except FAILURES as error:
            return self.failed(index, item, error)
        if known is None:
            return None
        if not self._ours(known):
            return Outcome(index, "skipped")
        return Outcome(index, "ok", **{name: known[name] for name in _FACTS})

    def load(self, task: Task) -> Loaded | Outcome:
        """Read the picture."""
        try:
            content = "" if self.journal is None else content_hash(task.item.source)
            picture = None if task.strips else read(task.item.source, self.manifest.max_pixels)
            return Loaded(task, picture, content)
        except FAILURES as error:
            return self.failed(task.index, task.item, error)

    def restore(
        self, loaded: Loaded, progress: Progress | None = None, stop: Callable[[], bool] | None = None
    ) -> Restored | Outcome:
        """Run the model; of a picture that is worked on strip by strip, do everything.

        Raises:
            StoppedError: ``stop`` said so between two strips; the strips stay.
        """
        task, manifest = loaded.task, self.manifest
        try:
            if self._begin is not None:
                self._begin(task)
            if loaded.picture is not None:
                (result,), plan = self.up.run(loaded.picture, manifest.settings, [manifest.options], progress)
                return Restored(task, result, loaded.content, plan)
            plan = upscale_file(
                self.up,
                task.item.source,
                self._place(task.item),
                manifest.settings,
                manifest.options,
                quality=manifest.quality,
                keep_metadata=manifest.keep_metadata,
                max_pixels=manifest.max_pixels,
                progress=progress,
                stop=stop,
            )
            return Restored(task, None, loaded.content, plan)
        except FAILURES as error:
            return self.failed(task.index, task.item, error)

    def write(self, restored: Restored) -> Outcome:
        """Write the result, note it, and give it its name."""
        task, plan, manifest = restored.task, restored.plan, self.manifest
        place = self._place(task.item)
        try:
            if restored.picture is not None:
                restored.picture.save(place, quality=manifest.quality, keep_metadata=manifest.keep_metadata)
            seconds = round(time.perf_counter() - task.started, 3)
            values = (plan.width, plan.height, plan.tiles, seconds)
            facts: dict[str, Any] = dict(zip(_FACTS, values, strict=True))
            if self.journal is not None:
                noted = {**facts, "run": manifest.run}
                self.journal.add(task.item.source, task.item.target, restored.content, noted)
            if restored.picture is None:
                forget(place)
            return Outcome(task.index, "ok", difference=plan.difference, **facts)
        except FAILURES as error:
            return self.failed(task.index, task.item, error)

    def failed(self, index: int, item: Item, error: Exception) -> Outcome:
        """An outcome that says in one line what happened to which file."""
        message = "memory ran out; ask for a smaller size" if isinstance(error, MemoryError) else str(error)
        message = message.replace(str(self._place(item)), str(item.target))
        if str(item.source) not in message and str(item.target) not in message:
            message = f"{item.source}: {message}"
        message = " ".join(message.split())
        trace = "".join(traceback.format_exception(error))
        if self.journal is not None and item.problem is None and not self._dry:
            self.journal.add_failure(item.source, item.target, message)
        return Outcome(index, "failed", error=message, refused=isinstance(error, UsageError), trace=trace)

    def _place(self, item: Item) -> Path:
        """Where the result is written."""
        return item.target if self.journal is None else unnamed(item.target)

    def _finished(self, item: Item) -> Mapping[str, Any] | None:
        """What is known of the result, if it is there and stays; a line of this very run counts always."""
        keep, known = self.manifest.keep, None
        if self.journal is not None:
            known = self.journal.finished(item.source, item.target)
            if known is not None and (keep == "resume" or self._ours(known)):
                forget(unnamed(item.target))
                return known
        return {} if keep == "skip-existing" and item.target.exists() else None

    def _ours(self, known: Mapping[str, Any]) -> bool:
        """Whether a line of the journal was written in this very run."""
        return self.manifest.run != "" and known.get("run") == self.manifest.run

    def _strips(self, item: Item, plan: Plan) -> bool:
        """Whether the picture goes strip by strip."""
        settings, wanted = self.manifest.settings, self.manifest.strips
        if wanted == "never":
            return False
        color = settings.color or self.up.model.traits.color
        against = reason_against(item.target, color, settings.consistent)
        if wanted == "always":
            if against is not None:
                raise UsageError(against)
            return True
        free = free_memory(device("cpu"))
        return against is None and plan.memory > min(LARGE, LARGE if free is None else free // 2)


def upright_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Width and height of a picture as it will be read; from its header where Pillow knows it.

    Raises:
        InputError: It cannot be read, or is larger than allowed.
    """
    marks = np.zeros((1, 2, 1), np.uint8)
    try:
        with path.open("rb") as file:
            about = describe(file, path, marks)
            file.seek(0)
            width, height = Image.OPEN[str(about.format)][0](file, str(path)).size
        if 0 < width * height <= max_pixels:
            return (height, width) if about.array.shape != marks.shape else (width, height)
    except (InputError, *DAMAGE):
        pass  # reading it in full says what is wrong, or shows that Pillow alone does not know it
    picture = read(path, max_pixels)
    return picture.width, picture.height
