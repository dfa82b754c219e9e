"""Recipes of the mini prior: autoencoder, then noise prediction; together 90 minutes on two CPU cores."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from onestep.data import DataConfig
from onestep.methods.prior import AutoencoderConfig, NoisePredictionConfig, ReconstructionConfig
from onestep.networks.prior_config import PriorConfig
from onestep.recipe import CardConfig, CheckConfig, OptimizerConfig, Recipe, TrainConfig

_LIMITS = (
    "A small prior for experiments: it knows the texture of photographs at 96 pixels, not their subjects.",
    "It knows two captions and the empty one; other prompts mean nothing to it.",
)


def mini_vae() -> Recipe:
    """The autoencoder: 64-pixel crops to latents of 16x16x4."""
    return Recipe(
        name="mini-prior-vae",
        method="prior-vae",
        objective=ReconstructionConfig(),
        degradation="bicubic",
        data=DataConfig(folder="train", crop=64, scale=1),
        train=TrainConfig(
            steps=2_500,
            batch=16,
            optimizers={"model": OptimizerConfig(lr=8e-4, warmup=100, decay_to=0.05)},
            ema=0.995,
            precision="float32",
            save_every=200,
        ),
        check=CheckConfig(every=800, crop=192),
        card=CardConfig(half=False),
    )


def mini_prior() -> Recipe:
    """The U-Net and the text encoder, on latents of 96-pixel crops, clean and degraded."""
    first = mini_vae()
    return replace(
        first,
        name="mini-prior",
        method="prior",
        objective=NoisePredictionConfig(),
        degradation="realesrgan",
        data=replace(first.data, crop=96, scale=4),
        train=TrainConfig(
            steps=4_800,
            batch=16,
            optimizers={"model": OptimizerConfig(lr=6e-4, warmup=200, decay_to=0.05)},
            ema=0.998,
            precision="float32",
            save_every=200,
        ),
        check=CheckConfig(every=1000, images=4, crop=192, sweep={"strength": (0.3, 1.0)}),
        card=CardConfig(limits=_LIMITS),
    )


def toy_vae() -> Recipe:
    """The autoencoder shrunk to procedural pictures and seconds."""
    first = mini_vae()
    return replace(
        first,
        name="prior-toy-vae",
        objective=ReconstructionConfig(AutoencoderConfig(PriorConfig.tiny().vae), perceptual=0.0),
        data=DataConfig(folder="synthetic", crop=32, scale=1, workers=0, pictures=64),
        train=replace(first.train, steps=200, batch=8, save_every=100, log_every=20),
        check=replace(first.check, every=200, images=2, crop=64, pictures=2),
    )


def toy_prior() -> Recipe:
    """The prior shrunk likewise."""
    first = mini_prior()
    return replace(
        first,
        name="prior-toy",
        objective=NoisePredictionConfig(prior=PriorConfig.tiny()),
        degradation="bicubic",
        data=DataConfig(folder="synthetic", crop=32, scale=4, workers=0, pictures=64),
        train=replace(first.train, steps=200, batch=8, save_every=100, log_every=20),
        check=replace(first.check, every=200, images=2, crop=64, pictures=2, sweep={"strength": (0.3,)}),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "mini-prior-vae": mini_vae,
    "mini-prior": mini_prior,
    "prior-toy-vae": toy_vae,
    "prior-toy": toy_prior,
}
