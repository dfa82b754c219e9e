"""Where the floor is: the operations of the network over the rate that this machine reaches, in one process.

Rates are measured beside the network, interleaved with it: a matrix product of 2048 x 2048 and the network's
own kind of convolution (3 x 3, as many channels as it has), each in float32 and, where the machine has it,
bfloat16.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from onestep import catalog
from onestep.core.contract import OneStepModel
from onestep.runtime import native_bfloat16

GEMM = 2048
"""Side of the matrices."""
SIDE = 128
"""LR side of the picture that the network and the convolution see."""


def floor(model: str | None, repeats: int) -> dict[str, Any]:
    """Operations of the model per output megapixel, and how fast network, GEMM and convolution run.

    Returns:
        ``parameters``; ``multiply_adds_per_lr_pixel``; ``gflop_per_output_mpx`` (a multiply-add is two
        operations); ``rates``: dtype -> GFLOP/s of ``network``, ``gemm`` and ``conv``, minima of interleaved
        repeats; ``floor_seconds_per_mpx``: dtype -> operations over the GEMM rate.
    """
    network = catalog.load(catalog.find(model)).eval()
    cast("Any", network).to(memory_format=torch.channels_last)
    flops = operations(network)
    dtypes = [torch.float32, *([torch.bfloat16] if native_bfloat16(torch.device("cpu")) else [])]
    pixels = SIDE**2 * network.traits.scale**2 / 1e6
    rates = {str(dtype).split(".")[1]: _rates(network, dtype, flops, repeats) for dtype in dtypes}
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "multiply_adds_per_lr_pixel": flops / 2 / SIDE**2,
        "gflop_per_output_mpx": flops / 1e9 / pixels,
        "threads": torch.get_num_threads(),
        "rates": rates,
        "floor_seconds_per_mpx": {
            name: flops / 1e9 / pixels / rate["gemm"] if rate["gemm"] else None
            for name, rate in rates.items()
        },
    }


def operations(model: OneStepModel) -> int:
    """Floating-point operations of one pass over a picture of 128x128, as torch counts them."""
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        _pass(model)()
    return counter.get_total_flops()


def _pass(model: OneStepModel) -> Callable[[], Tensor]:
    lr = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(model.noise_shape(lr.shape), generator=torch.Generator().manual_seed(1))
    condition = model.condition(lr, model.Options())
    return lambda: model(lr, noise, condition)


def _rates(model: OneStepModel, dtype: torch.dtype, flops: int, repeats: int) -> dict[str, float]:
    """GFLOP/s of the network, of a matrix product and of a convolution."""
    a, b = (torch.rand(GEMM, GEMM).to(dtype) for _ in range(2))
    channels = _channels(model)
    image = torch.rand(1, channels, SIDE, SIDE).to(dtype, memory_format=torch.channels_last)
    kernel = torch.rand(channels, channels, 3, 3).to(dtype, memory_format=torch.channels_last)
    forward = _pass(model)
    half = torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()

    def network() -> Tensor:
        with half:
            return forward()

    work: dict[str, tuple[Callable[[], Tensor], int]] = {
        "network": (network, flops),
        "gemm": (lambda: a @ b, 2 * GEMM**3),
        "conv": (lambda: F.conv2d(image, kernel, padding=1), 2 * 9 * channels**2 * SIDE**2),
    }
    best = dict.fromkeys(work, float("inf"))
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, (run, _) in work.items():
                start = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - start)
    return {name: count / best[name] / 1e9 for name, (_, count) in work.items()}


def _channels(model: OneStepModel) -> int:
    """The most frequent output width of the model's 3x3 convolutions; 64 where it has none."""
    widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    return max(set(widths), key=widths.count) if widths else 64
