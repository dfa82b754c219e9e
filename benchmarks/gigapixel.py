"""Pictures strip by strip: time, memory at several heights, and kill -9 at random moments.

Run: ``python benchmarks/gigapixel.py [--model NAME] [--megapixels N] [--kills N]`` (scikit-image, and some
GB of disk; ``--whole`` also upscales the largest picture as a whole, for rate and equality). Every run is a
process of its own, ``onestep upscale --stream``; its peak memory is what the system says when it ends.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

SCALE = 4
Image.MAX_IMAGE_PIXELS = None


def main() -> None:
    """Print a Markdown table, and what the kills did."""
    given = arguments()
    pixels = given.megapixels * 1e6 / SCALE**2
    width = given.width or int(pixels**0.5)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        print(f"| {given.model} | result | Mpx | seconds | CPU s | CPU s per Mpx | peak MB | file MB |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for parts in reversed(range(given.heights)):
            height = int(pixels / width) // 2**parts
            source, target = folder / f"in{parts}{given.kind}", folder / f"out{parts}{given.kind}"
            make(source, width, height)
            line("strip by strip", width, height, run(command(given, source, target)), target)
        expected = digest(target)
        if given.whole:
            other = folder / f"whole{given.kind}"
            whole = [*command(given, source, other)[:-1], "--no-stream"]
            line("as a whole", width, height, run(whole), other)
            print(f"\nLargest difference between the two: {difference(target, other)} levels.", flush=True)
        target.unlink()
        if given.kills:
            killed(given, source, target, expected)


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bicubic")
    parser.add_argument("--megapixels", type=float, default=1000, help="of the largest result")
    parser.add_argument("--heights", type=int, default=3, help="how many, each twice the last")
    parser.add_argument("--width", type=int, help="of the inputs; default: the largest is a square")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--kind", default=".png", help=".png, .tif or .jpg")
    parser.add_argument("--folder", help="for temporary files")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def make(path: Path, width: int, height: int) -> None:
    """A picture of this size: photographs, again and again, each time with another brightness."""
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    random_ = np.random.default_rng(0)
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 300):
        for left in range(0, width, 400):
            gain, part = random_.uniform(0.5, 1), photos[random_.integers(4)]
            room = out[top : top + 300, left : left + 400]
            room[:] = (part[:300, :400] * gain)[: room.shape[0], : room.shape[1]]
    if path.suffix == ".tif":
        import tifffile

        tifffile.imwrite(path, out, rowsperstrip=64, compression="zlib", photometric="rgb")
    else:
        Image.fromarray(out).save(path, compress_level=1)


def command(given: argparse.Namespace, source: Path, target: Path) -> list[str]:
    """What a user types."""
    words = ["upscale", str(source), "-o", str(target), "-n", given.model, "-q", "--stream"]
    return [sys.executable, "-m", "onestep", *words]


def run(words: list[str]) -> tuple[float, float, float]:
    """Seconds, seconds of the CPU, and peak megabytes of a process."""
    started = time.perf_counter()
    process = subprocess.Popen(words)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def line(what: str, width: int, height: int, took: tuple[float, float, float], target: Path) -> None:
    """A row of the table."""
    seconds, cpu, peak = took
    mega = width * height * SCALE**2 / 1e6
    size = f"{SCALE * width}x{SCALE * height}"
    cells = [what, size, f"{mega:.0f}", f"{seconds:.0f}", f"{cpu:.0f}", f"{cpu / mega:.3f}", f"{peak:.0f}"]
    print(f"| {' | '.join(cells)} | {target.stat().st_size / 1e6:.0f} |", flush=True)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(one: Path, other: Path) -> int:
    """The largest difference between two pictures, in 8-bit levels; a strip at a time."""
    with Image.open(one) as a, Image.open(other) as b:
        width, height = a.size
        most = 0
        for top in range(0, height, 1024):
            box = (0, top, width, min(top + 1024, height))
            strips = (np.asarray(image.crop(box)).astype(np.int16) for image in (a, b))
            most = max(most, int(np.abs(next(strips) - next(strips)).max()))
    return most


def killed(given: argparse.Namespace, source: Path, target: Path, expected: str) -> None:
    """Kill at random moments of the work; then let it finish, and compare."""
    chance, part = random.Random(given.seed), target.with_name(f".{target.name}.part")
    shares = sorted(chance.uniform(0.02, 0.95) for _ in range(given.kills))
    whole = 0
    seconds = 0.0
    for share in shares:
        process = subprocess.Popen(command(given, source, target))
        started = time.perf_counter()
        goal = share * SCALE**2 * pixels_of(source)
        while process.poll() is None and rows_done(part, target) < goal:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.5))
        if process.poll() is not None:
            raise SystemExit("finished before it could be killed; ask for more megapixels")
        process.send_signal(signal.SIGKILL)
        process.wait()
        seconds += time.perf_counter() - started
        whole += target.exists()
        print(f"\nkilled at {100 * share:.0f} %: {part.stat().st_size / 1e6:.0f} MB written", flush=True)
    rest, *_ = run(command(given, source, target))
    same = "byte-identical" if digest(target) == expected else "DIFFERENT"
    print(f"\nAfter {given.kills} kills: {same}; {seconds + rest:.0f} s in all; half files seen: {whole}.")


def pixels_of(path: Path) -> int:
    """Pixels of a picture."""
    with Image.open(path) as image:
        return image.width * image.height


def rows_done(part: Path, target: Path) -> float:
    """Pixels of the result that are certain, from the note beside it (bytes before compression / 3)."""
    note = part.with_name(part.name + ".jsonl")
    if target.exists() or not note.exists():
        return 0
    import json

    done = 0
    for row in note.read_text("ascii", errors="ignore").splitlines():
        if '"size"' in row and row.endswith("}"):
            done += json.loads(row)["size"]
    return done / 3


if __name__ == "__main__":
    main()
