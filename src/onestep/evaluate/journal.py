"""What an evaluation has scored, kept beside its report, so that the same command goes on where it stopped.

One line of JSON per scored picture, under a key that follows from everything that decides the scores: the
content of the files, the candidate with its weights and options, the protocol, the metrics, the version of
this package. A line is taken again only where its key is the same, so an old journal can do no harm. Memory
holds the keys alone; features of sets are read back one picture at a time.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onestep.core.errors import InputError
from onestep.evaluate.score import Array, Outcome


@dataclass(frozen=True)
class Kept:
    """A line of the journal."""

    outcome: Outcome
    seconds: float | None
    """That restoring took when it was scored."""
    memory: int | None


def beside(report: Path) -> Path:
    """The journal of a report."""
    return report.with_name(f".{report.name}.rows.jsonl")


def key(**decides: Any) -> str:
    """A name for what is decided by these values."""
    text = json.dumps(decides, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class Journal:
    """The scored pictures of one report."""

    def __init__(self, path: Path) -> None:
        """Find what is there; lines that make no sense (a run was killed while writing) are passed over."""
        self._path = path
        self._places: dict[str, int] = {}
        with suppress(OSError), path.open("rb") as file:
            place = 0
            for line in file:
                with suppress(ValueError, TypeError, KeyError):
                    self._places[str(json.loads(line)["key"])] = place
                place += len(line)

    def find(self, key: str) -> Kept | None:
        """What was scored under a key; None where nothing was."""
        if key not in self._places:
            return None
        with suppress(OSError, ValueError, TypeError, KeyError), self._path.open("rb") as file:
            file.seek(self._places[key])
            line = json.loads(file.readline())
            pairs = {name: (_array(a), _array(b)) for name, (a, b) in line["features"].items()}
            outcome = Outcome(line["scores"], line["missing"], pairs, line["width"], line["height"])
            return Kept(outcome, line["seconds"], line["memory"])
        return None

    def add(self, key: str, outcome: Outcome, seconds: float | None, memory: int | None) -> None:
        """Note a picture that was just scored; the line is on disk when this returns.

        Raises:
            InputError: The journal cannot be written.
        """
        line: Mapping[str, Any] = {
            "key": key,
            "scores": outcome.scores,
            "missing": outcome.missing,
            "features": {name: [_text(a), _text(b)] for name, (a, b) in outcome.features.items()},
            "width": outcome.width,
            "height": outcome.height,
            "seconds": seconds,
            "memory": memory,
        }
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(line))  # a torn line before it stays apart
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be written ({error.strerror}); free space there"
            ) from error

    def remove(self) -> None:
        """Delete it: the report is written, and nothing is left to do."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _text(array: Array) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")


def _array(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
