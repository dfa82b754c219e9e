"""From the entrants of a report to the points of the fidelity-realism curve.

Entrants of one model that differ in one number (realism, guidance) are one series, ordered by that number.
"""

from collections.abc import Sequence
from typing import Final

from onestep.evaluate import charts
from onestep.evaluate.charts import Axis, Point
from onestep.evaluate.report import Entrant, Report, Score

FIDELITY: Final = ("psnr-y", "psnr")
"""What the curve has across, the first that was scored."""
PIXELS: Final = ("psnr", "psnr-y", "ssim", "ssim-y", "ms-ssim", "lr-consistency", "seam")
"""Metrics that compare pixels, and so measure no realism."""


def knob(entrants: Sequence[Entrant]) -> str | None:
    """The one option in which entrants of one model differ, if it is a number in all; None otherwise."""
    names = dict.fromkeys(name for entrant in entrants for name in entrant.options)
    differ = [name for name in names if len({str(e.options.get(name)) for e in entrants}) > 1]
    if len(differ) != 1:
        return None
    values = [entrant.options.get(differ[0]) for entrant in entrants]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return differ[0] if numbers else None


def groups(report: Report) -> list[list[Entrant]]:
    """The entrants by series: one that has a knob in its order, every other entrant alone."""
    by_model: dict[object, list[Entrant]] = {}
    for entrant in report.entrants:
        key = (entrant.model, entrant.weights_sha256, entrant.degradation) if entrant.model else id(entrant)
        by_model.setdefault(key, []).append(entrant)
    found: list[list[Entrant]] = []
    for entrants in by_model.values():
        name = knob(entrants)
        if name is None:
            found += [[entrant] for entrant in entrants]
            continue
        ranked = sorted((float(entrant.options[name]), i) for i, entrant in enumerate(entrants))
        found.append([entrants[i] for _, i in ranked])
    return found


def series(report: Report) -> dict[str, int]:
    """Entrant -> the number of its series, which is its colour and its mark."""
    return {entrant.name: number for number, group in enumerate(groups(report)) for entrant in group}


def points(report: Report, across: str, up: str) -> list[Point]:
    """The entrants that have both metrics."""
    found: list[Point] = []
    for number, group in enumerate(groups(report)):
        name = knob(group)
        for entrant in group:
            x, y = entrant.scores.get(across), entrant.scores.get(up)
            if x is None or y is None or x.mean is None or y.mean is None:
                continue
            label, model = entrant.name, entrant.name
            if name is not None:
                label, model = f"{entrant.options[name]:g}", f"{entrant.model}, by {name}"
            found.append(
                Point(number, model, entrant.name, label, x.mean, y.mean, _interval(x), _interval(y))
            )
    return found


def _interval(score: Score) -> charts.Interval:
    return None if score.low is None or score.high is None else (score.low, score.high)


def curves(report: Report, metrics: Sequence[str] | None = None, *, intervals: bool = True) -> list[str]:
    """A fidelity-realism curve for each perceptual metric; empty without PSNR.

    Args:
        report: At least two entrants.
        metrics: Which perceptual metrics; None for all that were scored.
        intervals: Whether the bootstrap intervals are drawn.
    """
    across = next((name for name in FIDELITY if name in report.metrics), None)
    if across is None or len(report.entrants) < 2:
        return []
    wanted = metrics if metrics is not None else [name for name in report.metrics if name not in PIXELS]
    drawn: list[str] = []
    for up in wanted:
        places = points(report, across, up)
        if len(places) > 1:
            title = f"{across} against {up}, one mark per entrant"
            axes = (_axis(report, across), _axis(report, up))
            drawn.append(charts.curve(places, *axes, title, intervals=intervals))
    return drawn


def _axis(report: Report, metric: str) -> Axis:
    return Axis(metric, "higher" if report.score(metric).better == "higher" else "lower")
