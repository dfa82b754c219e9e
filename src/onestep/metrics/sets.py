"""Scores of whole sets of pictures: FID and KID, picture by picture, in bounded memory.

A set has one score, not one per picture. Its measure turns pictures into features, in batches and in any
order; an accumulator then takes the features of one pair after the other, in the order of the set, so that
the score does not depend on who computed the features. All sums are in float64.

Scores of sets depend on their size: FID is biased upwards for few pictures, by more than models differ below
a few thousand, and KID, which has no bias, has a wide spread. Compare only scores of the same pictures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from onestep import hub
from onestep.core.errors import InputError
from onestep.core.resize import resize
from onestep.metrics.checks import check_image
from onestep.networks.inception import SIDE, Inception
from onestep.networks.lpips import MINIMUM, SCALE, SHIFT, features_of, squeeze_features, unit
from onestep.networks.state_files import fill, read_state

BLOCK = 1000
"""Pictures that KID compares with each other at a time."""
_ROWS: Final = 64  # features that wait before they are added to the moments, which saves time


class SetAccumulator(Protocol):
    """What has been seen of two sets so far; its size does not grow with the number of pictures."""

    def add(self, sr: Tensor, hr: Tensor) -> None:
        """Take the features (D,) of a restored picture and of its true one; once per pair, in order."""
        ...

    def value(self) -> float:
        """The score of all pairs taken so far.

        Raises:
            InputError: there are too few of them; the line says how many are needed.
        """
        ...


class SetMeasure(Protocol):
    """A measure with ``needs == "set"``."""

    def features(self, image: Tensor) -> Tensor:
        """Features of images (B, 3, H, W) in [0, 1]: (B, D), float32, on the CPU.

        Raises:
            InputError: the images cannot be described, as when they are too small.
        """
        ...

    def begin(self) -> SetAccumulator:
        """An empty accumulator."""
        ...


@dataclass(frozen=True)
class Measure:
    """Features by a network, and how they are summed up."""

    network: Callable[[Tensor], Tensor]
    """Images (B, 3, H, W) in [0, 1] to (B, D), on any device."""
    accumulator: Callable[[], SetAccumulator]

    def features(self, image: Tensor) -> Tensor:
        """See ``SetMeasure``."""
        check_image(image)
        with torch.inference_mode():
            return self.network(image).float().cpu()

    def begin(self) -> SetAccumulator:
        """See ``SetMeasure``."""
        return self.accumulator()


def fid(device: torch.device) -> Measure:
    """Fréchet distance of Inception features (Heusel et al., 2017; arXiv:1706.08500).

    Pictures are resized to 299x299 as clean-fid does (Parmar et al., 2022; arXiv:2104.11222): antialiased
    bicubic as in Pillow, in floating point, clipped to [0, 1].

    Raises:
        InputError: the weights of Inception cannot be had.
    """
    return Measure(_inception(device, _clean), Frechet)


def fid_legacy(device: torch.device) -> Measure:
    """FID as the first implementation took it (clean-fid's "legacy TensorFlow" mode).

    Pictures are resized by TensorFlow 1's bilinear kernel: not antialiased, and shifted by part of a pixel.

    Raises:
        InputError: the weights of Inception cannot be had.
    """
    return Measure(_inception(device, _tensorflow), Frechet)


def kid(device: torch.device) -> Measure:
    """Kernel distance of Inception features (Bińkowski et al., 2018; arXiv:1801.01401); resized as for FID.

    Raises:
        InputError: the weights of Inception cannot be had.
    """
    return Measure(_inception(device, _clean), Kernel)


def kid_squeeze(device: torch.device) -> Measure:
    """Kernel distance of SqueezeNet features; not comparable with KID.

    The network is the backbone of LPIPS-squeeze. Its last 512 channels are scaled to unit length at each
    pixel, averaged over the picture, which keeps its size, and multiplied by the root of 512, so that
    x · y / D is a mean cosine.

    Raises:
        InputError: the weights of SqueezeNet cannot be had.
    """
    path = hub.fetch("lpips-squeeze-backbone")
    layers = squeeze_features()
    fill(layers, features_of(read_state(path)), path, "kid-squeeze")
    layers.requires_grad_(False).eval().to(device)
    shift = torch.tensor(SHIFT, device=device).view(1, 3, 1, 1)
    scale = torch.tensor(SCALE, device=device).view(1, 3, 1, 1)

    def network(image: Tensor) -> Tensor:
        if min(image.shape[-2:]) < MINIMUM["squeeze"]:
            raise InputError(f"kid-squeeze needs sides of at least {MINIMUM['squeeze']} pixels")
        image = image.to(device).float() * 2 - 1
        found = unit(layers((image - shift) / scale))
        return found.mean(dim=(2, 3)) * found.shape[1] ** 0.5

    return Measure(network, Kernel)


def _inception(device: torch.device, prepare: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Inception features of images of any size."""
    network = Inception.from_file(hub.fetch("inception-fid")).to(device)
    return lambda image: network(prepare(image.to(device).float()))


def _clean(image: Tensor) -> Tensor:
    return resize(image, (SIDE, SIDE), "bicubic", convention="pillow").clamp(0, 1) * 2 - 1


def _tensorflow(image: Tensor) -> Tensor:
    for axis in (-2, -1):
        length = image.shape[axis]
        place = torch.arange(SIDE, device=image.device) * (length / SIDE)
        low = place.long()
        share = (place - low).view((-1, 1) if axis == -2 else (-1,))
        first, second = (image.index_select(axis, at) for at in (low, (low + 1).clamp_max(length - 1)))
        image = torch.lerp(first, second, share)
    return (image * 255 - 128) / 128


class Moments:
    """Mean and covariance of features, summed as they come."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: list[Tensor] = []
        self._origin = self._sum = self._squares = torch.zeros(0)

    def add(self, features: Tensor) -> None:
        """Take one vector (D,)."""
        if not self.count:
            self._origin = features.double()  # differences from it keep their digits
            self._sum = torch.zeros_like(self._origin)
            self._squares = torch.zeros(len(features), len(features), dtype=torch.float64)
        self.count += 1
        self._waiting.append(features.double() - self._origin)
        if len(self._waiting) == _ROWS:
            self._settle()

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean (D,) and unbiased covariance (D, D); at least two vectors must have been taken."""
        self._settle()
        away = self._sum / self.count
        covariance = (self._squares - self.count * torch.outer(away, away)) / (self.count - 1)
        return self._origin + away, covariance

    def _settle(self) -> None:
        if self._waiting:
            rows = torch.stack(self._waiting)
            self._sum = self._sum + rows.sum(dim=0)
            self._squares.addmm_(rows.T, rows)
            self._waiting = []


class Frechet:
    """Fréchet distance of the Gaussians fitted to two sets of features."""

    def __init__(self) -> None:
        self._sr, self._hr = Moments(), Moments()

    def add(self, sr: Tensor, hr: Tensor) -> None:
        """See ``SetAccumulator``."""
        self._sr.add(sr)
        self._hr.add(hr)

    def value(self) -> float:
        """||m1 - m2||² + tr(S1 + S2 - 2 (S1 S2)^½); 0 for equal sets.

        Raises:
            InputError: fewer than two pairs were taken.
        """
        if self._sr.count < 2:
            raise InputError(f"FID needs at least two pictures, not {self._sr.count}")
        (mean_a, cov_a), (mean_b, cov_b) = self._sr.result(), self._hr.result()
        return float(
            (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * _trace(cov_a, cov_b)
        )


class Kernel:
    """Squared maximum mean discrepancy of two sets of features, unbiased, with a cubic kernel.

    Only pictures of a block are compared with each other: 1000 that follow one another, and what is left at
    the end (a single picture that is left counts not). The score is the mean over blocks, weighted by their
    size. Up to 1000 pictures, that is the estimate over all pairs; KID as others compute it averages over
    random subsets of 1000 of all the features, which have to be kept.
    """

    def __init__(self) -> None:
        self._sr: list[Tensor] = []
        self._hr: list[Tensor] = []
        self._sum, self._count = 0.0, 0

    def add(self, sr: Tensor, hr: Tensor) -> None:
        """See ``SetAccumulator``."""
        self._sr.append(sr)
        self._hr.append(hr)
        if len(self._sr) == BLOCK:
            self._sum += BLOCK * discrepancy(torch.stack(self._sr), torch.stack(self._hr))
            self._count += BLOCK
            self._sr, self._hr = [], []

    def value(self) -> float:
        """Mean over blocks, 0 on average for sets of one distribution (single values may be negative).

        Raises:
            InputError: fewer than two pairs were taken.
        """
        total, count = self._sum, self._count
        if len(self._sr) >= 2:
            total += len(self._sr) * discrepancy(torch.stack(self._sr), torch.stack(self._hr))
            count += len(self._sr)
        if not count:
            raise InputError(f"KID needs at least two pictures, not {len(self._sr)}")
        return total / count


def discrepancy(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD of features (n, D) and (n, D), kernel (x · y / D + 1)³."""
    a, b = a.double(), b.double()
    n = len(a)
    within = 0.0
    for one in (a, b):
        kernel = _kernel(one, one)
        within += float(kernel.sum() - kernel.trace()) / (n * (n - 1))
    return within - 2 * float(_kernel(a, b).mean())


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _trace(a: Tensor, b: Tensor) -> float:
    """Trace of (A B)^½ for covariances: the sum of the roots of the eigenvalues of A^½ B A^½.

    Of n pictures only n - 1 directions vary; the others hold rounding noise, whose roots would count.
    """
    values, vectors = torch.linalg.eigh(a)
    real = values > values[-1].abs() * len(values) * torch.finfo(values.dtype).eps
    root = vectors[:, real] * values[real].sqrt()
    inner = root.T @ b @ root
    return float(torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum())
