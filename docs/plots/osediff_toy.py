"""Draw docs/assets/osediff-toy.svg: where outputs go without and with score distillation.

Trains the toy of tests/mixture_toy.py three times (half a minute) and needs the extras ``docs`` and
``diffusion``: ``python docs/plots/osediff_toy.py``. A second argument names another file.
"""

import sys
from pathlib import Path

import matplotlib as mpl

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from mixture_toy import MODES, drawn, made, near_a_mode, trained  # noqa: E402

WEIGHTS = (0.0, 1.0, 4.0)
"""Of score distillation beside the squared error."""


def draw(file: Path) -> None:
    """Train, draw and write the figure."""
    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "osediff", "font.size": 9, "axes.spines.top": False})
    from matplotlib import pyplot as plt

    panels = {"the prior": drawn(1200)}
    for weight in WEIGHTS:
        name = f"squared error + {weight:g} VSD" if weight else "squared error alone"
        panels[name] = made(trained(1.0, weight), 1200)[0]
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.6), layout="constrained", sharex=True, sharey=True)
    for axis, (name, points) in zip(axes, panels.items(), strict=True):
        axis.plot(*points.T.tolist(), ".", markersize=2, alpha=0.35, color="C0", rasterized=True)
        axis.plot(*MODES.T.tolist(), "+", color="black", markersize=9)
        axis.set(title=f"{name}\n{near_a_mode(points):.0%} near a mode", aspect="equal")
        axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), xlabel="observed (roughly)")
        axis.spines["right"].set_visible(False)
    axes[0].set_ylabel("not observed")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=130)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "assets" / "osediff-toy.svg"
    draw(target)
    print(target)
