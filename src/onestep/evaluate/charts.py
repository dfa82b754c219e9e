"""The charts of a report, as SVG: fidelity against realism, and how a score is distributed over the pictures.

Both axes are turned so that better is to the right and upwards. Entrants of one model share a colour and a
mark, and a line joins them in the order of their knob.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from onestep.evaluate import svg
from onestep.evaluate.svg import FONT, Label, Scale, tag, text

WIDE, HIGH = 420.0, 344.0
STYLE = Path(__file__).with_name("chart.css")
"""How the classes of a chart look."""
MOST_MARKS = 200
"""Marks in one strip; of more pictures, these many are drawn, evenly over the ranks."""


@dataclass(frozen=True)
class Axis:
    """What is measured along an axis."""

    label: str
    better: Literal["higher", "lower"]


Interval = tuple[float, float] | None
"""The ends of a confidence interval."""


@dataclass(frozen=True)
class Point:
    """An entrant on the fidelity-realism curve."""

    series: int
    """Number of its model; points of one series are joined in the order given."""
    model: str
    name: str
    label: str
    """What stands beside the mark: the knob's value, or the name."""
    x: float
    y: float
    x_interval: Interval = None
    y_interval: Interval = None


def curve(points: Sequence[Point], x: Axis, y: Axis, title: str, *, intervals: bool = True) -> str:
    """The fidelity-realism curve: all models on one plot.

    Args:
        points: The entrants; those of one series in the order of the knob.
        x: Fidelity.
        y: Realism or a perceptual distance.
        title: What the chart shows, for those who cannot see it.
        intervals: Whether the confidence intervals are drawn.
    """
    sweeps = {p.series: p.model for p in points if sum(q.series == p.series for q in points) > 1}
    legend, top = _legend(sweeps)
    inside = (54.0, top + 26, WIDE - 12, HIGH - 44)
    left, upper, right, lower = inside
    across = Scale.over([p.x for p in points], left, right, flipped=x.better == "lower", room=0.09)
    up = Scale.over([p.y for p in points], lower, upper, flipped=y.better == "lower", room=0.09)
    places = [(across(p.x), up(p.y)) for p in points]
    marks = list(zip(points, places, strict=True))
    joined = [(a, b, p.series) for (p, a), (q, b) in pairwise(marks) if p.series == q.series]
    taken = [box for a, b, _ in joined for box in svg.along(a, b)]
    taken += [(a - 6, b - 6, a + 6, b + 6) for a, b in places]
    single = [p.series not in sweeps for p in points]
    order = sorted(range(len(points)), key=lambda i: not single[i])
    names = [Label(*places[i], points[i].label, f"t{points[i].series % svg.COLOURS}") for i in order]
    parts = [
        *_frame(across, up, inside),
        text(left, upper - 10, f"↑ better: {y.label}", class_="name"),
        text(right, HIGH - 8, f"better: {x.label} →", class_="name", text_anchor="end"),
        *legend,
        *(_line(a, b, f"line s{series % svg.COLOURS}") for a, b, series in joined),
        *(part for p, place in marks if intervals for part in _whiskers(p, place, across, up)),
        *(_dot(p, place, x, y) for p, place in marks),
        *svg.labels(names, taken, inside),
    ]
    return _sheet(HIGH, title, parts)


def _legend(sweeps: dict[int, str]) -> tuple[list[str], float]:
    """Lines with mark and name for the models that have a curve, and the height they take."""
    drawn: list[str] = []
    for row, (series, model) in enumerate(sweeps.items()):
        y, colour = 10.0 + 18 * row, series % svg.COLOURS
        drawn.append(_line((2, y), (26, y), f"line s{colour}"))
        drawn.append(svg.mark(series, 14, y, 4.5, class_=f"dot s{colour}"))
        drawn.append(text(32, y + 0.36 * FONT, model, class_=f"t{colour}"))
    return drawn, 18.0 * len(sweeps)


def _frame(across: Scale, up: Scale, inside: svg.Box) -> list[str]:
    left, upper, right, lower = inside
    drawn: list[str] = []
    for value in svg.ticks(across.low, across.high):
        at = across(value)
        drawn.append(_line((at, upper), (at, lower), "grid"))
        drawn.append(text(at, lower + 17, svg.short(value), class_="tick", text_anchor="middle"))
    for value in svg.ticks(up.low, up.high):
        at = up(value)
        drawn.append(_line((left, at), (right, at), "grid"))
        drawn.append(text(left - 7, at + 0.36 * FONT, svg.short(value), class_="tick", text_anchor="end"))
    return drawn


def _line(start: tuple[float, float], end: tuple[float, float], class_: str) -> str:
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_)


def _whiskers(point: Point, place: tuple[float, float], across: Scale, up: Scale) -> list[str]:
    """The confidence intervals, cut to the plot."""
    drawn: list[str] = []
    colour = f"whisker s{point.series % svg.COLOURS}"
    if point.x_interval:
        a, b = (across(min(max(v, across.low), across.high)) for v in point.x_interval)
        drawn.append(_line((a, place[1]), (b, place[1]), colour))
    if point.y_interval:
        a, b = (up(min(max(v, up.low), up.high)) for v in point.y_interval)
        drawn.append(_line((place[0], a), (place[0], b), colour))
    return drawn


