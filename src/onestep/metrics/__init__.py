"""Scores of restored images: what each one needs, which way is better, and how to make it.

``METRICS`` is the table; ``make(name, device)`` gives a function of tensors. Images are (B, 3, H, W) in
[0, 1]; scores are (B,). A metric of whole sets is made by ``make_set`` and has one score for all pictures
(``metrics.sets``). A metric whose weights cannot be had raises ``InputError`` when it is made: its caller
leaves it out and says so, and never reports a zero in its place.

To add a metric: write a function in a file of this folder, add a line here, and test it against values that
come from somewhere else.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from onestep import hub
from onestep.core.errors import UsageError
from onestep.metrics import (
    brisque,
    clip_iqa,
    consistency,
    dists,
    external,
    noreference,
    perceptual,
    pixel,
    sets,
)
from onestep.metrics.checks import of_image, of_pair
from onestep.metrics.seam import seam
from onestep.metrics.sets import SetAccumulator, SetMeasure
from onestep.networks.lpips import Net

__all__ = [
    "METRICS",
    "Measure",
    "Metric",
    "Needs",
    "SetAccumulator",
    "SetMeasure",
    "find",
    "make",
    "make_set",
]

Needs = Literal["pair", "image", "lr", "borders", "set"]
"""What a measure is called with.

