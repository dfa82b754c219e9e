"""Run a network over a large image in overlapping tiles that share one noise canvas.

Mechanism only: the size of a tile and what happens when memory runs out are the caller's policy.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from onestep.core.errors import UsageError
from onestep.core.noise import NoiseCanvas

Run = Callable[..., Iterable[Tensor]]
"""(lr (B, c, h, w), noise (B, C, h * ratio, w * ratio), *maps) -> K results (B, C, h * scale, w * scale)."""


@dataclass(frozen=True)
class Grid:
    """Where the tiles of an image lie, in LR pixels."""

    rows: list[tuple[int, int]]
    """(start, end) along the vertical axis."""
    columns: list[tuple[int, int]]
    fade: int
    """Over how many pixels neighbours are cross-faded, in the middle of what they share."""


@torch.inference_mode()
def tiled(
    run: Run,
    lr: Tensor,
    noise: NoiseCanvas,
    *,
    scale: int,
    tile: int,
    overlap: int,
    ratio: Fraction | int,
    multiple_of: int = 1,
    minimum: int = 1,
    progress: Callable[[float], None] | None = None,
    maps: Sequence[Tensor] = (),
) -> list[Tensor]:
    """Restore an image tile by tile; neighbours are blended, and see the same noise.

    The image is first padded at its right and lower border (reflected, or replicated where it is too small
    for that) so that its sides fit ``multiple_of`` and ``minimum``; the padding is cut from the result.
    Tiles start at multiples of ``tile - overlap``; the last of a row or column is moved back to the border.
    Starts are rounded down to ``multiple_of``, unless so coarse a step would leave less than ``overlap``
    (then to the denominator of ``ratio``). An image no larger than a tile is one tile.

    Two neighbours are cross-faded linearly over the middle half of ``overlap``. The outer quarters, where a
    network lacks context, are taken from the tile that has it: a network that looks no further than a
    quarter of ``overlap`` gives exactly what it gives for the whole image. Beside the result, memory holds
    a few tiles.

    Args:
        run: the network: (lr tile, noise tile, *map tiles) -> one or more results (B, C, h * scale,
            w * scale), always as many. Each is laid in its place before the next is asked for, so that a
            sweep that yields them holds one. It may move tiles to another device.
        lr: (B, c, h, w).
        noise: shared by all tiles, and by all images of the batch.
        scale: HR pixels per LR pixel.
        tile: side of a tile, in LR pixels; rounded down to ``multiple_of``, but not below ``minimum``.
        overlap: LR pixels that neighbours share, at least; half of a tile where rounding made that too small.
        ratio: canvas elements per LR pixel; its denominator must divide ``multiple_of``.
        multiple_of: sides of tiles are multiples of this, in LR pixels.
        minimum: smallest side of a tile, in LR pixels.
        progress: called after every tile with the finished fraction in (0, 1].
        maps: condition maps (B or 1, c, h, w) at LR resolution, cut together with the image.

    Returns:
        As many images (B, C, h * scale, w * scale) as ``run`` gives, float32, on the device of ``lr``.

    Raises:
        UsageError: the tile is not positive or the overlap not smaller than it.
        ValueError: the canvas cannot be cut at ``multiple_of``, or a map has another size than the image.
    """
    _check(lr, tile, overlap, Fraction(ratio), multiple_of, maps)
    height, width = lr.shape[-2:]
    lr, *maps = (fit(image, multiple_of, minimum) for image in (lr, *maps))
    cells = grid(
        lr.shape[-2],
        lr.shape[-1],
        tile=tile,
        overlap=overlap,
        ratio=ratio,
        multiple_of=multiple_of,
        minimum=minimum,
    )
    rows, columns, fade = cells.rows, cells.columns, cells.fade * scale
    canvases: list[Tensor] = []
    for i, row in enumerate(rows):
        carries: list[Tensor] = []
        above = (rows[i - 1][1] - row[0] if i else 0) * scale
        for j, column in enumerate(columns):
            done = ((columns[j + 1][0] if j + 1 < len(columns) else column[1]) - column[0]) * scale
            place = (..., slice(row[0] * scale, row[1] * scale), slice(column[0] * scale, None))
            for k, piece in enumerate(run(*_cut(lr, noise, row, column, Fraction(ratio), maps))):
                piece = piece.to(lr.device, torch.float32)
                if k == len(canvases):
                    canvases.append(_canvas(piece, lr.shape[-2] * scale, lr.shape[-1] * scale))
                mixed = faded(carries[k], piece, fade) if j else piece[..., :0]
                shared = mixed.shape[-1]
                _lay(canvases[k][place], mixed[..., :done], above, fade)
                _lay(canvases[k][place][..., shared:], piece[..., shared:done], above, fade)
                carries[k : k + 1] = [torch.cat([mixed[..., done:], piece[..., max(done, shared) :]], -1)]
            if progress is not None:
                progress((i * len(columns) + j + 1) / (len(rows) * len(columns)))
    return [canvas[..., : height * scale, : width * scale] for canvas in canvases]


def grid(
    height: int,
    width: int,
    *,
    tile: int,
    overlap: int,
    ratio: Fraction | int,
    multiple_of: int = 1,
    minimum: int = 1,
) -> Grid:
    """The tiles that ``tiled`` cuts an image of this (padded) size into; arguments as there."""
    side = max(_floor(tile, multiple_of), _ceil(minimum, multiple_of))
    overlap = overlap if overlap < side else side // 2
    step = multiple_of if side - overlap >= multiple_of else Fraction(ratio).denominator
    stride = max(_floor(side - overlap, step), step)
    return Grid(_spans(height, side, stride), _spans(width, side, stride), overlap - 2 * (overlap // 4))


def fit(image: Tensor, multiple_of: int, minimum: int = 1) -> Tensor:
    """Pad (B, C, h, w) at the right and below until both sides are multiples and not below the minimum.

    The image is reflected, or its border replicated where the padding is not smaller than the image.
    """
    bottom, right = (max(_ceil(n, multiple_of), _ceil(minimum, multiple_of)) - n for n in image.shape[-2:])
    for pad, n in (((0, right, 0, 0), image.shape[-1]), ((0, 0, 0, bottom), image.shape[-2])):
        if any(pad):
            image = F.pad(image, pad, mode="reflect" if max(pad) < n else "replicate")
    return image


def _check(
    lr: Tensor, tile: int, overlap: int, ratio: Fraction, multiple_of: int, maps: Sequence[Tensor]
) -> None:
    if tile < 1:
        raise UsageError(f"tile {tile} is too small: use a side of at least 1 pixel")
    if not 0 <= overlap < tile:
        raise UsageError(f"overlap {overlap} does not fit tile {tile}: use 0 to {tile - 1}")
    if multiple_of % ratio.denominator:
        raise ValueError(f"{ratio} canvas elements per pixel cannot be cut at multiples of {multiple_of}")
    for image in maps:
        if image.shape[-2:] != lr.shape[-2:]:
            raise ValueError(f"a map is {tuple(image.shape[-2:])}, the image {tuple(lr.shape[-2:])}")


def _ceil(n: int, step: int) -> int:
    return -(-n // step) * step


def _floor(n: int, step: int) -> int:
    return n // step * step


def _spans(length: int, side: int, stride: int) -> list[tuple[int, int]]:
    """(start, end) of every tile along an axis."""
    side = min(side, length)
    starts = [*range(0, length - side, stride), length - side]
    return [(start, start + side) for start in starts]


def _cut(
    lr: Tensor,
    noise: NoiseCanvas,
    row: tuple[int, int],
    column: tuple[int, int],
    ratio: Fraction,
    maps: Sequence[Tensor],
) -> list[Tensor]:
    """The arguments of ``run`` for one tile."""
    tiles = [image[..., row[0] : row[1], column[0] : column[1]] for image in (lr, *maps)]
    top, bottom, left, right = (int(edge * ratio) for edge in (*row, *column))
    window = noise.window(top, left, bottom - top, right - left).to(lr)
    return [tiles[0], window.expand(len(lr), -1, -1, -1), *tiles[1:]]


def _canvas(piece: Tensor, height: int, width: int) -> Tensor:
    """Room for the result, an ordinary tensor: callers may go on with it outside of inference mode."""
    with torch.inference_mode(False):
        return torch.empty(*piece.shape[:-2], height, width, dtype=piece.dtype, device=piece.device)


def faded(old: Tensor, new: Tensor, length: int) -> Tensor:
    """The first columns of ``new``, cross-faded from ``old`` over ``length`` columns in their middle."""
    shared = old.shape[-1]
    length = min(length, shared)
    before = (shared - length) // 2
    steps = torch.arange(shared, device=new.device, dtype=new.dtype) - before
    weight = ((steps + 0.5) / length).clamp(0, 1) if length else (steps >= 0).to(new.dtype)
    return torch.lerp(old, new[..., :shared], weight)


def _lay(into: Tensor, piece: Tensor, shared: int, length: int) -> None:
    """Write a piece into the upper left; its first ``shared`` rows are cross-faded from what is there."""
    into = into[..., : piece.shape[-1]]
    into[..., shared:, :] = piece[..., shared:, :]
    if shared:
        into[..., :shared, :] = faded(into[..., :shared, :].mT, piece.mT, length).mT
