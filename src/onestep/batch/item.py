"""One picture of a batch, and what came of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Item:
    """One input and the file that it becomes."""

    source: Path
    target: Path
    problem: str | None = None
    """Why there is nothing to work on."""


@dataclass(frozen=True)
class Outcome:
    """What came of one item."""

    index: int
    """Of the item."""
    status: Literal["ok", "skipped", "failed"]
    width: int | None = None
    """Of the result, in pixels."""
    height: int | None = None
    tiles: int | None = None
    seconds: float | None = None
    difference: float | None = None
    """Of a result that was to be consistent: how far its downscaling is from the input, from 0 to 1."""
    error: str | None = None
    """One line."""
    refused: bool = False
    """Whether the request itself does not fit this input, so that nothing was begun."""
    trace: str | None = None
    """The traceback of an error."""