========= ==================================================================================
pair      (sr, hr)
image     (sr)
lr        (sr, lr): the picture that sr was restored from, (B, 3, h, w)
borders   (sr, rows, columns): the borders between tiles
set       nothing: it is a ``SetMeasure``, made by ``make_set``
========= ==================================================================================
"""
Measure = Callable[..., Tensor]
"""Images (B, 3, H, W) in [0, 1], as ``Needs`` says, to scores (B,)."""


@dataclass(frozen=True)
class Metric:
    """One way to score an image."""

    what: str
    better: Literal["higher", "lower"]
    needs: Needs
    range: tuple[float, float]
    """Values that images usually get; not a limit."""
    license: str
    """Of its weights, or of this package where it has none."""
    make: Callable[[torch.device], Any]
    """Makes a ``Measure``, or a ``SetMeasure`` where ``needs`` is "set"."""
    weights: tuple[str, ...] = ()
    """Names in ``hub.FILES``."""
    digits: int = 4
    """Decimals worth printing."""
    extra: str = ""
    """What has to be installed beside this package, as pip names it; empty: nothing."""


def _free(measure: Measure) -> Callable[[torch.device], Measure]:
    """A maker for a measure that runs where its images are and has no weights."""

    def make(device: torch.device) -> Measure:
        del device
        return measure

    return make


_OWN = "Apache-2.0"
_FEATURES = "BSD-3-Clause (features)"
_LPIPS = f"BSD-2-Clause (head), {_FEATURES}"


def _lpips(net: Net) -> Metric:
    return Metric(
        f"LPIPS v0.1 on {_NETWORKS[net]} features",
        "lower",
        "pair",
        (0, 1),
        _LPIPS,
        lambda device: perceptual.lpips(net, device),
        (f"lpips-{net}-backbone", f"lpips-{net}-head"),
    )


def _pyiqa(name: str, theirs: str, what: str, range: tuple[float, float]) -> Metric:
    return Metric(
        f"{what}, by pyiqa ({theirs!r})",
        "higher",
        "image",
        range,
        external.LICENSE,
        lambda device: external.pyiqa_metric(name, theirs, device),
        extra="pyiqa",
    )


_NETWORKS: Mapping[Net, str] = {"alex": "AlexNet", "vgg": "VGG-16", "squeeze": "SqueezeNet"}

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "psnr": Metric("PSNR on RGB, dB", "higher", "pair", (15, 50), _OWN, _free(pixel.psnr), digits=3),
        "ssim": Metric("SSIM on RGB", "higher", "pair", (0, 1), _OWN, _free(pixel.ssim)),
        "psnr-y": Metric("PSNR on luma, dB", "higher", "pair", (15, 50), _OWN, _free(pixel.psnr_y), digits=3),
        "ssim-y": Metric("SSIM on luma", "higher", "pair", (0, 1), _OWN, _free(pixel.ssim_y)),
        "ms-ssim": Metric(
            "MS-SSIM on RGB, five scales", "higher", "pair", (0, 1), _OWN, _free(pixel.ms_ssim)
        ),
        "lpips-alex": _lpips("alex"),
        "lpips-vgg": _lpips("vgg"),
        "lpips-squeeze": _lpips("squeeze"),
        "dists": Metric(
            "DISTS, structure and texture on VGG-16 features",
            "lower",
            "pair",
            (0, 0.5),
            f"MIT (weights), {_FEATURES}",
            dists.dists,
            ("lpips-vgg-backbone", "dists"),
        ),
        "feature-squeezenet-onnx": Metric(
            "cosine distance of features of another SqueezeNet, without learned weights",
            "lower",
            "pair",
            (0, 0.5),
            hub.FILES["squeezenet-onnx"].license,
            perceptual.squeezenet_onnx,
            ("squeezenet-onnx",),
        ),
        "lr-consistency": Metric(
            "PSNR between the input and the bicubically reduced result, dB",
            "higher",
            "lr",
            (20, 80),
            _OWN,
            _free(consistency.lr_consistency),
            digits=3,
        ),
        "niqe": Metric(
            "NIQE, natural image quality without a reference",
            "lower",
            "image",
            (2, 15),
            hub.FILES["niqe"].license,
            lambda _: noreference.niqe(hub.fetch("niqe")),
            ("niqe",),
        ),
        "brisque": Metric(
            "BRISQUE as OpenCV computes it, with OpenCV's model",
            "lower",
            "image",
            (0, 100),
            hub.FILES["brisque-model"].license,
            lambda _: brisque.brisque(hub.fetch("brisque-model"), hub.fetch("brisque-range")),
            ("brisque-model", "brisque-range"),
            digits=2,
        ),
        "clip-iqa": _pyiqa("clip-iqa", "clipiqa", "CLIP-IQA as published, on ResNet-50", (0, 1)),
        "clip-iqa-vit-b-16": Metric(
            "CLIP-IQA on windows by a vision transformer; no published value compares",
            "higher",
            "image",
            (0, 1),
            "MIT (CLIP)",
            clip_iqa.clip_iqa,
            extra="onestep-sr[diffusion]",
        ),
        "musiq": _pyiqa("musiq", "musiq", "MUSIQ trained on KonIQ-10k", (0, 100)),
        "maniqa-pipal": _pyiqa("maniqa-pipal", "maniqa-pipal", "MANIQA trained on PIPAL", (0, 1)),
        "maniqa-koniq": _pyiqa("maniqa-koniq", "maniqa", "MANIQA trained on KonIQ-10k", (0, 1)),
        "fid": Metric(
            "Fréchet distance of Inception features, resized as clean-fid does",
            "lower",
            "set",
            (0, 300),
            hub.FILES["inception-fid"].license,
            sets.fid,
            ("inception-fid",),
            digits=2,
        ),
        "fid-legacy": Metric(
            "FID with the resizing of TensorFlow 1, as OFTSR reports it",
            "lower",
            "set",
            (0, 300),
            hub.FILES["inception-fid"].license,
            sets.fid_legacy,
            ("inception-fid",),
            digits=2,
        ),
        "kid": Metric(
            "kernel distance of Inception features, resized as clean-fid does",
            "lower",
            "set",
            (0, 0.2),
            hub.FILES["inception-fid"].license,
            sets.kid,
            ("inception-fid",),
            digits=5,
        ),
        "kid-squeeze": Metric(
            "kernel distance of the SqueezeNet features of LPIPS; no published value compares",
            "lower",
            "set",
            (0, 0.5),
            _FEATURES,
            sets.kid_squeeze,
            ("lpips-squeeze-backbone",),
            digits=5,
        ),
        "seam": Metric(
            "difference of lines across tile borders over that of other lines; 1 is invisible",
            "lower",
            "borders",
            (0.9, 1.5),
            _OWN,
            _free(seam),
        ),
    }
)
"""Every metric by the name that users type."""


def find(name: str) -> Metric:
    """The table's line for a name.

    Raises:
        UsageError: there is no such metric.
    """
    if name in METRICS:
        return METRICS[name]
    close = difflib.get_close_matches(name.lower(), METRICS, n=1)
    hint = f"; did you mean {close[0]!r}? Known:" if close else "; known:"
    raise UsageError(f"no metric is called {name!r}{hint} {', '.join(METRICS)}")


_CHECKED: Mapping[Needs, Callable[[Measure], Measure]] = {"pair": of_pair, "image": of_image}
"""Measures that refuse what is no image; the others look for themselves."""


def make(name: str, device: torch.device | str = "cpu") -> Measure:
    """A function that scores images on a device, its weights loaded.

    Raises:
        UsageError: there is no such metric, or it scores sets.
        InputError: (at once) its weights cannot be had; the line says how to get them; (when scoring) images
            that are none: another shape than (B, 3, H, W), values outside of [0, 1] or not numbers, sizes
            that differ or are too small for the metric.
    """
    metric = find(name)
    if metric.needs == "set":
        raise UsageError(f"{name} scores a set of pictures, not one; make_set makes it")
    measure = metric.make(torch.device(device))
    return _CHECKED[metric.needs](measure) if metric.needs in _CHECKED else measure


def make_set(name: str, device: torch.device | str = "cpu") -> SetMeasure:
    """A measure of whole sets on a device, its weights loaded.

    Raises:
        UsageError: there is no such metric, or it scores single pictures.
        InputError: its weights cannot be had; the line says how to get them.
    """
    metric = find(name)
    if metric.needs != "set":
        raise UsageError(f"{name} scores single pictures, not sets; make makes it")
    return metric.make(torch.device(device))
