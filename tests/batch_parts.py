"""Items of a batch, a worker for them, and what a folder of results holds."""

import json
from dataclasses import replace
from pathlib import Path

from onestep.batch import local
from onestep.batch.item import Item
from onestep.batch.manifest import Manifest
from onestep.batch.worker import Worker
from onestep.plan import Settings
from pictures import put


def items_of(count, broken=()):
    """Items from ``in`` to ``out``, some of whose inputs are no pictures."""
    Path("out").mkdir(exist_ok=True)
    items = [Item(put(f"in/p{k}.png", seed=k), Path(f"out/p{k}_x4.png")) for k in range(count)]
    for k in broken:
        items[k].source.write_bytes(b"Dear diary, no picture today.")
    return items


def manifest(**changes):
    return replace(Manifest("bicubic", Settings(), device="cpu", folder=Path("out")), **changes)


def worker(**changes):
    task = manifest(**changes)
    return Worker(task, task.load(), task.journal())


def do(items, one=None, **named):
    return list(local.run(one or worker(), list(enumerate(items)), **named))


def lines():
    """What the journals say, without the lines that spell out settings."""
    rows = [row for path in Path("out").glob(".onestep*.jsonl") for row in path.read_text().splitlines()]
    return [line for row in rows if row and "status" in (line := json.loads(row))]


def files():
    return sorted(path.name for path in Path("out").iterdir() if path.suffix != ".jsonl")
