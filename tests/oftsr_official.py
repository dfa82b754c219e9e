"""What an official file of OFTSR holds, made of a small network, and how such files are called."""

from pathlib import Path

import torch
from torch import Tensor

from onestep.networks.unet import UNetConfig

SMALL = UNetConfig(base=32, multipliers=(1, 2), blocks=1, attention=(2,), head_width=32)
LARGE = UNetConfig(base=64, multipliers=(1, 2), blocks=2, attention=(2,), head_width=32)
SIZES = {"small": SMALL, "large": LARGE}
STEM = "sr_bicubic-sf4-guided_unet-sigma0.2-bs128-loss_l1-lr1e-05"
DISTIL = "-distil-v_boot-solver_rk2_0.5-dt0.05-w_distil_1.0-w_bound_0.1-w_align_0.01"
STUDENT = f"{STEM}{DISTIL}-DIV2K_DIS-checkpoint_5.pth"


def small_weights() -> dict[str, Tensor]:
    """Weights of the small network, none of them zero."""
    torch.manual_seed(0)
    return {name: 0.1 * torch.randn(shape) for name, shape in SMALL.shapes().items()}


def ema(tensors, **more):
    return {"ema": {"decay": 0.9999, "num_updates": 123, "shadow_params": list(tensors)}, "step": 456, **more}


def saved(folder: Path, content, name: str = STUDENT, **how) -> Path:
    path = folder / name
    torch.save(content, path, **how)
    return path
