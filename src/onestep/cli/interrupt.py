"""Ctrl-C in two steps: the first finishes what is being done, the second stops at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from onestep.cli.screen import complain

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While the block runs: whether somebody asked to stop. A second time raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop at the next good moment."""
        return self._asked

    def __enter__(self) -> Self:
        """Take over the signals; they can only be taken in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        complain("finishing the current picture; press Ctrl-C again to stop at once")
