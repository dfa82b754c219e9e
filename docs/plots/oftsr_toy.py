"""Draw docs/assets/oftsr-toy.svg: what a distilled student reaches on the closed form of OFTSR (section 9).

Trains the toy of tests/gaussian_toy.py five times (half a minute) and needs the extra ``docs``:
``python docs/plots/oftsr_toy.py``. A second argument names another file, of any format matplotlib writes.
"""

import sys
from pathlib import Path

import matplotlib as mpl

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from gaussian_toy import distilled, early_gain, gains, student_gain, trained_teacher  # noqa: E402

CURVE = [i / 200 for i in range(201)]
POINTS = [i / 20 for i in range(21)]


def reached() -> dict[str, list[float]]:
    """The curve of each student: label -> k(t) / tau at ``POINTS``."""
    teacher = trained_teacher()
    l1 = distilled(teacher, distance="l1")
    students = {
        "student, L1": l1,
        "student, L2": distilled(teacher, distance="l2"),
        "student, L2, Euler slopes": distilled(teacher, distance="l2", solver="euler"),
        "student, L1, no boundary term": distilled(l1, distance="l1", boundary=0.0),
    }
    return {label: gains(student, POINTS) for label, student in students.items()}


def draw(file: Path) -> None:
    """Train, draw and write the figure."""
    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "oftsr", "font.size": 10, "axes.spines.top": False})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(CURVE, [student_gain(t) for t in CURVE], color="black", label="optimal student, k(t)")
    early = [early_gain(t) for t in CURVE]
    axes.plot(CURVE, early, color="0.55", linestyle="--", label="teacher's early estimate, $k_T$(t)")
    looks = zip(reached().items(), "o^sD", ("C0", "C1", "C2", "C3"), strict=True)
    for (label, values), marker, color in looks:
        axes.plot(POINTS, values, marker, color=color, markersize=4.5, fillstyle="none", label=label)
    axes.set(
        xlabel="t   (0 faithful, 1 realistic)",
        ylabel="share of the posterior's spread, k / τ",
        xlim=(-0.01, 1.01),
        ylim=(-0.02, 1.08),
    )
    axes.spines["right"].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=130)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "assets" / "oftsr-toy.svg"
    draw(target)
    print(target)
