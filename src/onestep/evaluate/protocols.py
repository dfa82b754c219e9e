"""Under which rules a score is taken, by name: what is cut, rounded and measured, and on which pictures.

Scores of different protocols never share a column: the same outputs differ by whole decibels between them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

from onestep.core.errors import UsageError

USUAL = ("psnr-y", "ssim-y", "lpips-squeeze", "niqe")
"""What is measured where neither the user nor the protocol says."""


@dataclass(frozen=True)
class EvalProtocol:
    """How a score is taken, beside the metric itself."""

    name: str
    what: str
    metrics: tuple[str, ...] = USUAL
    """The metrics it reports, in their order; the variants are in the names."""
    border: int = 0
    """HR pixels cut from every side before scoring."""
    border_is_scale: bool = False
    """Whether ``border`` follows the factor of the model: ``scale`` pixels."""
    scale: int | None = None
    """The factor of the results; None where it is not known."""
    luma: str = "BT.601, 16 to 235; not rounded for PSNR, rounded to 8 bit for SSIM"
    """What the metrics that end in ``-y`` measure."""
    round8: bool = True
    """Whether results are rounded to 8 bit first, as files are."""
    surplus: int | None = 3
    """HR rows and columns, at most, that a result may lack, cut at the bottom and on the right; None: any."""
    size: tuple[int, int] | None = None
    """Width and height of its HR pictures; None: any."""
    counts: tuple[int, ...] = ()
    """How many pictures its sets have; empty: any number."""
    source: str = ""
    """Where it is written down."""

    def at(self, scale: int) -> Self:
        """The protocol for results of a factor: border and surplus are settled."""
        border = scale if self.border_is_scale else self.border
        surplus = None if self.surplus is None else scale - 1
        return replace(self, border=border, surplus=surplus, scale=scale)

    def remarks(self, sizes: Iterable[tuple[int, int]], images: int, *, files: bool) -> list[str]:
        """In what the pictures differ from those of the protocol, one line each.

        Args:
            sizes: Width and height of each HR picture.
            images: How many were to be scored.
            files: Whether finished files were scored, which are rounded already.
        """
        lines: list[str] = []
        other = sum(size != self.size for size in sizes) if self.size else 0
        if self.size and other:
            lines.append(f"{self.name} has HR pictures of {self.size[0]}x{self.size[1]}; {other} are not")
        if self.counts and images not in self.counts:
            known = ", ".join(str(count) for count in self.counts)
            lines.append(f"the sets of {self.name} have {known} pictures; these are {images}")
        if files and not self.round8:
            lines.append(f"{self.name} scores results that are not rounded; finished files are")
        return lines


_PUBLISHED = ("lpips-alex", "dists", "fid", "niqe", "musiq")

PROTOCOLS: Mapping[str, EvalProtocol] = MappingProxyType(
    {
        one.name: one
        for one in (
            EvalProtocol("full", "whole image, results rounded to 8 bit"),
            EvalProtocol("full-float", "whole image, results not rounded", round8=False),
            EvalProtocol(
                "classic-y-crop",
                "luma, as many pixels cut from every side as the factor, results rounded to 8 bit",
                ("psnr-y", "ssim-y"),
                border_is_scale=True,
                source="the habit of Set5, Set14, BSD100, Urban100",
            ),
            EvalProtocol(
                "stablesr-512",
                "PSNR and SSIM on luma, the rest on RGB, whole 512x512 crops, results rounded to 8 bit",
                ("psnr-y", "ssim-y", *_PUBLISHED, "maniqa-pipal", "clip-iqa"),
                size=(512, 512),
                counts=(93, 100, 3000),
                source="StableSR's test sets as OSEDiff and S3Diff score them: DRealSR, RealSR, DIV2K-Val",
            ),
            EvalProtocol(
                "resshift-full",
                "PSNR and SSIM on luma, the rest on RGB, whole pictures, results not rounded, HR cut to them",
                ("psnr-y", "ssim-y", "lpips-alex", "clip-iqa", "musiq", "maniqa-koniq", "niqe"),
                round8=False,
                surplus=None,
                counts=(100, 3000),
                source="ResShift's test sets as CTMSR scores them: RealSR at full size, ImageNet-Test",
            ),
            EvalProtocol(
                "oftsr-100",
                "all on RGB, whole images, results rounded to 8 bit, the first 100 HR pictures of a set",
                ("psnr", "lpips-alex", "fid-legacy"),
                counts=(100,),
                source="OFTSR's validation sets: FFHQ 256, DIV2K 512, ImageNet 256",
            ),
        )
    }
)
"""``full`` measures as the one-step papers do, on any pictures."""


def protocol(name: str) -> EvalProtocol:
    """A protocol by name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol is called {name!r}; choose {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def same(protocols: Sequence[EvalProtocol]) -> bool:
    """Whether scores taken under these may share a column."""
    return len({(one.name, one.border, one.luma, one.round8) for one in protocols}) <= 1
