"""What upscaling a picture amounts to, in numbers: sizes, passes, tiles, bytes. Pure arithmetic."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from onestep.core.consistent import DOWNSCALES, Downscale
from onestep.core.contract import ColorFix, Traits
from onestep.core.errors import UsageError
from onestep.core.tiling import grid

Tile = int | Literal["auto", "off"]

LARGEST_SCALE = 16
SMALLEST_TILE = 32
"""LR pixels; below this the shared borders are most of the work, so that memory does not ask for less."""
LEAST_TILE = 8
"""LR pixels; the least that can be asked for."""

_FLOAT_PIXEL = 12
"""Bytes of one RGB pixel in float32."""


@dataclass(frozen=True)
class Settings:
    """How a picture is to be upscaled, the model's own options aside."""

    scale: float | None = None
    """1 to 16; the result has exactly round(scale * side) pixels, half to even. None: the model's own."""
    width: int | None = None
    """Exact width in pixels instead of a factor; the aspect is kept unless ``height`` is given too."""
    height: int | None = None
    seed: int = 0
    tile: Tile = "auto"
    """Side of the pieces in LR pixels; ``auto``: from the model and the free memory; ``off``: whole."""
    overlap: int | None = None
    """LR pixels that neighbouring tiles share; None: as the model wants it."""
    color: ColorFix | None = None
    """Colour fix against the input; None: as the model wants it."""
    consistent: bool = False
    """Whether the result is moved so that its downscaling is the input."""
    downscale: Downscale = "bicubic"
    """Which downscaling that is."""

    def __post_init__(self) -> None:
        """Refuse what is wrong for every picture.

        Raises:
            UsageError: One line that names the setting.
        """
        exact = [f"--{side}" for side in ("width", "height") if getattr(self, side) is not None]
        if self.scale is not None and exact:
            raise UsageError(f"give either --scale or {' and '.join(exact)}, not both")
        if self.scale is not None and not 1 <= self.scale <= LARGEST_SCALE:
            raise UsageError(
                f"--scale {self.scale:g} is impossible; choose a factor from 1 to {LARGEST_SCALE}"
            )
        if any(side is not None and side < 1 for side in (self.width, self.height)):
            raise UsageError(f"{' and '.join(exact)} must be at least 1 pixel")
        if isinstance(self.tile, str) and self.tile not in ("auto", "off"):
            raise UsageError(f"--tile {self.tile!r} means nothing; give a number of pixels, auto or off")
        if isinstance(self.tile, int) and self.tile < LEAST_TILE:
            raise UsageError(
                f"--tile {self.tile} is too small; give at least {LEAST_TILE} pixels, auto or off"
            )
        if self.overlap is not None and self.overlap < 0:
            raise UsageError(f"--overlap {self.overlap} is impossible; give 0 or more pixels")
        if isinstance(self.tile, int) and (self.overlap or 0) > self.tile // 2:
            raise UsageError(
                f"--overlap {self.overlap} is more than half of --tile {self.tile}; give at most "
                f"{self.tile // 2}, or larger tiles"
            )
        if self.color not in (None, "none", "wavelet", "adain"):
            raise UsageError(f"--color {self.color!r} means nothing; choose none, wavelet or adain")
        if self.downscale not in DOWNSCALES:
            raise UsageError(f"--downscale {self.downscale!r} means nothing; choose {', '.join(DOWNSCALES)}")


@dataclass(frozen=True)
class Plan:
    """What one picture will take."""

    width: int
    """Of the result, in pixels."""
    height: int
    passes: int
    """How often the model runs over the picture; what comes out too large is resized at the end."""
    tile: int
    """Longest side of what the model sees at once, in LR pixels."""
    overlap: int
    tiles: int
    """Pieces over all passes."""
    memory: int
    """Bytes, estimated, at the worst moment, the network's own parameters aside."""
    difference: float | None = None
    """In a report of what was done, where the result was to be consistent: the largest difference between its
    downscaling and the input, in values from 0 to 1."""


