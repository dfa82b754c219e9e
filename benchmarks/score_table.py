"""Lay the JSON reports of ``onestep evaluate`` side by side as Markdown: a table per folder, a row per file.

Run: ``python benchmarks/score_table.py REPORTS [--trained lpips-squeeze]``. A metric that was a training loss
is marked with a dagger.
"""

import argparse
import json
from pathlib import Path

ARROWS = {"higher": "↑", "lower": "↓"}


def table(folder: Path, trained: set[str]) -> str:
    """The Markdown table of one folder of reports, rows in the order of the file names."""
    reports = {
        path.stem: json.loads(path.read_text("utf-8"))
        for path in sorted(folder.glob("*.json"), key=lambda p: p.stem)
    }
    names = list(next(iter(reports.values()))["metrics"])
    heads = [
        name + ("†" if name in trained else "") + ARROWS[first["better"]]
        for name, first in next(iter(reports.values()))["metrics"].items()
    ]
    images = len(next(iter(reports.values()))["images"])
    lines = [f"### {folder.name} ({images} pictures)", "", "| | " + " | ".join(heads) + " |"]
    lines.append("|---" * (len(heads) + 1) + "|")
    for row, report in reports.items():
        cells = [
            "–"
            if name not in report["metrics"]
            else f"{report['metrics'][name]['mean']:.4g}"
            if name == "niqe"
            else f"{report['metrics'][name]['mean']:.{2 if name.startswith('psnr') else 4}f}"
            for name in names
        ]
        lines.append(f"| {row.split(' ', 1)[1]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables of all folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path)
    parser.add_argument("--trained", default="lpips-squeeze", help="comma-separated training losses")
    arguments = parser.parse_args()
    trained = set(arguments.trained.split(","))
    for folder in sorted(path for path in arguments.reports.iterdir() if path.is_dir()):
        print(table(folder, trained), end="\n\n")


if __name__ == "__main__":
    main()
