"""Recipes of S3Diff: as published, three on the mini prior that are to be compared, and a toy.

The published one follows section 4 of docs/methods/s3diff.md. The others need a release file of a prior:
``--set objective.prior=FILE``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from onestep.data import DataConfig
from onestep.methods.prior import CLEAN, DEGRADED
from onestep.methods.s3diff import S3diffConfig, S3diffTraining
from onestep.networks.discriminator import DiscriminatorConfig
from onestep.recipe import CardConfig, CheckConfig, OptimizerConfig, Recipe, TrainConfig

_ADAMW = OptimizerConfig(lr=2e-5, kind="adamw", weight_decay=1e-2)


def published() -> Recipe:
    """SD-Turbo at 512 pixels; the released weights are thought to be those of about 30,000 steps."""
    return Recipe(
        name="s3diff-x4",
        method="s3diff",
        objective=S3diffTraining(checkpointing=True),
        degradation="s3diff",
        data=DataConfig(folder="data/lsdir", crop=512, scale=4, vertical=0.0),
        train=TrainConfig(
            steps=30_000,
            batch=64,
            micro=4,
            optimizers={"model": _ADAMW, "discriminator": _ADAMW},
            ema=None,
            precision="float32",
            save_every=500,
        ),
        check=CheckConfig(every=1000, images=4, crop=512, pictures=4),
        card=CardConfig(half=False),
    )


def mini() -> Recipe:
    """On the mini prior, for two CPU cores: gates, online negatives, guidance; 96-pixel crops."""
    first = published()
    return replace(
        first,
        name="s3diff-mini",
        objective=S3diffTraining(
            S3diffConfig(
                base="mini-prior", rank_unet=16, rank_vae=8, up="bicubic", prompt=CLEAN, negative=DEGRADED
            ),
            perceptual_net="squeeze",
            discriminator=DiscriminatorConfig("squeeze"),
        ),
        degradation="mixed",
        data=DataConfig(folder="train", crop=96, scale=4),
        train=TrainConfig(
            steps=1500,
            batch=8,
            optimizers={
                "model": OptimizerConfig(lr=1e-3, kind="adamw", weight_decay=1e-2, warmup=50, decay_to=0.1),
                "discriminator": OptimizerConfig(lr=2e-4, kind="adamw", weight_decay=1e-2),
            },
            ema=0.995,
            precision="float32",
            save_every=100,
        ),
        check=CheckConfig(every=500, images=8, crop=192),
    )


def mini_gated() -> Recipe:
    """The same with gates alone: no negative samples in training, no guidance afterwards."""
    first = mini()
    assert isinstance(first.objective, S3diffTraining)
    return replace(
        first,
        name="s3diff-mini-gated",
        objective=replace(first.objective, negatives=0.0),
        card=replace(first.card, defaults={"guidance": 1.0}),
    )


def mini_plain() -> Recipe:
    """The same with plain adapters: what is left of the method without its idea."""
    first = mini_gated()
    assert isinstance(first.objective, S3diffTraining)
    objective = replace(first.objective, model=replace(first.objective.model, gated=False))
    return replace(first, name="s3diff-mini-plain", objective=objective)


def toy() -> Recipe:
    """Procedural pictures on the toy prior, which needs no weights of others."""
    first = mini()
    assert isinstance(first.objective, S3diffTraining)
    return replace(
        first,
        name="s3diff-toy",
        objective=replace(
            first.objective,
            model=replace(first.objective.model, base="prior-toy", rank_unet=4, rank_vae=4),
            perceptual=0.0,
            adversarial=0.0,
        ),
        degradation="bicubic",
        data=DataConfig(folder="synthetic", crop=32, scale=4, workers=0, pictures=64),
        train=replace(
            first.train,
            steps=100,
            batch=4,
            optimizers={"model": first.train.optimizers["model"]},
            save_every=50,
            log_every=10,
        ),
        check=replace(first.check, every=100, images=2, crop=64, pictures=2),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "s3diff-x4": published,
    "s3diff-mini": mini,
    "s3diff-mini-gated": mini_gated,
    "s3diff-mini-plain": mini_plain,
    "s3diff-toy": toy,
}
