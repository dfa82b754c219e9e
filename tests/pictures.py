"""Picture files of every kind, written and read without any code of ours; and models that do nothing."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import torch
from PIL import Image, PngImagePlugin

from onestep.core.contract import NoOptions, OneStepModel, Traits

COLORS = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's number for grey, grey + alpha, RGB and RGBA."""


def put(path, size=(12, 9), seed=0, mode="RGB", **saving):
    """Write a picture of noise, 8 bits a channel; size is (width, height)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    array = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    Image.fromarray(array[..., 0] if channels == 1 else array).save(path, **saving)
    return Path(path)


def hr_folder(tmp_path):
    """Write two pictures into ``hr`` and return its name."""
    for index in range(2):
        put(tmp_path / "hr" / f"p{index}.png", (32, 24), index)
    return "hr"


class Nearest(OneStepModel):
    """Repeats every pixel; with scale 1 the identity."""

    Options = NoOptions

    def __init__(self, scale=1, **traits):
        super().__init__()
        self.traits = Traits(scale, **{"tile": 64, "overlap": 8, **traits})

    def noise_shape(self, lr):
        return torch.Size((lr[0], 0, *lr[2:]))

    def condition(self, lr, options):
        return {}

    def forward(self, lr, noise, condition):
        scale = self.traits.scale
        return lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


@dataclass(frozen=True)
class About:
    """What a file says beside its pixels."""

    orientation: int = 1
    icc: bytes | None = None
    dpi: tuple[int, int] | None = None
    artist: str | None = None
    xmp: bytes | None = None

    @property
    def turn(self):
        """What counts: the orientation of the packet only where there is no other."""
        stated = self.xmp is not None and b'Orientation="6"' in self.xmp
        return 6 if stated and self.orientation == 1 else self.orientation

    def exif(self, width=None, height=None):
        made = Image.Exif()
        if self.orientation > 1:
            made[274] = self.orientation
        if self.artist is not None:
            made[315] = self.artist.encode() + b"\0"
            made.get_ifd(0x8769).update({0x9003: "2024:05:06 07:08:09", 0xA002: width, 0xA003: height})
        return made.tobytes() if len(made) else None


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(array, about=None):
    """A PNG file of (H, W, C) uint8 or uint16."""
    about = about or About()
    height, width, channels = array.shape
    rows = array.astype(array.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8 * array.itemsize, COLORS[channels], 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header)]
    if about.icc:
        parts.append(chunk(b"iCCP", b"p\0\0" + zlib.compress(about.icc)))
    if about.dpi:
        parts.append(chunk(b"pHYs", struct.pack(">IIB", *(round(side / 0.0254) for side in about.dpi), 1)))
    if about.xmp:
        parts.append(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + about.xmp))
    if about.exif(width, height):
        parts.append(chunk(b"eXIf", about.exif(width, height).removeprefix(b"Exif\0\0")))
    return b"".join([*parts, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")])


def write(path, array, about=None):
    """(H, W, C) as a file of the kind that the extension names; what is lossy is not."""
    about, path = about or About(), Path(path)
    height, width, channels = array.shape
    if path.suffix == ".png":
        path.write_bytes(png(array, about))
    elif path.suffix == ".tif":
        tags = [(274, 3, 1, about.orientation, True)] if about.orientation > 1 else []
        if about.artist is not None:
            octets = about.artist.encode() + b"\0"
            tags.append((315, 2, len(octets), octets, True))
        if about.xmp:
            tags.append((700, 1, len(about.xmp), about.xmp, True))
        tifffile.imwrite(
            path,
            array if channels > 1 else array[..., 0],
            photometric="rgb" if channels > 2 else "minisblack",
            planarconfig="contig" if channels > 1 else None,
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            iccprofile=about.icc,
            resolution=about.dpi,
            resolutionunit="INCH" if about.dpi else None,
            extratags=tags,
            metadata=None,
            software=False,
        )
    else:
        image = Image.fromarray(array[..., 0] if channels == 1 else array)
        options = {
            "icc_profile": about.icc,
            "exif": about.exif(width, height),
            "xmp": about.xmp,
            "dpi": about.dpi,
        }
        options = {name: value for name, value in options.items() if value is not None}
        options |= {
            ".webp": {"lossless": True, "exact": True},
            ".jpg": {"quality": 98, "subsampling": 0},
        }.get(path.suffix, {})
        if path.suffix == ".bmp":
            options = {"dpi": about.dpi} if about.dpi else {}
        image.save(path, **options)


def pixels(path):
    """(H, W, C) of a file, as it is stored: palettes and 16 bits too."""
    path = Path(path)
    data = path.read_bytes()
    if path.suffix == ".png" and data[24:26] in (b"\x10\2", b"\x10\4", b"\x10\6"):
        return _deep_png(data)
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as tiff:
            array = tiff.pages[0].asarray()
        return array if array.ndim == 3 else array[..., None]
    with Image.open(path) as image:
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def _deep_png(data):
    width, height, _, color = struct.unpack(">IIBB", data[16:26])
    channels = {number: count for count, number in COLORS.items()}[color]
    position, packed = 8, b""
    while position < len(data):
        size, kind = struct.unpack(">I4s", data[position : position + 8])
        packed += data[position + 8 : position + 8 + size] if kind == b"IDAT" else b""
        position += 12 + size
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, -1)
    assert set(np.unique(rows[:, 0])) <= {0, 1}, "filters None and Sub are enough for what is written"
    octets = rows[:, 1:].reshape(height, width, 2 * channels).copy()
    for n, kind in enumerate(rows[:, 0]):
        if kind == 1:
            octets[n] = octets[n].cumsum(0, dtype=np.uint8)
    return octets.view(">u2").astype(np.uint16)


def described(path):
    """What a file says: profile, resolution, packet, and the tags of its EXIF data."""
    if Path(path).suffix == ".tif":
        return _described_tiff(path)
    with Image.open(path) as image:
        image.load()
        found = image.getexif()
        tags = {code: found[code] for code in (274, 315) if code in found}
        inner = dict(found.get_ifd(0x8769)) if 0x8769 in found else {}
        info = image.info
        packet = info.get("xmp") or info.get("XML:com.adobe.xmp")
        stated = "dpi" in info and min(info["dpi"]) > 1
        return {
            "size": image.size,
            "icc": info.get("icc_profile") or None,
            "dpi": tuple(round(float(side)) for side in info["dpi"]) if stated else None,
            "xmp": packet.encode() if isinstance(packet, str) else packet,
            "tags": tags,
            "inner": inner,
        }


def _described_tiff(path):
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        tags = page.tags
        inner = tags.valueof(34665)
        return {
            "size": (page.imagewidth, page.imagelength),
            "icc": page.iccprofile,
            "dpi": tuple(round(side) for side in page.get_resolution("inch"))
            if page.resolutionunit > 1
            else None,
            "xmp": tags.valueof(700),
            "tags": {code: tags[code].value for code in (274, 315) if code in tags},
            "inner": {} if inner is None else dict(inner),
        }


def png_text(text):
    """Pillow's way to put a text into a PNG file."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text)
    return info
