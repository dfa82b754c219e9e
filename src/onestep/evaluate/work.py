"""Tasks become outcomes, in their order: here, or in several processes, a bounded number at a time."""

import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Final, TypeVar

from onestep.core.errors import InputError
from onestep.evaluate.protocols import EvalProtocol
from onestep.evaluate.score import Outcome, Scorer, Task

T = TypeVar("T")

_log: Final = logging.getLogger("onestep")

_AHEAD = 2
"""Tasks per process that may wait."""


def outcomes(
    tasks: Iterable[tuple[T, Task | Outcome]], scorer: Scorer, workers: int
) -> Generator[tuple[T, Outcome]]:
    """Score each task; what has an outcome already passes through.

    Args:
        tasks: Taken as they are needed, at most two per worker ahead of what was handed on.
        scorer: Scores where one process is enough; the others make their own.
        workers: Processes; 1 scores in this one.

    Raises:
        InputError: A process was ended from outside, as when memory runs out.
    """
    if workers <= 1:
        for mark, task in tasks:
            yield mark, scorer(task) if isinstance(task, Task) else task
        return
    waiting: deque[tuple[T, Outcome | Future[Outcome]]] = deque()
    with _pool(scorer, workers) as pool:
        for mark, task in tasks:
            waiting.append((mark, pool.submit(_score, task) if isinstance(task, Task) else task))
            while len(waiting) > _AHEAD * workers:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)


def _next(waiting: deque[tuple[T, Outcome | Future[Outcome]]]) -> tuple[T, Outcome]:
    mark, found = waiting.popleft()
    outcome = found.result() if isinstance(found, Future) else found
    for level, message in outcome.said:
        _log.log(level, "%s", message)
    return mark, outcome


@contextmanager
def _pool(scorer: Scorer, workers: int) -> Generator[ProcessPoolExecutor]:
    names = (*scorer.measures, *scorer.sets)
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start, (names, scorer.how, str(scorer.device))
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise InputError(
            "a process that scores was ended from outside (did memory run out?); use fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_scorer: Scorer | None = None
"""That of a worker process."""


class _Kept(logging.Handler):
    """Holds what is logged, for the process that shows it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))


_kept: Final = _Kept()


def _start(names: Sequence[str], how: EvalProtocol, device: str) -> None:
    """Make a worker ready; it leaves Ctrl-C to the process that started it, and ends with it."""
    global _scorer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, daemon=True).start()
    _log.addHandler(_kept)
    _scorer = Scorer(names, how, device)


def _follow() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _score(task: Task) -> Outcome:
    assert _scorer is not None
    _kept.lines.clear()
    outcome = _scorer(task)
    return dataclasses.replace(outcome, said=tuple(_kept.lines))
