"""A picture: colours as a tensor, with everything else that its file carried."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from onestep.core import picture_write
from onestep.core.errors import InputError
from onestep.core.picture_read import from_pillow, load
from onestep.core.profile import computable, profile_of
from onestep.core.raster import Array, Raster, checked

_log: Final = logging.getLogger("onestep")

MAX_PIXELS: Final = 500_000_000
"""Larger inputs are refused unless the caller raises the limit."""
_STRIP: Final = 256
"""Rows converted at a time, which bounds memory."""
_LUMA: Final = (0.299, 0.587, 0.114)
"""ITU-R BT.601: how much of each colour grey takes."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels in [0, 1] and what is kept beside them.

    Alpha is apart, and straight (not multiplied into the colours). Pixels that were wholly transparent in a
    file or an array have the colour of the nearest visible one, so that no hidden colour bleeds over an edge
    when the picture is resized or restored.
    """

    rgb: Tensor
    """(1, 3, H, W), float32 in [0, 1]; three equal channels when ``grey``."""
    alpha: Tensor | None = None
    """(1, 1, H, W), float32 in [0, 1]; 1 is opaque."""
    icc: bytes | None = None
    """The colour profile that ``rgb`` is meant in; None is sRGB."""
    exif: bytes | None = None
    """With orientation 1, if any: pixels stand upright."""
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    """Pixels per inch, across and down."""
    bits: int = 8
    """8 or 16: depth of the source, and of a file saved from it where the format holds it. Tensors and
    floating-point arrays count as 8, files of floating point as 16."""
    grey: bool = False
    format: str | None = None
    """Pillow's name of the source's format, such as "JPEG"."""
    lossless: bool = True
    """Whether the source was stored without loss; a WebP file saved from it is, too."""

    @property
    def tensor(self) -> Tensor:
        """The colours, (1, 3, H, W) in [0, 1]."""
        return self.rgb

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return self.rgb.shape[-1]

    @property
    def height(self) -> int:
        """Rows."""
        return self.rgb.shape[-2]

    @property
    def array(self) -> npt.NDArray[np.float32]:
        """(H, W, C), float32 in [0, 1]; C is 1 grey, 2 grey + alpha, 3 RGB or 4 RGBA."""
        return self._rows(0, self.height)

    def to_uint8(self) -> npt.NDArray[np.uint8]:
        """(H, W, C), rounded half to even to 0 ... 255."""
        return self._quantised(np.uint8)

    def to_uint16(self) -> npt.NDArray[np.uint16]:
        """(H, W, C), rounded half to even to 0 ... 65535."""
        return self._quantised(np.uint16)

    def to_pil(self) -> Image.Image:
        """As a Pillow image of 8 bits: mode L, LA, RGB or RGBA."""
        image = picture_write.to_pillow(self.to_uint8())
        kept = {"icc_profile": self.icc, "exif": self.exif, "xmp": self.xmp, "dpi": self.dpi}
        for key, value in kept.items():
            if value is not None:
                image.info[key] = value
        return image

    def save(
        self,
        path: str | Path,
        *,
        quality: int = 95,
        keep_metadata: bool = True,
        lossless: bool | None = None,
        bits: int | None = None,
    ) -> None:
        """Write a file: PNG, JPEG, WebP, TIFF or BMP by its extension; whole or not at all.

        Args:
            path: an existing file is replaced.
            quality: 1 to 100, for JPEG and lossy WebP.
            keep_metadata: False drops ICC (colours become sRGB), EXIF, XMP and resolution.
            lossless: for WebP; None keeps a lossless WebP source lossless and others lossy.
            bits: 8 or 16; None is the picture's own. Formats without 16 bits take 8.

        Raises:
            UsageError: an extension that cannot be written, or a quality out of range.
            InputError: the place cannot be written, or the format cannot hold a picture so large.
        """
        path = Path(path)
        raster = self.raster(path, keep_metadata=keep_metadata, bits=bits)
        if lossless is None:
            lossless = self.format == "WEBP" and self.lossless
        picture_write.store(path, raster, quality=quality, lossless=lossless)

    def raster(self, path: Path, *, keep_metadata: bool = True, bits: int | None = None) -> Raster:
        """What ``save`` puts into a file of this name; arguments as there."""
        name = picture_write.format_of(path)
        deep = name in picture_write.DEEP_FORMATS and (bits or self.bits) == 16
        channels = (1 if self.grey else 3) + (self.alpha is not None)
        icc = self.icc if keep_metadata else None
        icc = icc if icc and picture_write.holds_profile(name, icc, channels) else None
        picture = self if icc else self.in_srgb()
        raster = Raster(picture.to_uint16() if deep else picture.to_uint8(), icc=icc)
        return replace(raster, exif=self.exif, xmp=self.xmp, dpi=self.dpi) if keep_metadata else raster

    def in_srgb(self) -> "Picture":
        """The same picture without a profile: colours outside of sRGB become the nearest inside."""
        profile = profile_of(self.icc)
        if self.icc is not None and profile is None and not computable(self.icc):
            _log.warning("a colour profile made of tables is dropped: colours may shift")
        return replace(self, icc=None, rgb=self.rgb if profile is None else profile.to_srgb(self.rgb))

    def _repr_png_(self) -> bytes:
        return picture_write.encode_png(self.in_srgb().to_uint8())

    def _rows(self, top: int, bottom: int) -> npt.NDArray[np.float32]:
        """Some rows of ``array``."""
        rows = self.rgb[0, :, top:bottom].detach().float().cpu()
        if self.grey:
            rows = torch.tensordot(torch.tensor(_LUMA), rows, 1)[None]
        if self.alpha is not None:
            rows = torch.cat([rows, self.alpha[0, :, top:bottom].detach().float().cpu()])
        return np.ascontiguousarray(rows.movedim(0, -1).numpy())

    def _quantised(self, dtype: type[np.uint8 | np.uint16]) -> Array:
        channels = (1 if self.grey else 3) + (self.alpha is not None)
        out = np.empty((self.height, self.width, channels), dtype=dtype)
        for top in range(0, self.height, _STRIP):
            rows = self._rows(top, top + _STRIP)
            out[top : top + _STRIP] = np.rint(rows.clip(0, 1) * np.float32(np.iinfo(dtype).max))
        return out


def read(path: str | Path, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read an image file: 8 or 16 bits, grey, RGB, palette or CMYK, with or without alpha.

    EXIF orientation is applied. Of an animation or a file of several pages, the first is read, with a warning
    in the log "onestep".

    Args:
        path: PNG, JPEG, WebP, TIFF or BMP; also GIF, PPM, JPEG 2000 and AVIF where Pillow has them.
        max_pixels: refuse files whose header announces more.

    Raises:
        InputError: one line that names the file and the remedy.
    """
    return from_raster(load(Path(path), max_pixels))


