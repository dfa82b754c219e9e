"""Compare rows of JSON reports of ``onestep evaluate`` picture by picture, as Markdown.

Run: ``python benchmarks/paired_table.py REPORTS "ROW=OTHER"... [--step MILD STRONG]``, where REPORTS holds a
folder of reports per set, and rows are named by the beginning of their files. A cell says in how many
pictures ROW is better than OTHER, and the mean of ROW less OTHER with its paired 95 % bootstrap interval.
``--step`` adds what this difference is in one folder less what it is in another, on the same pictures.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onestep.evaluate import bootstrap

METRICS = {"psnr-y": 2, "ssim-y": 4, "niqe": 2, "brisque": 1, "feature-squeezenet-onnx": 3}
"""What is compared, and how many digits are shown."""


def report(folder: Path, row: str) -> tuple[str, dict[str, Any]]:
    """Name and report of the one row that is called or begins so.

    Raises:
        SystemExit: None or several do.
    """
    stems = sorted(path.stem for path in folder.glob("*.json"))
    found = [stem for stem in stems if stem == row] or [stem for stem in stems if stem.startswith(row)]
    if len(found) != 1:
        raise SystemExit(f"{folder}: {len(found)} reports begin with {row!r}; there are {', '.join(stems)}")
    return found[0].split(" ", 1)[1], json.loads((folder / f"{found[0]}.json").read_text("utf-8"))


def differences(folder: Path, row: str, other: str, metric: str) -> tuple[dict[str, float], str]:
    """Picture -> row less other, and which direction of the metric is better."""
    ours, theirs = (report(folder, one)[1] for one in (row, other))
    before = {image["name"]: image[metric] for image in theirs["images"]}
    found = {image["name"]: image[metric] - before[image["name"]] for image in ours["images"]}
    return found, ours["metrics"][metric]["better"]


def cell(values: Sequence[float], digits: int) -> str:
    """Mean and interval."""
    interval = bootstrap.interval(values)
    numbers = [bootstrap.mean(values) or 0.0, *(interval or (float("nan"),) * 2)]
    mean, low, high = (f"{number:+.{digits}f}".replace("-", "−") for number in numbers)
    return f"{mean} ({low} … {high})"


def rows(root: Path, pairs: Sequence[str]) -> Iterator[str]:
    """One line per pair and folder."""
    for row, other in (pair.split("=", 1) for pair in pairs):
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            cells: list[str] = []
            for metric, digits in METRICS.items():
                found, better = differences(folder, row, other, metric)
                wins = sum(value < 0 if better == "lower" else value > 0 for value in found.values())
                cells.append(f"{wins}: {cell(list(found.values()), digits)}")
            names = [report(folder, one)[0] for one in (row, other)]
            yield f"| {names[0]}, less {names[1]}, {folder.name} | " + " | ".join(cells) + " |"


def steps(first: Path, second: Path, pairs: Sequence[str]) -> Iterator[str]:
    """One line per pair: the differences in the second folder less those in the first."""
    for row, other in (pair.split("=", 1) for pair in pairs):
        cells: list[str] = []
        for metric, digits in METRICS.items():
            before, after = (differences(folder, row, other, metric)[0] for folder in (first, second))
            cells.append(cell([after[name] - before[name] for name in before], digits))
        names = [report(first, one)[0] for one in (row, other)]
        yield f"| {names[0]}, less {names[1]} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path)
    parser.add_argument("pairs", nargs="+", metavar="ROW=OTHER")
    parser.add_argument("--step", nargs=2, metavar=("MILD", "STRONG"))
    asked = parser.parse_args()
    head = f"| | {' | '.join(METRICS)} |\n{'|---' * (len(METRICS) + 1)}|"
    print("\n".join([head, *rows(asked.reports, asked.pairs)]), end="\n\n")
    if asked.step:
        first, second = (asked.reports / name for name in asked.step)
        print("\n".join([head, *steps(first, second, asked.pairs)]), end="\n\n")


if __name__ == "__main__":
    main()
