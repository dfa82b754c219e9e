"""Folders: files per second against a plain loop, kill -9 at random moments, and two Ray workers.

Run: ``python benchmarks/folders.py [rate] [kills] [ray] [engines]`` (needs scikit-image; the last two the
extra [ray]). 500 small pictures, 5 of them damaged. Every measurement is a process of its own; those of the
rate take turns.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image
from skimage import data

BROKEN = 5
LOOP = """
import sys, time, onestep
from pathlib import Path
up = onestep.Upscaler.load(sys.argv[3])
files = sorted(Path(sys.argv[1]).iterdir())
up(files[0])
started = time.perf_counter()
for file in files:
    try:
        up(file).save(Path(sys.argv[2]) / f"{file.stem}_x4.png")
    except onestep.InputError:
        pass
print(time.perf_counter() - started)
"""
ENGINE = """
import sys, time, onestep
from pathlib import Path
from onestep.batch import local
from onestep.batch.item import Item
from onestep.batch.manifest import Manifest
from onestep.batch.worker import Worker
from onestep.plan import Settings
manifest = Manifest(sys.argv[3], Settings(), folder=Path(sys.argv[2]))
worker = Worker(manifest, manifest.load(), manifest.journal())
files = sorted(Path(sys.argv[1]).iterdir())
worker.up(files[0])
started = time.perf_counter()
items = [(k, Item(file, Path(sys.argv[2]) / f"{file.stem}_x4.png")) for k, file in enumerate(files)]
for outcome in local.run(worker, items):
    pass
print(time.perf_counter() - started)
"""


def main() -> None:
    """Carry out what was asked for; everything, if nothing was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", help="rate, kills, ray, engines")
    parser.add_argument("--model", default="oftsr-compact-x4")
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / "in", given.files, given.side)
        known = {"rate": rate, "kills": kills, "ray": on_ray, "engines": on_both}
        for what in given.what or known:
            known[what](given, folder)


def make(folder: Path, count: int, side: int) -> None:
    """Small crops of photographs, PNG and JPEG in turn; some are damaged."""
    folder.mkdir()
    photos, chance = [data.astronaut(), data.chelsea(), data.coffee()], random.Random(0)
    broken = set(chance.sample(range(count), BROKEN))
    for k in range(count):
        photo = photos[k % len(photos)]
        top, left = (chance.randrange(photo.shape[axis] - side) for axis in (0, 1))
        path = folder / f"p{k:04}.{'png' if k % 2 else 'jpg'}"
        Image.fromarray(photo[top : top + side, left : left + side]).save(path)
        if k in broken:
            path.write_bytes(path.read_bytes()[: chance.randrange(300)])


