"""Recipes of the degradation estimator: the compact one that ships, the published shape, and a toy."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from onestep.data import DataConfig
from onestep.methods.degradation import EstimatorModelConfig, RankingConfig
from onestep.networks.degradation_estimator import EstimatorConfig
from onestep.recipe import CardConfig, CheckConfig, OptimizerConfig, Recipe, TrainConfig

_LIMITS = (
    "It ranks, it does not measure: a score is no sigma and no quality.",
    "It knows blur, reduction, white and shot noise and JPEG; haze, motion and wrong colours it does not.",
)


def compact() -> Recipe:
    """The compact estimator: twenty minutes on one CPU thread."""
    return Recipe(
        name="degradation-estimator",
        method="degradation-estimator",
        objective=RankingConfig(EstimatorModelConfig(EstimatorConfig.compact())),
        degradation="bicubic",
        data=DataConfig(folder="train", crop=256, scale=4, vertical=0.5),
        train=TrainConfig(
            steps=5_000,
            batch=12,
            optimizers={"model": OptimizerConfig(lr=2e-3, warmup=100, decay_to=0.02)},
            ema=0.99,
            precision="float32",
            save_every=200,
        ),
        check=CheckConfig(every=0),
        card=CardConfig(limits=_LIMITS),
    )


def published() -> Recipe:
    """The published shape; forty times the multiply-adds of the compact one."""
    first = compact()
    return replace(
        first,
        name="degradation-estimator-full",
        objective=RankingConfig(),
        train=replace(first.train, steps=40_000, batch=24),
    )


def toy() -> Recipe:
    """The compact one shrunk to procedural pictures and seconds."""
    first = compact()
    network = EstimatorConfig(widths=(8, 8), blocks=(1, 1), strides=(2,), hidden=8, window=5)
    return replace(
        first,
        name="degradation-estimator-toy",
        objective=RankingConfig(EstimatorModelConfig(network)),
        data=DataConfig(folder="synthetic", crop=96, scale=4, workers=0, pictures=64),
        train=replace(first.train, steps=60, batch=4, save_every=50, log_every=20),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "degradation-estimator": compact,
    "degradation-estimator-full": published,
    "degradation-estimator-toy": toy,
}