def _dot(point: Point, place: tuple[float, float], x: Axis, y: Axis) -> str:
    told = svg.told(f"{point.name}: {x.label} {point.x:.4g}, {y.label} {point.y:.4g}")
    return svg.mark(point.series, *place, 5.0, told, class_=f"dot s{point.series % svg.COLOURS}")


@dataclass(frozen=True)
class Spread:
    """The scores of one entrant."""

    series: int
    name: str
    values: Sequence[tuple[str, float]]
    """(picture, score)."""
    mean: float
    interval: Interval = None


ROW = 46.0


def distribution(entrants: Sequence[Spread], axis: Axis, title: str, digits: int = 3) -> str:
    """One strip per entrant: a mark per picture, a box between the quartiles, the mean with its interval."""
    high = ROW * len(entrants) + 44
    values = [value for entrant in entrants for _, value in entrant.values]
    across = Scale.over(values, 8, WIDE - 8, flipped=axis.better == "lower", room=0.03)
    parts: list[str] = []
    for value in svg.ticks(across.low, across.high):
        at = across(value)
        parts.append(_line((at, 2), (at, high - 42), "grid"))
        parts.append(text(at, high - 27, svg.short(value), class_="tick", text_anchor="middle"))
    parts.append(text(WIDE - 8, high - 8, f"better: {axis.label} →", class_="name", text_anchor="end"))
    for row, entrant in enumerate(entrants):
        parts += _strip(entrant, across, ROW * row, digits)
    return _sheet(high, title, parts)


def _strip(entrant: Spread, across: Scale, top: float, digits: int) -> list[str]:
    colour, middle = entrant.series % svg.COLOURS, top + 31
    mean = f"{entrant.mean:.{digits}f}"
    if entrant.interval:
        mean += f" [{entrant.interval[0]:.{digits}f}, {entrant.interval[1]:.{digits}f}]"
    drawn = [
        text(8, top + 15, entrant.name, class_=f"halo t{colour}"),
        text(WIDE - 8, top + 15, mean, class_="halo tick", text_anchor="end"),
    ]
    for i, (name, value) in enumerate(_thinned(entrant.values)):
        jitter = ((i * 0.618034) % 1 - 0.5) * 14
        told = svg.told(f"{name}: {value:.{digits}f}")
        drawn.append(tag("circle", told, cx=across(value), cy=middle + jitter, r=2.4, class_=f"pt s{colour}"))
    numbers = sorted(value for _, value in entrant.values)
    if len(numbers) > 1:
        low, middle_value, high = statistics.quantiles(numbers, n=4, method="inclusive")
        a, b = sorted((across(low), across(high)))
        drawn.append(
            tag("rect", x=a, y=middle - 9, width=max(b - a, 0.5), height=18, rx=2, class_=f"box s{colour}")
        )
        at = across(middle_value)
        drawn.append(_line((at, middle - 9), (at, middle + 9), f"median s{colour}"))
    if entrant.interval:
        a, b = (across(min(max(v, across.low), across.high)) for v in entrant.interval)
        drawn.append(_line((a, middle), (b, middle), f"interval s{colour}"))
    told = svg.told(f"{entrant.name}: mean {mean}")
    drawn.append(svg.mark(2, across(entrant.mean), middle, 5.0, told, class_=f"dot s{colour}"))
    return drawn


def _thinned(values: Sequence[tuple[str, float]]) -> Sequence[tuple[str, float]]:
    """All marks of a strip, or ``MOST_MARKS`` of them, both ends among them."""
    if len(values) <= MOST_MARKS:
        return values
    ranked = sorted(values, key=lambda pair: pair[1])
    return [ranked[round(i * (len(ranked) - 1) / (MOST_MARKS - 1))] for i in range(MOST_MARKS)]


def _sheet(high: float, title: str, parts: Sequence[str]) -> str:
    return tag(
        "svg",
        svg.told(title),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDE:g} {high:g}",
        role="img",
        class_="chart",
    )


def alone(charts: Sequence[str], columns: int = 2, gap: float = 28.0) -> str:
    """Charts of one height side by side as a picture of its own, light or dark as its viewer wishes."""
    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    wide = columns * WIDE + (columns + 1) * gap
    high = rows * HIGH + (rows + 1) * gap
    placed = [
        chart.replace(
            "<svg ",
            f'<svg x="{gap + (i % columns) * (WIDE + gap):g}" y="{gap + (i // columns) * (HIGH + gap):g}" '
            f'width="{WIDE:g}" height="{HIGH:g}" ',
            1,
        )
        for i, chart in enumerate(charts)
    ]
    return tag(
        "svg",
        tag("style", STYLE.read_text("utf-8")),
        tag("rect", width="100%", height="100%", rx=8, class_="sheet"),
        *placed,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {wide:g} {high:g}",
    )
