"""Colour profiles: from the colours of a picture to sRGB, in which models were trained, and back.

Computed in floating point, for profiles made of a matrix and tone curves (those of screens, cameras and wide
gamuts) and for grey ones with a tone curve (ICC.1:2022, sections 8.3, 8.4 and 10.6, 10.18). Profiles made of
tables have no exact way back; pictures with one are taken as they are.
"""

import functools
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]

_SRGB_TO_XYZ: Final = (
    (0.4360747, 0.3850649, 0.1430804),
    (0.2225045, 0.7168786, 0.0606169),
    (0.0139322, 0.0971045, 0.7141733),
)
"""Linear sRGB to XYZ under D50, the white of all profiles (IEC 61966-2-1, adapted by Bradford)."""
_SRGB_CURVE: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0.0, 0.0)
_MATRIX: Final = (b"rXYZ", b"gXYZ", b"bXYZ")
_CURVES: Final = (b"rTRC", b"gTRC", b"bTRC")
_TABLES: Final = (b"A2B0", b"A2B1", b"D2B0")
_INDISTINGUISHABLE: Final = 0.01
"""Profiles that differ less than this from sRGB everywhere are taken for it: it is sRGB, rounded otherwise.
(One part in 10 000 in the matrix moves the darkest blue by 0.003; "grey gamma 2.2" is 0.03 away.)"""


@dataclass(frozen=True)
class Curve:
    """A tone curve from the values of a picture to light, both in [0, 1].

    Either the seven parameters of a parametric curve, y = (a x + b)^g + e from x = d on and y = c x + f
    below; or a table over equal steps of x.
    """

    parameters: tuple[float, ...] = ()
    """g, a, b, c, d, e, f."""
    table: tuple[float, ...] = ()

    def light(self, values: Tensor) -> Tensor:
        """Values to light; values are clamped to [0, 1] first."""
        x = values.clamp(0, 1)
        if self.table:
            return _interpolated(
                x, torch.linspace(0, 1, len(self.table)).to(x), torch.tensor(self.table).to(x)
            )
        g, a, b, c, d, e, f = self.parameters
        return torch.where(x >= d, (a * x + b).clamp_min(0) ** g + e, c * x + f)

    def values(self, light: Tensor) -> Tensor:
        """Light to values, both in [0, 1]."""
        y = light.clamp(0, 1)
        if self.table:
            rising = torch.tensor(self.table).cummax(0).values.to(y)
            return _interpolated(y, rising, torch.linspace(0, 1, len(self.table)).to(y))
        g, a, b, c, d, e, f = self.parameters
        above = ((y - e).clamp_min(0) ** (1 / g) - b) / a
        below = (y - f) / c if c else torch.zeros_like(y)
        at = max(a * d + b, 0.0) ** g + e
        return torch.where(y >= at, above, below).clamp(0, 1)


