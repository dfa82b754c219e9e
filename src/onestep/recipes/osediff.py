"""Recipes of OSEDiff: as published, on the mini prior with and without score distillation, and a toy.

The published one follows sections 3 and 4 of docs/methods/osediff.md. The mini ones need a release file of
the mini prior: ``--set objective.prior=FILE``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from onestep.data import DataConfig
from onestep.methods.osediff import OsediffConfig, OsediffTraining
from onestep.methods.prior import CLEAN, DEGRADED
from onestep.recipe import CardConfig, CheckConfig, OptimizerConfig, Recipe, TrainConfig

_ADAMW = OptimizerConfig(lr=5e-5, kind="adamw", weight_decay=1e-2)


def published() -> Recipe:
    """Stable Diffusion 2.1-base at 512 pixels; the authors name about 14,000 steps."""
    return Recipe(
        name="osediff-x4",
        method="osediff",
        objective=OsediffTraining(checkpointing=True),
        degradation="osediff",
        data=DataConfig(folder="data/lsdir", crop=512, scale=4, vertical=0.0),
        train=TrainConfig(
            steps=14_000,
            batch=16,
            micro=1,
            optimizers={"model": _ADAMW, "fake": _ADAMW},
            ema=None,
            save_every=500,
        ),
        check=CheckConfig(every=1000, images=4, crop=512, pictures=4),
        card=CardConfig(half=False),
    )


def mini() -> Recipe:
    """On the mini prior, for two CPU cores: 96-pixel crops, higher rank and learning rate."""
    first = published()
    moves = OptimizerConfig(lr=1e-3, kind="adamw", weight_decay=1e-2, warmup=50, decay_to=0.1)
    return replace(
        first,
        name="osediff-mini",
        objective=OsediffTraining(
            OsediffConfig(base="mini-prior", rank_unet=16, rank_vae=8),
            perceptual_net="squeeze",
            guidance=3.0,
            prompt=CLEAN,
            negative=DEGRADED,
        ),
        data=DataConfig(folder="train", crop=96, scale=4),
        train=TrainConfig(
            steps=1500,
            batch=8,
            optimizers={"model": moves, "fake": moves},
            ema=0.995,
            precision="float32",
            save_every=100,
        ),
        check=CheckConfig(every=500, images=8, crop=192),
        card=CardConfig(defaults={"prompt": CLEAN, "tagger": "none"}, half=True),
    )


def mini_plain() -> Recipe:
    """The same without score distillation: what the image losses alone make."""
    first = mini()
    moves = first.train.optimizers["model"]
    objective = first.objective
    assert isinstance(objective, OsediffTraining)
    return replace(
        first,
        name="osediff-mini-plain",
        objective=replace(objective, vsd=0.0),
        train=replace(first.train, optimizers={"model": moves}),
    )


def toy() -> Recipe:
    """Procedural pictures on the toy prior: ``--set objective.prior=FILE`` of ``prior-toy``."""
    first = mini()
    return replace(
        first,
        name="osediff-toy",
        objective=OsediffTraining(
            OsediffConfig(base="prior-toy"), perceptual=0.0, guidance=2.0, prompt=CLEAN, negative=DEGRADED
        ),
        degradation="bicubic",
        data=DataConfig(folder="synthetic", crop=32, scale=4, workers=0, pictures=64),
        train=replace(first.train, steps=100, batch=4, save_every=50, log_every=10),
        check=replace(first.check, every=100, images=2, crop=64, pictures=2),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "osediff-x4": published,
    "osediff-mini": mini,
    "osediff-mini-plain": mini_plain,
    "osediff-toy": toy,
}
