"""What is to be done with many pictures: all that a worker needs to know, here or on another machine."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from onestep import __version__, catalog, hub
from onestep.batch.journal import Journal
from onestep.core.errors import InputError
from onestep.core.picture import MAX_PIXELS
from onestep.plan import Settings
from onestep.upscaler import Upscaler

Keep = Literal["resume", "overwrite", "skip-existing"]
"""What to do with results that are there."""
Strips = Literal["auto", "always", "never"]
"""Whether pictures are read, restored and written strip by strip: ``auto``, where they are large."""


@dataclass(frozen=True)
class Manifest:
    """How every item of a batch is done."""

    model: str
    """A name of the catalog, or a release file."""
    settings: Settings
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """The model's own."""
    device: str = "auto"
    dtype: str = "auto"
    quality: int = 95
    keep_metadata: bool = True
    max_pixels: int = MAX_PIXELS
    keep: Keep = "resume"
    strips: Strips = "auto"
    folder: Path | None = None
    """Where results and journal lie; None for a single file, which is done whenever it is asked for."""
    run: str = ""
    """Tells this run from others: what a worker has finished in it, another need not do again."""
    weights: str | None = None
    """SHA-256 of the release file; None for a model without weights, or not known yet."""

    def load(self) -> Upscaler:
        """The model, on its device.

        Raises:
            InputError: The release file is not the one that the manifest was made with.
            UsageError: There is no such model, device or precision.
        """
        entry = catalog.find(self.model)
        if self.weights is not None and (entry.path is None or hub.sha256(entry.path) != self.weights):
            raise InputError(f"{self.model}: another model goes by this name here; copy the release file")
        model = catalog.load(entry)
        return Upscaler(model, device=self.device, dtype=self.dtype, name=entry.name, card=entry.card)

    def journal(self, worker: str = "") -> Journal | None:
        """The journal of the batch; ``worker`` where several write."""
        return None if self.folder is None else Journal(self.folder, self.identity, worker)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides what a result looks like, the input aside.

        Of device and precision it holds what was asked for, so that a batch may go on on other machines.
        """
        return {
            "version": __version__,
            "model": self.model,
            "weights": self.weights,
            "settings": asdict(self.settings),
            "options": {name: _plain(value) for name, value in sorted(self.options.items())},
            "quality": self.quality,
            "metadata": self.keep_metadata,
            "device": self.device,
            "dtype": self.dtype,
        }


def _plain(value: Any) -> Any:
    """A value of an option for JSON; of maps, their hash."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim:
        array = np.ascontiguousarray(np.asarray(value))
        shape = json.dumps([*array.shape, str(array.dtype)])
        return hashlib.blake2b(shape.encode() + array.tobytes(), digest_size=16).hexdigest()
    return float(value) if isinstance(value, Tensor | np.ndarray) else value