def rate(given: argparse.Namespace, folder: Path) -> None:
    """Files per second of the pipeline, and of a plain loop over the Python interface."""
    best: dict[str, float] = {}
    for turn in range(given.repeats):
        for name, text in (("plain loop", LOOP), ("pipeline", ENGINE)):
            out = folder / f"{name}-{turn}".replace(" ", "-")
            out.mkdir()
            words = [sys.executable, "-c", text, str(folder / "in"), str(out), given.model]
            seconds = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
            best[name] = min(best.get(name, seconds), seconds)
    print(f"| {given.files} files, {BROKEN} damaged | seconds | files/s | ratio |\n|---|---|---|---|")
    for name, seconds in best.items():
        ratio = best["plain loop"] / seconds
        print(f"| {name} | {seconds:.1f} | {given.files / seconds:.1f} | {ratio:.2f} |")
    out, started = folder / "command", time.perf_counter()
    done = subprocess.run(command(given, folder, out), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    found = Counter(json.loads(row)["status"] for row in done.stdout.splitlines())
    print(f"\nThe command, its start included: {seconds:.1f} s, exit {done.returncode}, {dict(found)}.\n")


def kills(given: argparse.Namespace, folder: Path) -> None:
    """Kill the command at random moments; look at what is there; finish; compare and count."""
    reference = referred(given, folder)
    out, chance, counts = folder / "killed", random.Random(given.seed), list[int]()
    for k in range(given.kills):
        process = subprocess.Popen(
            command(given, folder, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        goal = (k + chance.random()) / given.kills * (given.files - BROKEN)
        while process.poll() is None and len(results(out)) < goal:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        counts.append(len(results(out)))
        different(reference, out, some=True)
    last = subprocess.run(command(given, folder, out), capture_output=True, text=True, check=False)
    lines = Counter(line["result"] for line in noted(out))
    print(f"Killed with {counts} results there.")
    print(f"Then finished: exit {last.returncode}, {len(results(out))} results.")
    print(f"Results noted more than once: {sum(count > 1 for count in lines.values())}.")
    print(
        f"Results that are missing or other than those of a run without kills: {different(reference, out)}."
    )
    left = [path.name for path in out.iterdir() if path.suffix != ".jsonl" and path.name[0] == "."]
    print(f"Other files left: {left}.\n", flush=True)


def on_ray(given: argparse.Namespace, folder: Path) -> None:
    """Two workers on this machine, one of which is killed."""
    reference, out = referred(given, folder), folder / "ray"
    words = [*command(given, folder, out), "--engine", "ray", "--cores", "1"]
    started = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.poll() is None and len(results(out)) < given.files // 5:
        time.sleep(0.01)
    workers = [pid for pid in descendants(process.pid) if "MapWorker" in title(pid)]
    print(f"Ray: {len(workers)} workers; one is killed with {len(results(out))} results there.")
    os.kill(workers[0], signal.SIGKILL)
    rows, _ = process.communicate()
    found = Counter(json.loads(row)["status"] for row in rows.splitlines())
    seconds = time.perf_counter() - started
    print(f"Exit {process.returncode}, {dict(found)}, {seconds:.0f} s, its start included.")
    print(f"Results that are missing or other than those of the local engine: {different(reference, out)}.")
    lines = Counter(line["result"] for line in noted(out))
    writers = len(list(out.glob(".onestep.*.jsonl")))
    again = sum(count > 1 for count in lines.values())
    print(f"Results noted more than once: {again}; journals of workers: {writers}.")


def on_both(given: argparse.Namespace, folder: Path) -> None:
    """A job that changes the engine twice."""
    reference, both = referred(given, folder), folder / "both"
    for engine, goal in (("local", 0.3), ("ray", 0.6), ("local", 2)):
        extra = ["--engine", "ray", "--cores", "1"] if engine == "ray" else []
        process = subprocess.Popen(
            [*command(given, folder, both), *extra], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(results(both)) < goal * given.files:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        print(f"{engine}: stopped with exit {process.wait()} and {len(results(both))} results.")
    lines = Counter(line["result"] for line in noted(both))
    again = sum(count > 1 for count in lines.values())
    print(f"In the end {different(reference, both)} results differ, and {again} were made twice.")


def referred(given: argparse.Namespace, folder: Path) -> Path:
    """The results of a run that nothing disturbs."""
    reference = folder / "reference"
    if not reference.exists():
        subprocess.run(command(given, folder, reference), capture_output=True, check=False)
    return reference


def command(given: argparse.Namespace, folder: Path, out: Path) -> list[str]:
    """What a user types."""
    words = ["upscale", str(folder / "in"), "-o", str(out), "-n", given.model, "--ext", "png", "--json"]
    return [sys.executable, "-m", "onestep", *words]


def results(folder: Path) -> list[Path]:
    """The results that have their names."""
    return list(folder.glob("p*.png"))


def noted(folder: Path) -> list[dict[str, str]]:
    """The lines on finished results in all journals."""
    rows = [row for path in folder.glob(".onestep*.jsonl") for row in path.read_text().splitlines()]
    return [line for row in rows if '"ok"' in row and (line := json.loads(row))]


def different(reference: Path, out: Path, *, some: bool = False) -> int:
    """How many results are not those of the reference, byte for byte; ``some``: not all need be there."""
    count = 0
    for path in results(out) if some else results(reference):
        other = reference / path.name if some else out / path.name
        count += not other.exists() or other.read_bytes() != path.read_bytes()
    if some and count:
        raise SystemExit(f"{count} results are half or wrong")
    return count


def descendants(pid: int) -> list[int]:
    """The processes below one."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(path.parent.name)
            found += [child, *descendants(child)]
    return found


def title(pid: int) -> str:
    """What a process calls itself."""
    return Path(f"/proc/{pid}/cmdline").read_text(errors="ignore")


if __name__ == "__main__":
    main()
