"""The engine of one process: a pipeline in which the network waits neither for reading nor for writing.

Pictures are read ahead and results written behind in threads, while the model runs. How many are on their way
is bounded by their number and by the memory that they take.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Final

from torch import device

from onestep.batch.item import Item, Outcome
from onestep.batch.worker import Loaded, Task, Worker
from onestep.runtime import free_memory
from onestep.stream import StoppedError

Watch = Callable[[int, float], None]
"""Called with the index of the item that the model is at, and its finished share."""

_AHEAD: Final = 4
"""Pictures read ahead, and results waiting to be written, at most."""
_SHARE: Final = 0.5
"""Of the free memory, for pictures on their way."""


def run(
    worker: Worker,
    items: Sequence[tuple[int, Item]],
    watch: Watch | None = None,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Outcome]:
    """Do items in their order; what is finished stays, what fails does not stop the rest.

    Args:
        worker: Does each.
        items: With their indices, which outcomes name.
        watch: Told how far the model is.
        stop: Asked between items (and between the strips of a large one) whether to stop there; what the
            model has done is still written.

    Yields:
        Outcomes, in the order of the items.
    """
    threads = min(os.cpu_count() or 1, _AHEAD)
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
        pipeline = _Pipeline(worker, readers, writers, (worker.prepare(*item) for item in items))
        try:
            while not (stop is not None and stop()) and pipeline.fill():
                pipeline.restore(watch, stop)
                yield from pipeline.written(_AHEAD if pipeline.loads else 0)
        except StoppedError:
            pass
        finally:
            readers.shutdown(cancel_futures=True)
        yield from pipeline.written(0)


class _Pipeline:
    """What is between a reader and the model, and between the model and a writer."""

    def __init__(
        self, worker: Worker, readers: Executor, writers: Executor, tasks: Iterator[Task | Outcome]
    ) -> None:
        self.worker, self.readers, self.writers, self.tasks = worker, readers, writers, tasks
        self.next = next(tasks, None)
        self.loads: deque[tuple[int, Future[Loaded | Outcome] | Outcome]] = deque()
        self.writes: deque[tuple[int, Future[Outcome] | Outcome]] = deque()
        free = free_memory(device("cpu"))
        self.room = float("inf") if free is None else free * _SHARE

    def fill(self) -> bool:
        """Begin to read what there is room for; whether anything is left for the model."""
        while self.next is not None and len(self.loads) < _AHEAD:
            task, need = self.next, 0
            if isinstance(task, Task):
                need = task.memory
                if (self.loads or self.writes) and need > self.room:
                    break
                self.room -= need
            self.loads.append(
                (need, self.readers.submit(self.worker.load, task) if isinstance(task, Task) else task)
            )
            self.next = next(self.tasks, None)
        return bool(self.loads)

    def restore(self, watch: Watch | None, stop: Callable[[], bool] | None) -> None:
        """Run the model on the next picture, and begin to write the result."""
        need, loaded = self.loads.popleft()
        loaded = loaded if isinstance(loaded, Outcome) else loaded.result()
        if isinstance(loaded, Loaded):
            index = loaded.task.index
            report = None if watch is None else partial(watch, index)
            loaded = self.worker.restore(loaded, report, stop)
        done = loaded if isinstance(loaded, Outcome) else self.writers.submit(self.worker.write, loaded)
        self.writes.append((need, done))

    def written(self, most: int) -> Iterator[Outcome]:
        """What is written; waits until at most ``most`` results are not."""
        while self.writes:
            need, done = self.writes[0]
            if len(self.writes) <= most and isinstance(done, Future) and not done.done():
                break
            self.writes.popleft()
            outcome = done if isinstance(done, Outcome) else done.result()
            self.room += need
            yield outcome
