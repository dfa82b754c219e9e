"""How visible the borders of tiles are in an image that was made in tiles.

Neighbouring lines of pixels differ a little everywhere. A seam makes the two lines that meet at a border
differ more than lines do elsewhere: 1.0 says that the border is invisible in this statistic; at most 1.02 is
wanted.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from onestep.core.errors import UsageError


def seam(image: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Mean absolute difference of neighbouring lines across tile borders over that of all other lines.

    The ratio is taken along each axis that has borders and averaged over all borders, so that an image whose
    detail runs mostly one way is measured against itself. Without any detail outside the borders, a border
    that shows gives infinity, and one that does not gives 1.

    Args:
        image: (B, C, H, W), any range.
        rows: where tiles meet vertically: r is a border between line r - 1 and line r, 0 < r < H.
        columns: where tiles meet horizontally, 0 < c < W.

    Returns:
        (B,), 1.0 for invisible.

    Raises:
        UsageError: there are no borders, a border lies outside the image, or every line is one.
    """
    image = image.double() if image.device.type != "mps" else image.cpu().double()
    parts = [_along(image, axis, borders) for axis, borders in ((-2, rows), (-1, columns)) if borders]
    if not parts:
        raise UsageError("the seam statistic needs at least one tile border")
    return torch.cat(parts, dim=1).mean(dim=1)


def _along(image: Tensor, axis: int, borders: Sequence[int]) -> Tensor:
    """One ratio per border of an axis, (B, borders)."""
    length = image.shape[axis]
    marked = sorted(set(borders))
    if marked[0] < 1 or marked[-1] >= length:
        raise UsageError(f"a tile border must lie inside the image, from 1 to {length - 1}: got {marked}")
    if len(marked) == length - 1:
        raise UsageError("every line is a tile border: nothing is left to compare with")
    other = -1 if axis == -2 else -2
    differences = image.diff(dim=axis).abs().mean(dim=(1, other))  # (B, length - 1)
    at = torch.zeros(length - 1, dtype=torch.bool, device=image.device)
    at[[border - 1 for border in marked]] = True
    elsewhere = differences[:, ~at].mean(dim=1, keepdim=True)
    across = differences[:, at]
    return torch.where(across == elsewhere, 1.0, across / elsewhere)
