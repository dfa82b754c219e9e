"""What a batch has finished, kept beside its results so that the same command goes on where it stopped.

``OUT/.onestep.jsonl`` has one line per result: its name, size and time; name, size, time and content hash of
its input; a digest of all settings (model file and version of this package included), which a line before
spells out; and what came of it. Workers on other machines keep ``OUT/.onestep.WORKER.jsonl``; all are read.

A result counts as finished when a line agrees with all of these. The line is written before the result gets
its name, so that a run that is killed between the two is noticed, and the result is not made again. The files
stay, so that a finished batch can be repeated at no cost; deleting them only makes the next run do everything
again.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

from onestep.core.errors import InputError, UsageError
from onestep.core.lock import lock

_HASHED_AT_A_TIME: Final = 2**20


class Journal:
    """The finished results of one folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], worker: str = "") -> None:
        """Read what is there; lines that make no sense (a run was killed while writing) are skipped.

        Args:
            folder: The folder of results; need not exist yet.
            settings: Everything that decides what a result looks like, the input aside; for JSON.
            worker: Who writes, where several do; each has a file of its own.
        """
        text = json.dumps(settings, sort_keys=True, default=str)
        self.folder = folder
        self._path = folder / f".onestep{worker and '.'}{worker}.jsonl"
        self._settings = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self._spelled = json.loads(text)
        self._lines: dict[str, list[dict[str, Any]]] = {}
        self._guard = threading.Lock()
        self._locked: IO[str] | None = None
        self._introduced = False
        self.reload()

    def reload(self) -> None:
        """Read again what all workers have written."""
        self._lines.clear()
        for path in sorted(self.folder.glob(".onestep*.jsonl")):
            for line in _read(path):
                self._lines.setdefault(str(line["result"]), []).append(line)

    def claim(self) -> None:
        """Keep other runs out of the folder for as long as this process lives; tidy up after killed ones.

        Raises:
            UsageError: Another run is at work there.
        """
        self._locked = self._path.open("a", encoding="utf-8")
        if not lock(self._locked):
            self._locked.close()
            raise UsageError(f"{self.folder}: another run writes results there; wait for it, or stop it")
        for torn in self.folder.glob("..*.ready.*.part"):
            if not torn.with_name(torn.name + ".jsonl").exists():
                torn.unlink(missing_ok=True)

    def release(self) -> None:
        """Let other runs in."""
        if self._locked is not None:
            self._locked.close()
            self._locked = None

    def results(self) -> list[Path]:
        """Files of the folder that are results of ours."""
        return [
            self.folder / name
            for name, lines in self._lines.items()
            if any(line["status"] == "ok" for line in lines)
        ]

    def finished(self, source: Path, target: Path) -> dict[str, Any] | None:
        """What is known of the target, if it is there, untouched, and what these settings make of the source.

        A target that is complete but was not named yet gets its name.
        """
        for line in reversed(self._lines.get(target.name, [])):
            ours = line["status"] == "ok" and line["settings"] == self._settings
            if not ours or line["input"] != source.name or not _same(line, source):
                continue
            if _stamp(target) == line["written"]:
                return line
            if _stamp(unnamed(target)) == line["written"]:
                os.replace(unnamed(target), target)
                return line
        return None

    def add(self, source: Path, target: Path, content: str, facts: Mapping[str, Any]) -> None:
        """Note a result that is complete under its name until now, and give it its own.

        Args:
            source: The input.
            target: The result; it lies under ``unnamed(target)``.
            content: ``content_hash(source)``.
            facts: What else is known of the result.

        Raises:
            InputError: The journal cannot be written.
        """
        line = {"status": "ok", "written": _stamp(unnamed(target)), **self._about(source, target, content)}
        self._append({**line, **facts})
        os.replace(unnamed(target), target)

    def add_failure(self, source: Path, target: Path, error: str) -> None:
        """Note an input that failed, and why; it is tried again."""
        self._append({"status": "failed", **self._about(source, target, None), "error": error})

    def _about(self, source: Path, target: Path, content: str | None) -> dict[str, Any]:
        return {
            "result": target.name,
            "input": source.name,
            "read": _stamp(source),
            "content": content,
            "settings": self._settings,
        }

    def _append(self, line: dict[str, Any]) -> None:
        with self._guard:
            self._lines.setdefault(line["result"], []).append(line)
            new = [line] if self._introduced else [{"settings": self._settings, "are": self._spelled}, line]
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.writelines("\n" + json.dumps(one) for one in new)  # apart from a torn line before
            except OSError as error:
                raise InputError(
                    f"{self._path}: cannot be written ({error.strerror}); free space there"
                ) from error
            self._introduced = True


def unnamed(target: Path) -> Path:
    """Where a result lies while it is complete, but not yet noted."""
    return target.with_name(f".{target.name}.ready{target.suffix}")


def content_hash(path: Path) -> str:
    """BLAKE2b of a file's content.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while data := file.read(_HASHED_AT_A_TIME):
            digest.update(data)
    return digest.hexdigest()


def _same(line: Mapping[str, Any], source: Path) -> bool:
    """Whether the input is the one of a line: by size and time, or by its content where the time differs."""
    now = _stamp(source)
    if now == line["read"]:
        return True
    return now[:1] == line["read"][:1] and line["content"] == content_hash(source)


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
        if isinstance(line, dict) and line.keys() >= _KEYS:
            lines.append(cast("dict[str, Any]", line))
    return lines


_KEYS: Final = {"status", "result", "input", "read", "content", "settings"}
