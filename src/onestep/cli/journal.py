"""What a batch has finished, kept beside its results so that the same command goes on where it stopped.

``OUT/.onestep.jsonl`` has one line per finished result: the result's name, size and time, those of its input,
and a digest of all settings (model file and version of this package included). A result counts as finished
when its last line agrees with all of these. The file stays, so that a finished batch can be repeated at no
cost; deleting it only makes the next run do everything again.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from onestep.core.errors import InputError

NAME = ".onestep.jsonl"


class Journal:
    """The finished results of one folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Read what is there; lines that make no sense (a run was killed while writing) are skipped.

        Args:
            folder: The folder of results; need not exist yet.
            settings: Everything that decides what a result looks like, the input aside.
        """
        text = json.dumps(settings, sort_keys=True, default=str)
        self._path = folder / NAME
        self._settings = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self._lines = {str(line["result"]): line for line in _read(self._path)}

    def results(self) -> list[Path]:
        """Files of the folder that are results of ours."""
        return [self._path.parent / name for name in self._lines]

    def finished(self, source: Path, target: Path) -> bool:
        """Whether the target is there, untouched, and what these settings make of the source as it is now."""
        line = self._lines.get(target.name)
        return line is not None and target.is_file() and line == self._line(source, target)

    def add(self, source: Path, target: Path) -> None:
        """Note a result that was just written.

        Raises:
            InputError: The journal cannot be written.
        """
        line = self._line(source, target)
        self._lines[target.name] = line
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(line))  # a torn line before it stays apart
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be written ({error.strerror}); free space there"
            ) from error

    def _line(self, source: Path, target: Path) -> dict[str, Any]:
        return {
            "result": target.name,
            "written": _stamp(target),
            "input": source.name,
            "read": _stamp(source),
            "settings": self._settings,
        }


def _stamp(path: Path) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds; empty for a file that is gone."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError:
        return []
    lines: list[dict[str, Any]] = []
    for row in text.splitlines():
        try:
            line = json.loads(row)
        except ValueError:
            continue
        if isinstance(line, dict) and "result" in line:
            lines.append(cast("dict[str, Any]", line))
    return lines
