"""Draw docs/assets/fidelity-realism.svg from a report: PSNR against perceptual metrics, all on one plot.

``python docs/plots/fidelity_realism.py REPORT.json [METRIC...]``; docs/results/drealsr.md has the command
that makes the report.
"""

import json
import sys
from pathlib import Path

from onestep.evaluate import Report
from onestep.evaluate.charts import alone
from onestep.evaluate.curves import curves

TARGET = Path(__file__).parents[1] / "assets" / "fidelity-realism.svg"


def draw(source: Path, metrics: list[str]) -> None:
    """Read the report, write the picture."""
    report = Report.from_json(json.loads(source.read_text("utf-8")), str(source))
    TARGET.write_text(alone(curves(report, metrics, intervals=False)) + "\n", "utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), sys.argv[2:] or ["niqe", "lpips-squeeze"])
    print(TARGET)