def target_size(width: int, height: int, settings: Settings, traits: Traits) -> tuple[int, int]:
    """Width and height of the result for a picture of this width and height.

    Raises:
        UsageError: An exact size outside 1 to 16 times the picture.
    """
    if settings.width is None and settings.height is None:
        scale = traits.scale if settings.scale is None else settings.scale
        return round(scale * width), round(scale * height)
    wide = settings.width or max(round(width * (settings.height or 0) / height), 1)
    high = settings.height or max(round(height * (settings.width or 0) / width), 1)
    fits = width <= wide <= LARGEST_SCALE * width and height <= high <= LARGEST_SCALE * height
    if not fits:
        raise UsageError(
            f"{wide}x{high} is not 1 to {LARGEST_SCALE} times {width}x{height}, its size; choose another"
        )
    return wide, high


def passes_needed(width: int, height: int, target: tuple[int, int], scale: int) -> int:
    """How often a model of this scale must run to reach or pass the target; at least once."""
    passes = 1
    while scale > 1 and (width * scale**passes < target[0] or height * scale**passes < target[1]):
        passes += 1
    return passes


def rounded_up(size: int, multiple: int) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def halved(tile: int, traits: Traits) -> int:
    """The next smaller tile to try, in LR pixels; the same when there is none."""
    smallest = rounded_up(max(SMALLEST_TILE, traits.minimum), traits.multiple_of)
    return max(rounded_up(tile // 2, traits.multiple_of), min(smallest, tile))


def shared(wanted: int | None, tile: int, traits: Traits) -> int:
    """The overlap to use: the wanted one or the model's, but no more than half of a tile.

    (``Settings`` refuse a wanted one that is more than half of the wanted tile.)
    """
    overlap = traits.overlap if wanted is None else wanted
    return min(overlap, tile // 2)


def whole(side: int, traits: Traits) -> int:
    """The tile that holds a picture whose longer side is this, as the model sees it."""
    return rounded_up(max(side, traits.minimum), traits.multiple_of)


def even(
    width: int, height: int, tile: int, overlap: int | None, traits: Traits, ratio: Fraction | int = 1
) -> int:
    """The tile between half and all of the given one that leaves the model the least to compute.

    The last tile of a row is moved back to the border, so it repeats what another one has done already; with
    sides that fit the picture there is less of that. Among equals the largest tile is taken. ``ratio``: noise
    elements per LR pixel.
    """

    def work(side: int) -> int:
        across, down = _pieces(sizes, side, shared(overlap, side, traits), traits, ratio)
        return across * down * min(side, sizes[0]) * min(side, sizes[1])

    sizes = (width, height)
    smallest = min(tile, max(halved(tile, traits), tile // 2, 2 * (overlap or 0)))
    return min(range(tile, smallest - 1, -traits.multiple_of), key=work)


def make_plan(
    width: int,
    height: int,
    settings: Settings,
    traits: Traits,
    *,
    tile: int,
    results: int = 1,
    ratio: Fraction | int = 1,
) -> Plan:
    """The plan for a picture of this size, ``tile`` being the longest side the model shall see at once.

    ``ratio``: noise elements per LR pixel.

    Raises:
        UsageError: An impossible size.
    """
    target, scale = target_size(width, height, settings, traits), traits.scale
    passes = passes_needed(width, height, target, scale)
    overlap = shared(settings.overlap, tile, traits)
    tiles = 0
    for done in range(passes):
        across, down = _pieces((width * scale**done, height * scale**done), tile, overlap, traits, ratio)
        tiles += across * down * (results if done else 1)
    before = width * height * scale ** (2 * passes - 2)
    exact = target == (width * scale**passes, height * scale**passes)
    resized = ((not exact) + 2 * settings.consistent) * target[0] * target[1]
    pixels = width * height + before + results * (before * scale**2 + resized)
    return Plan(*target, passes, tile, overlap, tiles, pixels * _FLOAT_PIXEL)


def _pieces(
    size: tuple[int, int], tile: int, overlap: int, traits: Traits, ratio: Fraction | int
) -> tuple[int, int]:
    """How many tiles ``core.tiling`` cuts along the axes of a picture."""
    cells = grid(
        *(whole(side, traits) for side in size),
        tile=tile,
        overlap=overlap,
        ratio=ratio,
        multiple_of=traits.multiple_of,
        minimum=traits.minimum,
    )
    return len(cells.rows), len(cells.columns)
