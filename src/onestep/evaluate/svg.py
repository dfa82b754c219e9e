"""What the charts of a report are drawn with: elements, axes, round ticks, labels that avoid each other.

Lengths are in the units of the ``viewBox``. Nothing is coloured here: an element has a class, and the style
of the page (or of the picture, where it stands alone) says how that class looks in light and in dark.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

FONT = 13.0
"""Height of the letters."""
SHAPES = ("circle", "square", "diamond", "triangle", "down", "cross")
"""Marks by number: a series is told by its shape too, not by its colour alone."""
COLOURS = 8
"""Colours by number, ``s0`` to ``s7``."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def tag(name: str, /, *inside: str, **attributes: object) -> str:
    """An element; ``inside`` is markup. ``class_`` gives ``class``, ``_`` in names becomes ``-``."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(inside)}</{name}>" if inside else f"<{name}{written}/>"


def _text(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def text(x: float, y: float, words: str, **attributes: object) -> str:
    """A line of text that begins, ends or is centred at (x, y)."""
    return tag("text", escape(words), x=x, y=y, **attributes)


def told(words: str) -> str:
    """What an element says when pointed at, and to those who cannot see it."""
    return tag("title", escape(words))


def width(words: str, size: float = FONT) -> float:
    """About how wide a line of text is: letters of a sans serif are half as wide as high, capitals more."""
    wide = sum(0.68 if c.isupper() or c in "mw%@–—↑↓" else 0.3 if c in "il.,'| ()[]" else 0.56 for c in words)
    return wide * size


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values inside [low, high], 1, 2 or 5 times a power of ten apart."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A tick or a knob's value without needless digits."""
    return f"{value:.6g}"


@dataclass(frozen=True)
class Scale:
    """Maps values to lengths; ``flipped`` where small values are the better ones and belong far out."""

    low: float
    high: float
    start: float
    end: float
    flipped: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + (1 - share if self.flipped else share) * (self.end - self.start)

    @classmethod
    def over(
        cls, values: Iterable[float], start: float, end: float, *, flipped: bool = False, room: float = 0.06
    ) -> "Scale":
        """A scale on which all values lie, with some room at both ends."""
        finite = list(values)
        low, high = min(finite), max(finite)
        margin = (high - low) * room or abs(high) * 0.05 or 1.0
        return cls(low - margin, high + margin, start, end, flipped)


def mark(shape: int, x: float, y: float, radius: float, *inside: str, **attributes: object) -> str:
    """A mark of ``SHAPES`` by number, with about the same area whatever its shape."""
    name = SHAPES[shape % len(SHAPES)]
    if name == "circle":
        return tag("circle", *inside, cx=x, cy=y, r=radius, **attributes)
    if name == "square":
        half = radius * 0.9
        return tag(
            "rect", *inside, x=x - half, y=y - half, width=2 * half, height=2 * half, rx=1, **attributes
        )
    far, near = radius * 1.25, radius * 0.4
    corners = {
        "diamond": ((0, -far), (far, 0), (0, far), (-far, 0)),
        "triangle": ((0, -far), (far, radius * 0.9), (-far, radius * 0.9)),
        "down": ((0, far), (far, -radius * 0.9), (-far, -radius * 0.9)),
        "cross": (
            *((-near, -far), (near, -far), (near, -near), (far, -near), (far, near), (near, near)),
            *((near, far), (-near, far), (-near, near), (-far, near), (-far, -near), (-near, -near)),
        ),
    }[name]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return tag("polygon", *inside, points=points, **attributes)


def overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, down)


@dataclass(frozen=True)
class Label:
    """Words that belong to a point."""

    x: float
    y: float
    words: str
    class_: str


_PLACES = (
    *((8.0, 0.36, "start"), (-8.0, 0.36, "end"), (0.0, -0.75, "middle"), (0.0, 1.4, "middle")),
    *((6.0, -0.5, "start"), (-6.0, -0.5, "end"), (6.0, 1.2, "start"), (-6.0, 1.2, "end")),
    *((0.0, -1.6, "middle"), (0.0, 2.3, "middle"), (12.0, -1.3, "start"), (-12.0, -1.3, "end")),
)
"""Where a label may stand from its point: across, down in letter heights, anchor; earlier is better."""


def labels(wanted: Sequence[Label], taken: Sequence[Box], inside: Box, size: float = FONT) -> list[str]:
    """Text elements for labels, each where it covers the least of other labels and of ``taken``.

    Args:
        wanted: The labels, the most important first.
        taken: What must stay visible: marks and lines.
        inside: Where labels may stand.
        size: Height of the letters.
    """
    filled, drawn = list(taken), list[str]()
    for label in wanted:
        best: tuple[float, Box, str] | None = None
        for rank, (dx, lines, anchor) in enumerate(_PLACES):
            x, y, wide = label.x + dx, label.y + lines * size, width(label.words, size)
            left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
            box = (left, y - 0.8 * size, left + wide, y + 0.2 * size)
            outside = wide * size - overlap(box, inside)
            cost = 4 * outside + sum(overlap(box, other) for other in filled) + rank
            if best is None or cost < best[0]:
                best = (cost, box, text(x, y, label.words, class_=label.class_, text_anchor=anchor))
        if best is not None:
            filled.append(best[1])
            drawn.append(best[2])
    return drawn


def along(start: tuple[float, float], end: tuple[float, float], step: float = 8.0) -> list[Box]:
    """Small boxes along a line, so that labels can avoid it."""
    length = math.dist(start, end)
    count = max(1, round(length / step))
    places = ((i / count, 1 - i / count) for i in range(count + 1))
    return [
        (x - 2, y - 2, x + 2, y + 2)
        for a, b in places
        for x, y in [(a * end[0] + b * start[0], a * end[1] + b * start[1])]
    ]
