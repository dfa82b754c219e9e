"""How fast metrics are computed: ours, scikit-image's and, where it is installed, pyiqa's, in one run.

Run: ``python benchmarks/metrics_speed.py [ROUNDS]`` (needs scikit-image; NIQE and BRISQUE their weights).

One thread. The programs take turns, picture by picture; the round that took least processor time counts.
Conversions that a metric needs (to luma, to 8 bit) are part of it, reading files is not. Only computations of
the same definition are set side by side, and the scores are printed beside the times.
"""

import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage import color, data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from onestep import hub, metrics
from onestep.core.errors import InputError

PICTURES = ("astronaut", "coffee", "chelsea")
OURS = ("psnr-y", "ssim-y", "ms-ssim", "niqe", "brisque")
Score = Callable[[Tensor, Tensor], float]
Key = tuple[str, str, int]
"""Program, metric, number of the picture."""


def pair(name: str) -> tuple[Tensor, Tensor]:
    """A photograph and a noisy copy, (1, 3, H, W) in [0, 1], whole 8-bit values."""
    hr = torch.from_numpy(getattr(data, name)().copy()).permute(2, 0, 1)[None] / 255
    noise = torch.randn(hr.shape, generator=torch.Generator().manual_seed(0)) * 0.05
    return ((hr + noise).clamp(0, 1) * 255).round() / 255, hr


def ours(name: str) -> Score | None:
    """A metric of this package; None where its weights cannot be had."""
    try:
        measure = metrics.make(name)
    except InputError as error:
        print(f"{name} left out: {error}", file=sys.stderr)
        return None
    paired = metrics.find(name).needs == "pair"
    return lambda sr, hr: float(measure(sr, hr) if paired else measure(sr))


def _luma(image: Tensor) -> Any:
    return color.rgb2ycbcr(image[0].permute(1, 2, 0).double().numpy())[..., 0]


def _ssim(sr: Tensor, hr: Tensor) -> float:
    planes = [np.rint(_luma(image)) for image in (sr, hr)]
    return float(
        structural_similarity(
            *planes, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


SCIKIT: Mapping[str, Score] = {
    "psnr-y": lambda sr, hr: float(peak_signal_noise_ratio(_luma(hr), _luma(sr), data_range=255)),
    "ssim-y": _ssim,
}


def pyiqa() -> dict[str, Score]:
    """Its metrics that need no download; NIQE with the model of this package's folder. Empty without it."""
    try:
        library: Any = import_module("pyiqa")
    except (ImportError, RuntimeError) as error:
        print(f"pyiqa left out: {error}", file=sys.stderr)
        return {}
    print(f"pyiqa: licence {metadata.metadata('pyiqa')['License-Expression']}", file=sys.stderr)
    luma = {"test_y_channel": True, "color_space": "ycbcr"}
    wanted: dict[str, tuple[str, dict[str, Any]]] = {
        "psnr-y": ("psnr", luma),
        "ssim-y": ("ssim", luma),
        "ms-ssim": ("ms_ssim", {"test_y_channel": False}),
    }
    for place in hub.candidates("niqe/modelparameters.mat"):
        wanted["niqe"] = ("niqe", {"pretrained_model_path": str(place)})
    made = {name: library.create_metric(theirs, **options) for name, (theirs, options) in wanted.items()}

    def score(name: str) -> Score:
        if metrics.find(name).needs == "pair":
            return lambda sr, hr: float(made[name](sr, hr))
        return lambda sr, hr: float(made[name](sr))

    return {name: score(name) for name in made}


def machine() -> str:
    """The processor's name where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Take turns, then report."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    mine = {name: score for name in OURS if (score := ours(name))}
    programs: dict[str, Mapping[str, Score]] = {"onestep": mine, "scikit-image": SCIKIT, "pyiqa": pyiqa()}
    pairs = [pair(name) for name in PICTURES]
    best: dict[Key, float] = {}
    values: dict[Key, float] = {}
    for _ in range(rounds + 1):  # the slowest round, where things warm up, never counts
        for name in mine:
            for which, (sr, hr) in enumerate(pairs):
                for program, scores in programs.items():
                    if name in scores:
                        start = time.process_time()
                        values[program, name, which] = scores[name](sr, hr)
                        took = time.process_time() - start
                        key = program, name, which
                        best[key] = min(took, best.get(key, took))
    report(list(mine), best, values)


def report(names: list[str], best: Mapping[Key, float], values: Mapping[Key, float]) -> None:
    """Print how many pictures a second each program scores, the ratios, and the scores of one picture."""
    used = [
        program for program in ("onestep", "scikit-image", "pyiqa") if any(key[0] == program for key in best)
    ]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in used[1:])
    print(f"{machine()}, one thread; torch {torch.__version__}, {versions}.\n")
    heads = ["metric", *(f"{one}, images/s" for one in used), *(f"onestep / {one}" for one in used[1:])]
    rows: list[list[str]] = []
    for name in names:
        rates = {
            one: len(PICTURES) / sum(best[one, name, index] for index in range(len(PICTURES)))
            for one in used
            if (one, name, 0) in best
        }
        cells = [f"{rates[one]:.1f}" if one in rates else "–" for one in used]
        ratios = [f"{rates['onestep'] / rates[one]:.2f}" if one in rates else "–" for one in used[1:]]
        rows.append([f"`{name}`", *cells, *ratios])
    table(heads, rows)
    scores = [
        [f"`{name}`", *(f"{values[one, name, 0]:.4f}" if (one, name, 0) in values else "–" for one in used)]
        for name in names
    ]
    table([f"score of {PICTURES[0]}", *used], scores)


def table(heads: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    for cells in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    main()
