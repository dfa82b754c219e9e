"""What a command says: lines and bars for people on stderr, JSON for programs on stdout."""

import ctypes
import functools
import json
import logging
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

INTERRUPTED = 130
"""Exit code of a command that was told to stop; what it had finished is kept."""

Report = Callable[[float, str], None]
"""(finished share in [0, 1], what is being done)."""


_WIDE = 1000
"""Columns of what is not a terminal: lines there are never broken."""


def complain(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    sys.stderr.write(f"onestep: {' '.join(message.split())}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Screen:
    """How a command talks; ``-q`` leaves only errors, ``--json`` adds lines on stdout."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def say(self, line: str) -> None:
        """For people, unless ``-q``."""
        if not self.quiet:
            self._console().print(line)

    def detail(self, line: str) -> None:
        """For people who asked for more with ``-v``."""
        if self.verbose:
            self.say(line)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """For people, unless ``-q``."""
        table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        if not self.quiet:
            self._console().print(table)

    def record(self, values: Mapping[str, Any] | Sequence[Any]) -> None:
        """For programs: one line of JSON on stdout, only with ``--json``."""
        if self.json:
            sys.stdout.write(json.dumps(values, ensure_ascii=False, default=str) + "\n")
            sys.stdout.flush()

    @contextmanager
    def progress(self, what: str) -> Generator[Report]:
        """A bar on a terminal; call the report with the finished share and a word on what is being done."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}"),
        )
        console = self._console()
        off = self.quiet or not console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=off) as bar:
            task = bar.add_task(what, total=1.0, now="")
            yield lambda share, now: bar.update(task, completed=share, now=now)

    @contextmanager
    def warnings(self) -> Generator[None]:
        """Show what the library logs, as lines of ours, while the block runs."""
        _hush()
        log = logging.getLogger("onestep")
        handler, level = _Lines(), log.level
        log.setLevel(logging.ERROR if self.quiet else logging.INFO if self.verbose else logging.WARNING)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(level)

    def _console(self) -> Console:
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        if not console.is_terminal:
            console.width = _WIDE
        return console


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(f"{record.levelname.lower()}: {record.getMessage()}")


@functools.cache
def _hush() -> None:
    """Keep Pillow, and libtiff in it, from writing of faults that they also raise as errors."""
    import PIL

    logging.getLogger("PIL").addHandler(logging.NullHandler())
    home = Path(PIL.__file__).parent
    for file in (*home.parent.glob("pillow.libs/libtiff*"), *home.glob(".dylibs/libtiff*")):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(str(file)).TIFFSetErrorHandler(None)


def megabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