def as_picture(image: "str | Path | Image.Image | Array | Tensor | Picture") -> Picture:
    """Whatever stands for a picture, as a Picture.

    Args:
        image: a path; a Pillow image; an array (H, W) or (H, W, C) of uint8, uint16, bool or float in [0, 1],
            with C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA; a tensor (3, H, W) or (1, 3, H, W) in [0, 1] (1, 2
            or 4 channels as for arrays); or a Picture, which is returned as it is.

    Raises:
        InputError: another shape or type, or values outside of [0, 1].
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | Path):
        return read(image)
    if isinstance(image, Image.Image):
        return from_raster(from_pillow(image))
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return from_raster(Raster(_checked_array(image)))
    raise InputError(f"{type(image).__name__} is no picture: give a path, Pillow image, array or tensor")


def _from_tensor(image: Tensor) -> Picture:
    shape = tuple(image.shape)
    planes = image.detach().squeeze(0) if image.ndim == 4 and len(image) == 1 else image.detach()
    if planes.ndim != 3 or planes.shape[0] not in (1, 2, 3, 4) or not image.is_floating_point():
        raise InputError(f"tensor {shape} of {image.dtype}: give (3, H, W) or (1, 3, H, W) in 0 ... 1")
    return from_raster(Raster(_checked_array(planes.movedim(0, -1).float().cpu().numpy())))


def _checked_array(image: Array) -> Array:
    array = image[..., None] if image.ndim == 2 else image
    if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4) or 0 in array.shape:
        raise InputError(f"array {image.shape}: give (H, W) or (H, W, C) with 1 to 4 channels")
    return checked(array, f"array {image.shape}")


def from_raster(raster: Raster) -> Picture:
    """What a file holds as a Picture: pixels to tensors, alpha apart."""
    array = raster.array
    bits = 8 if array.dtype == np.uint8 or (array.dtype.kind == "f" and raster.format is None) else 16
    has_alpha = array.shape[-1] in (2, 4)
    alpha = _tensor(array[..., -1:]) if has_alpha else None
    color = _tensor(array[..., :-1] if has_alpha else array)
    color = color if alpha is None else painted(color, alpha[0, 0] > 0)
    return Picture(
        rgb=color.expand(1, 3, -1, -1),
        alpha=alpha,
        icc=raster.icc,
        exif=raster.exif,
        xmp=raster.xmp,
        dpi=raster.dpi,
        bits=bits,
        grey=array.shape[-1] <= 2,
        format=raster.format,
        lossless=raster.lossless,
    )


def _tensor(array: Array) -> Tensor:
    """(H, W, C) to (1, C, H, W), float32 in [0, 1]."""
    planes = np.ascontiguousarray(array.transpose(2, 0, 1), dtype=np.float32)
    if array.dtype.kind == "u":
        planes /= np.float32(np.iinfo(array.dtype).max)
    return torch.from_numpy(planes)[None]


def painted(rgb: Tensor, known: Tensor) -> Tensor:
    """(1, C, H, W), every place that is not known, (H, W), being like the nearest one that is."""
    if bool(known.all()) or not bool(known.any()):
        return rgb
    from scipy import ndimage

    hidden = ~known.numpy()
    nearest = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(cast("Array", nearest)[:, hidden]).long()
    out = rgb.clone()
    out[..., torch.from_numpy(hidden)] = rgb[..., rows, columns]
    return out
