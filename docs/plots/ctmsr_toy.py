"""Draw docs/assets/ctmsr-toy.svg: what consistency training and matching reach in a Gaussian world.

Trains the toy of tests/ctmsr_parts.py (a minute) and needs the extra ``docs``:
``python docs/plots/ctmsr_toy.py``. A second argument names another file, of any format matplotlib writes.
"""

import math
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from ctmsr_parts import PerLevel, gaussian, optimise, spread, toy_objective  # noqa: E402

SPREADS = {1.0: "noise as large as the spread", 0.5: "twice as large", 0.1: "ten times as large"}
INTERVALS = (1, 2, 3, 4, 6, 8, 12, 16)
GAINS = [i / 50 for i in range(101)]
STEPS = 400


def correlation(a: float, b: float, s: float) -> float:
    """Of two states of one trajectory at the times a and b."""
    together = (1 - a) * (1 - b) * s**2 + a * b
    return together / math.hypot((1 - a) * s, a) / math.hypot((1 - b) * s, b)


def fixed_point(intervals: int, s: float, gain: float = 0.0) -> float:
    """Spread of one-step results over s; ``gain`` is that of matching at t = 1/3 (three intervals, s = 1)."""
    times = [n / intervals for n in range(intervals + 1)]
    c, reached = 0.8 * gain, 1.0
    for before, now in pairwise(times):
        reached = (reached * correlation(before, now, s) + c * correlation(0, now, s)) / (1 + c)
    return reached


def trained(intervals: int, s: float) -> float:
    """The same by consistency training."""
    objective = toy_objective(PerLevel(intervals), intervals)
    optimise(objective, lambda count: gaussian(count, s), STEPS)
    return spread(objective.model) / s


def matched(gain: float) -> float:
    """The same by matching after consistency training, with three intervals."""
    settings = {"ct_steps": STEPS, "dtm_steps": STEPS, "dtm_gain": gain, "dtm_weight": "simple"}
    objective = toy_objective(PerLevel(3), 3, refresh=10 * STEPS, **settings)
    optimise(objective, gaussian, STEPS)
    optimise(objective, gaussian, STEPS, first=STEPS)
    return spread(objective.model)


def draw(file: Path) -> None:
    """Train, draw and write the figure."""
    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "ctmsr", "font.size": 10, "axes.spines.top": False})
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
    for (s, label), color in zip(SPREADS.items(), ("C0", "C1", "C2"), strict=True):
        left.plot(INTERVALS, [fixed_point(n, s) for n in INTERVALS], color=color, label=label)
        few = INTERVALS[:4]
        left.plot(few, [trained(n, s) for n in few], "o", color=color, markersize=5, fillstyle="none")
    left.set(xlabel="intervals N", ylabel="spread of one-step results / true spread", ylim=(-0.03, 1.03))
    left.legend(frameon=False, loc="lower right")
    right.plot(GAINS, [fixed_point(3, 1.0, gain) for gain in GAINS], color="C0")
    some = (0.0, 0.25, 0.5, 1.0, 2.0)
    right.plot(some, [matched(g) for g in some], "o", color="C0", markersize=5, fillstyle="none")
    right.set(xlabel="gain of matching, three intervals, squared error")
    for axes in (left, right):
        axes.spines["right"].set_visible(False)
        axes.grid(alpha=0.25)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "assets" / "ctmsr-toy.svg"
    draw(target)
    print(target)
