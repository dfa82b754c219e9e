"""A tiny training of OSEDiff whose generator acts, for its tests."""

import torch

from onestep.core.contract import Pair
from onestep.methods.osediff import OsediffConfig, OsediffTraining, ScoreDistillation
from prior_parts import TINY, shaken


def objective(**changes) -> ScoreDistillation:
    torch.manual_seed(0)
    config = OsediffTraining(
        OsediffConfig(base="tiny", prior=TINY), perceptual=0.0, prompt="a", negative="b", **changes
    )
    made = config.build()
    shaken(made.model.prior.parameters_of("generator"), by=0.02)
    return made


def freed(made: ScoreDistillation) -> ScoreDistillation:
    """As the loop has it: groups are trained, and nothing else."""
    for members in made.groups().values():
        for parameter in members:
            parameter.requires_grad_(True)
    return made.train()


def pair(batch: int = 2, seed: int = 0) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return Pair(*(torch.rand(batch, 3, side, side, generator=generator) * 2 - 1 for side in (4, 16)))
