"""Tiny generators of S3Diff whose adapters and gates act, for its tests."""

from typing import Any

import torch
from torch import Tensor

from onestep.methods.s3diff import S3diff, S3diffConfig
from onestep.networks.degradation_estimator import DegradationEstimator, EstimatorConfig
from prior_parts import TINY, shaken

GOOD, BAD = "sharp", "a blurred one"
ESTIMATOR = EstimatorConfig(widths=(4, 4), blocks=(1, 1), strides=(2,), hidden=4)


def fresh_model(**settings: Any) -> S3diff:
    """On a tiny prior that is part of it, as it is before any training."""
    torch.manual_seed(0)
    config = S3diffConfig(
        base="tiny",
        prior=TINY,
        estimator=ESTIMATOR,
        rank_unet=4,
        rank_vae=3,
        prompt=GOOD,
        negative=BAD,
        **settings,
    )
    model = config.build().eval()
    model.latent_tile = 64
    return model


def acting_model(**settings: Any) -> S3diff:
    """The same with second factors that are not zero, and gates that depend on everything they can."""
    model = fresh_model(**settings)
    shaken(model.prior.parameters_of("generator"), 0.1)
    if model.gates is not None:
        shaken(model.gates.parameters(), 0.08, seed=1)
    return model.requires_grad_(False)


def estimator() -> DegradationEstimator:
    torch.manual_seed(3)
    return DegradationEstimator(ESTIMATOR).eval()


def image(batch: int = 1, side: int = 32, seed: int = 0) -> Tensor:
    """(B, 3, side, side) in [-1, 1]."""
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def scores(*rows: tuple[float, float]) -> Tensor:
    return torch.tensor(rows)
