"""The engine of several machines: Ray Data, a worker per GPU or per some cores of a CPU; extra [ray].

All machines must see the same files under the same names. A worker that dies is replaced: what it was at is
done again, what it had finished is not, and an item at which workers die three times fails.

This is the only module that imports ray.
"""

import json
import logging
import os
import platform
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from io import TextIOBase
from pathlib import Path
from typing import Any, Final, TextIO, cast

import ray
import ray.data
import torch
from ray.exceptions import RayError

from onestep.batch import local
from onestep.batch.item import Item, Outcome
from onestep.batch.manifest import Manifest
from onestep.batch.worker import Loaded, Restored, Worker
from onestep.core.errors import InputError, OneStepError, UsageError
from onestep.core.raster import one_line
from onestep.upscaler import Progress

CORES: Final = 4
"""Of a CPU, for a worker without GPU."""
_ATTEMPTS: Final = 3
_LARGEST_BLOCK: Final = 8
"""Items that a worker takes at a time; among them it reads ahead and writes behind."""
_POLL: Final = 0.2
"""Seconds between looks at whether to stop."""


def run(
    worker: Worker,
    items: Sequence[tuple[int, Item]],
    stop: Callable[[], bool] | None = None,
    *,
    address: str | None = None,
    cores: int | None = None,
) -> Iterator[Outcome]:
    """Do items on the machines of a Ray cluster.

    Args:
        worker: Knows what is done already; what is not, others like it do.
        items: With their indices. Their files must be there on every machine.
        stop: Asked all the time whether to stop; workers then finish the picture that they are at.
        address: Of the cluster; None: of the environment (``RAY_ADDRESS``), else this machine alone.
        cores: Of a CPU, for each worker that has no GPU.

    Yields:
        Outcomes as they come.

    Raises:
        UsageError: There is no such cluster, or workers cannot start there.
    """
    todo, typed = list[dict[str, Any]](), dict[int, Path]()
    for index, item in items:
        outcome = worker.settled(index, item)
        if outcome is not None:
            yield outcome
        else:
            places = {"source": str(item.source.absolute()), "target": str(item.target.absolute())}
            todo.append({"index": index, **places})
            typed[index] = item.source
    if not todo:
        return
    with _cluster(address), redirect_stdout(_MainThreadAlone(sys.stdout)):
        try:
            for outcome in _dispatched(worker.manifest, todo, cores or CORES, stop):
                source = typed[outcome.index]
                error = (outcome.error or "").replace(str(source.absolute()), str(source))
                yield replace(outcome, error=error or None)
        except RayError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OneStepError) else error
            raise UsageError(f"ray: {one_line(cause)}") from error


class _MainThreadAlone(TextIOBase):
    """Standard output, which stays clean for programs: what Ray prints in its threads goes to stderr."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout

    def write(self, text: str, /) -> int:
        main = threading.current_thread() is threading.main_thread()
        return (self._stdout if main else sys.stderr).write(text)

    def flush(self) -> None:
        self._stdout.flush()


@contextmanager
def _cluster(address: str | None) -> Generator[None]:
    """Connect to a cluster, or make one of this machine."""
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it says on stderr what is no fault
    try:
        ray.init(address, include_dashboard=False, configure_logging=False, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"--address {address}: no Ray cluster there ({one_line(error)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _dispatched(
    manifest: Manifest, todo: list[dict[str, Any]], cores: int, stop: Callable[[], bool] | None
) -> Iterator[Outcome]:
    """Send items out, and gather what came of them."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    resources = ray.cluster_resources()
    on_gpu = resources.get("GPU", 0) >= 1 and manifest.device != "cpu"
    largest = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
    cores = int(min(cores, largest))
    most = int(resources["GPU"] if on_gpu else max(resources["CPU"] // cores, 1))
    folder = None if manifest.folder is None else manifest.folder.absolute()
    desk = ray.remote(num_cpus=0)(_Desk).remote()
    size = max(min(len(todo) // (4 * most), _LARGEST_BLOCK), 1)
    blocks = -(-len(todo) // size)
    done = ray.data.from_items(todo, override_num_blocks=blocks).map_batches(
        _Machine,
        batch_size=None,
        fn_constructor_args=(replace(manifest, folder=folder), desk, None if on_gpu else cores),
        compute=ray.data.ActorPoolStrategy(size=min(most, blocks), max_tasks_in_flight_per_actor=1),
        num_gpus=1 if on_gpu else None,
        num_cpus=None if on_gpu else cores,
    )
    finished = threading.Event()
    watcher = threading.Thread(target=_watch, args=(desk, stop, finished), daemon=True)
    watcher.start()
    try:
        for row in done.iter_rows():
            yield Outcome(**json.loads(row["outcome"]))
    finally:
        finished.set()
        watcher.join()


def _watch(desk: Any, stop: Callable[[], bool] | None, finished: threading.Event) -> None:
    """Tell the workers, once, when to stop."""
    while stop is not None and not finished.wait(_POLL):
        if stop():
            desk.close.remote()
            return


class _Desk:
    """What workers tell each other: how often an item was begun, and whether to stop."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()
        self._closed = False

    def begin(self, index: int) -> int:
        self._begun[index] += 1
        return self._begun[index]

    def close(self) -> None:
        self._closed = True

    def closed(self) -> bool:
        return self._closed


class _Careful(Worker):
    """A worker that gives up on items at which others died."""

    desk: Any = None

    def restore(
        self, loaded: Loaded, progress: Progress | None = None, stop: Callable[[], bool] | None = None
    ) -> Restored | Outcome:
        task = loaded.task
        if cast("int", ray.get(self.desk.begin.remote(task.index))) > _ATTEMPTS:
            error = InputError(f"{_ATTEMPTS} workers died at it; look at the memory of the machines")
            return self.failed(task.index, task.item, error)
        return super().restore(loaded, progress, stop)


class _Machine:
    """A worker of the cluster: blocks of items in, blocks of outcomes out."""

    def __init__(self, manifest: Manifest, desk: Any, cores: int | None) -> None:
        if cores is not None:
            torch.set_num_threads(cores)
        self._desk = desk
        self._journal = manifest.journal(f"{platform.node()}-{os.getpid()}")
        self._worker = _Careful(manifest, manifest.load(), self._journal)
        self._worker.desk = desk

    def __call__(self, block: dict[str, Any]) -> dict[str, list[str]]:
        if self._journal is not None:
            self._journal.reload()  # it may be a second attempt
        columns = (block[name].tolist() for name in ("index", "source", "target"))
        items = [(index, Item(Path(a), Path(b))) for index, a, b in zip(*columns, strict=True)]
        outcomes = local.run(self._worker, items, stop=self._closed)
        return {"outcome": [json.dumps(asdict(outcome)) for outcome in outcomes]}

    def _closed(self) -> bool:
        return cast("bool", ray.get(self._desk.closed.remote()))
