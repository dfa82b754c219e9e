"""Tiny priors and their folders, for the tests of everything that stands on a prior."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onestep.methods.osediff import Osediff, OsediffConfig
from onestep.networks.diffusion_prior import DiffusionPrior
from onestep.networks.prior_config import PriorConfig

TINY = PriorConfig.tiny()


def names_hash(names: Iterable[str]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the sorted distinct names, one per line."""
    return hashlib.sha256("\n".join(sorted(set(names))).encode()).hexdigest()[:16]


def shaken(parameters: Iterable[nn.Parameter], by: float = 0.05, seed: int = 0) -> None:
    """Move parameters by noise, so that what was zero acts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * by)


def tiny_prior(*, fake: bool = False) -> DiffusionPrior:
    """A prior with the role of a generator, and of a fake score where asked for."""
    torch.manual_seed(0)
    prior = DiffusionPrior.build(TINY).eval()
    prior.add_role("generator", 4, vae_rank=4, prefix="default", full=True)
    prior.ships = "generator"
    if fake:
        prior.add_role("fake", 4, full=False)
    return prior


def tiny_model(**settings: Any) -> Osediff:
    """A generator on a tiny prior that is part of it, whose adapters act."""
    torch.manual_seed(0)
    model = OsediffConfig(base="tiny", prior=TINY, **settings).build().eval()
    shaken(model.prior.parameters_of("generator"))
    return model


def folder_of(prior: DiffusionPrior, folder: Path, prediction: str = "epsilon") -> Path:
    """Write a prior in diffusers layout."""
    any_prior: Any = prior
    any_prior.unet.save_pretrained(folder / "unet")
    any_prior.vae.save_pretrained(folder / "vae")
    any_prior.text.model.save_pretrained(folder / "text_encoder")
    any_prior.text.tokenizer.save_pretrained(folder / "tokenizer")
    schedule = {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction,
        "clip_sample": False,
        "steps_offset": 1,
    }
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    return folder


def plain_folder(folder: Path, prediction: str = "epsilon") -> Path:
    """A folder with a tiny prior without adapters."""
    torch.manual_seed(0)
    return folder_of(DiffusionPrior.build(TINY), folder, prediction)