@dataclass(frozen=True)
class Profile:
    """How the values of a picture become sRGB and back; what lies outside of either is clamped."""

    curves: tuple[Curve, Curve, Curve]
    matrix: tuple[tuple[float, ...], ...]
    """From linear light of the picture to linear sRGB, 3 x 3."""

    def to_srgb(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], as in the file, to sRGB in [0, 1]."""
        planes = [curve.light(plane) for curve, plane in zip(self.curves, rgb.unbind(1), strict=True)]
        return _SRGB.values(_mixed(torch.stack(planes, 1), np.array(self.matrix)))

    def from_srgb(self, rgb: Tensor) -> Tensor:
        """(B, 3, H, W) of sRGB in [0, 1] to the values of the file in [0, 1]."""
        light = _mixed(_SRGB.light(rgb), np.linalg.inv(np.array(self.matrix)))
        planes = [curve.values(plane) for curve, plane in zip(self.curves, light.unbind(1), strict=True)]
        return torch.stack(planes, 1)


_SRGB: Final = Curve(_SRGB_CURVE)


@functools.lru_cache(maxsize=8)
def profile_of(icc: bytes | None) -> Profile | None:
    """The conversion that a profile stands for; None where none is needed, or none can be computed."""
    try:
        profile = _parsed(icc) if icc else None
    except (ValueError, struct.error, LookupError, np.linalg.LinAlgError):
        return None
    return None if profile is None or _is_srgb(profile) else profile


def computable(icc: bytes) -> bool:
    """Whether the profile is sRGB or can be converted to it."""
    try:
        return _parsed(icc) is not None
    except (ValueError, struct.error, LookupError, np.linalg.LinAlgError):
        return False


def _parsed(icc: bytes) -> Profile | None:
    count = struct.unpack(">L", icc[128:132])[0]
    tags: dict[bytes, bytes] = {}
    for n in range(min(count, 200)):
        name, start, size = struct.unpack(">4sLL", icc[132 + 12 * n : 144 + 12 * n])
        tags[name] = icc[start : start + size]
    if any(name in tags for name in _TABLES) or icc[20:24] != b"XYZ ":
        return None
    if icc[16:20] == b"GRAY":
        curve = _curve(tags[b"kTRC"])
        return Profile((curve, curve, curve), _rows(np.eye(3)))
    if icc[16:20] != b"RGB ":
        return None
    columns = [np.array(struct.unpack(">3l", tags[name][8:20])) / 65536 for name in _MATRIX]
    red, green, blue = (_curve(tags[name]) for name in _CURVES)
    to_xyz = np.stack(columns, axis=1)
    if abs(np.linalg.det(to_xyz)) < 1e-4:
        raise ValueError("the primaries of the profile lie on a line")
    return Profile((red, green, blue), _rows(np.linalg.inv(np.array(_SRGB_TO_XYZ)) @ to_xyz))


def _curve(data: bytes) -> Curve:
    """A tone curve, types "curv" and "para"; one that does not rise is refused."""
    kind = data[:4]
    if kind == b"curv":
        count = struct.unpack(">L", data[8:12])[0]
        samples = struct.unpack(f">{count}H", data[12 : 12 + 2 * count])
        if count > 1:
            table = tuple(sample / 65535 for sample in samples)
            if table[-1] <= table[0]:
                raise ValueError("the tone curve falls")
            return Curve(table=table)
        return _gamma(samples[0] / 256 if samples else 1.0)
    if kind != b"para":
        raise ValueError("no tone curve")
    form = struct.unpack(">H", data[8:10])[0]
    length = (1, 3, 4, 5, 7)[form]
    p = [number / 65536 for number in struct.unpack(f">{length}l", data[12 : 12 + 4 * length])]
    if form == 0:
        return _gamma(p[0])
    if p[0] <= 0 or p[1] <= 0:
        raise ValueError("the tone curve falls")
    if form in (1, 2):  # y = (a x + b)^g + c from x = -b / a on, and c below
        shift = p[3] if form == 2 else 0.0
        return Curve((p[0], p[1], p[2], 0.0, -p[2] / p[1], shift, shift))
    return Curve((*p, 0.0, 0.0)) if form == 3 else Curve(tuple(p))


def _gamma(exponent: float) -> Curve:
    if exponent <= 0:
        raise ValueError("the tone curve falls")
    return Curve((exponent, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0))


def _is_srgb(profile: Profile) -> bool:
    steps = torch.linspace(0, 1, 17, dtype=torch.float64)
    colors = torch.cartesian_prod(steps, steps, steps).T.reshape(1, 3, 17, -1)
    difference = (profile.to_srgb(colors) - colors).abs()
    back = (profile.from_srgb(colors) - colors).abs()
    return float(torch.maximum(difference, back).max()) < _INDISTINGUISHABLE


def _mixed(rgb: Tensor, matrix: Floats) -> Tensor:
    """A matrix times the colours of (B, 3, H, W)."""
    return torch.einsum("ij,bjhw->bihw", torch.from_numpy(matrix).to(rgb), rgb)


def _rows(matrix: Floats) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)


def _interpolated(x: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear: ``values`` at the rising places ``known``."""
    right = torch.searchsorted(known, x.contiguous()).clamp_(1, len(known) - 1)
    low, high = known[right - 1], known[right]
    share = ((x - low) / (high - low).clamp_min(1e-12)).clamp_(0, 1)
    return torch.lerp(values[right - 1], values[right], share)
