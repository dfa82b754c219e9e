"""A file that grows, and a note beside it of how far it is certain: what a run that was killed leaves behind.

``.NAME.part`` is the result so far. ``.NAME.part.jsonl`` says in its first line what is being made; every
further line is a strip that is safely in the file. At the end the note says so, then the file gets its name,
and the note goes last: at any moment, what is there tells how to go on.
"""

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self, cast

from onestep.core.errors import InputError
from onestep.core.lock import lock
from onestep.stream.sinks import Sink, Strip


class Growing:
    """The file of one result while it grows."""

    def __init__(self, target: Path, key: str) -> None:
        """Look at what an earlier run left.

        Args:
            target: The result.
            key: Stands for all that decides its content; what was begun under another is not continued.
        """
        self.target = target
        self.part, self._note = _names(target)
        self._key = key
        self.facts: dict[str, Any] = {}
        """What was decided when the file was begun."""
        self.strips: list[Strip] = []
        """What is in the file already."""
        self._file: IO[bytes] | None = None
        self._done: list[int] = []
        self._read()

    @property
    def begun(self) -> bool:
        """Whether there is something to continue."""
        return bool(self.facts)

    def finished(self) -> bool:
        """Whether the result is there, or complete and without its name, which it then gets."""
        if not self._done:
            return False
        if _stamp(self.target) == self._done:
            return True
        if _stamp(self.part) != self._done:
            return False
        os.replace(self.part, self.target)
        return True

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            InputError: It cannot be written, or another process is writing it.
        """
        try:
            self._file = self.part.open("r+b" if self.part.exists() else "w+b")
        except OSError as error:
            raise InputError(f"{self.part}: cannot be written ({error.strerror})") from error
        if not lock(self._file):
            self._file.close()
            raise InputError(f"{self.target}: another process is writing it; wait for it, or stop it")
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; it stays for another time."""
        if self._file is not None:
            self._file.close()

    def begin(self, facts: dict[str, Any], head: bytes) -> None:
        """Start anew, whatever was there."""
        self._note.unlink(missing_ok=True)
        self.facts, self.strips, self._done = facts, [], []
        self._opened.truncate(0)
        self._opened.seek(0)
        self._opened.write(head)
        self._certain()
        self._say({"key": self._key, "facts": facts, "head": len(head)})

    def go_on(self) -> None:
        """Cut off what is not certain, and stand behind what is."""
        end = self.strips[-1].end if self.strips else int(self.facts["head"])
        self._opened.truncate(end)
        self._opened.seek(end)

    def add(self, data: bytes, size: int, checksum: int) -> None:
        """Append a strip."""
        self._opened.write(data)
        self._certain()
        self.strips.append(Strip(self._opened.tell(), size, checksum))
        self._say(asdict(self.strips[-1]))

    def finish(self, sink: Sink) -> None:
        """Write what comes after the last strip, and give the file its name."""
        tail, patches = sink.tail(self.strips)
        self._opened.write(tail)
        for place, data in patches:
            self._opened.seek(place)
            self._opened.write(data)
        self._certain()
        self._opened.close()
        self._done = _stamp(self.part)
        self._say({"done": self._done})
        os.replace(self.part, self.target)

    @property
    def _opened(self) -> IO[bytes]:
        assert self._file is not None
        return self._file

    def _certain(self) -> None:
        self._opened.flush()
        os.fsync(self._opened.fileno())

    def _say(self, line: dict[str, Any]) -> None:
        with self._note.open("a", encoding="ascii") as file:
            file.write("\n" + json.dumps(line))  # a torn line before it stays apart

    def _read(self) -> None:
        try:
            rows = self._note.read_text("ascii", errors="replace").splitlines()
        except OSError:
            return
        for row in rows:
            with suppress(ValueError, TypeError):
                line = cast("dict[str, Any]", json.loads(row))
                if "key" in line:
                    same = line["key"] == self._key
                    self.facts = {**line["facts"], "head": line["head"]} if same else {}
                elif self.facts and "done" in line:
                    self._done = line["done"]
                elif self.facts:
                    self.strips.append(Strip(**line))
        size = self.part.stat().st_size if self.part.exists() else 0
        self.strips = [strip for strip in self.strips if strip.end <= size]
        if self.facts and size < self.facts["head"]:
            self.facts = {}


def forget(target: str | Path) -> None:
    """Remove the note on a result that is finished, or everything on one that is given up."""
    for path in _names(Path(target)):
        path.unlink(missing_ok=True)


def _names(target: Path) -> tuple[Path, Path]:
    part = target.with_name(f".{target.name}.part")
    return part, part.with_name(part.name + ".jsonl")


def _stamp(path: Path) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds; empty for a file that is gone."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
