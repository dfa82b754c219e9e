"""Recipes of CTMSR: the published x4 model in two runs or one, the compact model, and a toy.

The published numbers are those of sections 2.4 and 3.3 of the specification: AdamW with betas (0.9, 0.9),
learning rate 5e-5, halved at step 50,000, no warm-up, no clipping, float32, batch 32 of 256-pixel crops
without flips, EMA 0.999. The second of two runs starts from the first's release file:
``--set objective.start=FILE``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from onestep.data import DataConfig
from onestep.methods.ctmsr import ConsistencyConfig, CtmsrConfig
from onestep.networks.swin_unet import SwinUNetConfig
from onestep.recipe import CheckConfig, OptimizerConfig, Recipe, TrainConfig

CT_STEPS, DTM_STEPS = 500_000, 2_000


def published(ct_steps: int, dtm_steps: int, name: str) -> Recipe:
    """A published run of so many steps of consistency training, and so many with DTM after them."""
    return Recipe(
        name=name,
        method="ctmsr",
        objective=ConsistencyConfig(
            intervals=(4, 3) if ct_steps else (3, 3), ct_steps=ct_steps, dtm_steps=dtm_steps
        ),
        degradation="resshift",
        data=DataConfig(folder="data/imagenet", crop=256, scale=4, horizontal=0.0, vertical=0.0),
        train=TrainConfig(
            steps=ct_steps + dtm_steps,
            batch=32,
            optimizers={
                "model": OptimizerConfig(lr=5e-5, kind="adamw", betas=(0.9, 0.9), halve_at=(50_000,))
            },
            ema=0.999,
            clip=None,
            precision="float32",
            save_every=1_000,
        ),
        check=CheckConfig(every=10_000 if ct_steps else 500),
    )


def compact(scale: int, ct_steps: int = 1_700, dtm_steps: int = 500) -> Recipe:
    """The compact model: consistency training, then DTM, in one run that fits a CPU."""
    network = SwinUNetConfig.compact()
    return Recipe(
        name=f"ctmsr-compact-x{scale}",
        method="ctmsr",
        objective=ConsistencyConfig(
            model=CtmsrConfig(network, scale=scale, sigma_max=0.2),
            ct_steps=ct_steps,
            dtm_steps=dtm_steps,
            draw="image",
            perceptual_net="squeeze",
            perceptual_shift=7,
            dtm_weight="simple",
            refresh=250,
        ),
        degradation="resshift",
        data=DataConfig(folder="train", crop=32 * scale, scale=scale),
        train=TrainConfig(
            steps=ct_steps + dtm_steps,
            batch=16,
            optimizers={
                "model": OptimizerConfig(lr=4e-4, kind="adamw", betas=(0.9, 0.99), warmup=200, decay_to=0.1)
            },
            ema=0.995,
            save_every=170,
        ),
        check=CheckConfig(every=1_000, metrics=("psnr-y", "ssim-y", "niqe")),
    )


def without_dtm(recipe: Recipe) -> Recipe:
    """The same budget for consistency training alone."""
    objective = recipe.objective
    assert isinstance(objective, ConsistencyConfig)
    alone = replace(objective, ct_steps=objective.ct_steps + objective.dtm_steps, dtm_steps=0)
    return replace(recipe, name=f"{recipe.name}-ct", objective=alone)


def regression(recipe: Recipe) -> Recipe:
    """The same budget with a single interval: the network learns the true image from pure noise."""
    alone = without_dtm(recipe)
    objective = replace(alone.objective, intervals=(1, 1))  # pyright: ignore[reportCallIssue, reportArgumentType]
    return replace(alone, name=f"{recipe.name}-regression", objective=objective)


def toy() -> Recipe:
    """The compact recipe shrunk to procedural pictures and half a minute on a CPU."""
    first = compact(4, ct_steps=150, dtm_steps=50)
    small = replace(SwinUNetConfig.compact(), base=32, multipliers=(1, 1), attention=(1,), blocks=1)
    small = replace(small, embedding=32, swin_width=32)
    assert isinstance(first.objective, ConsistencyConfig)
    return replace(
        first,
        name="ctmsr-toy",
        objective=replace(
            first.objective, model=CtmsrConfig(small, sigma_max=0.2), perceptual_net="none", refresh=25
        ),
        degradation="bicubic",
        data=DataConfig(folder="synthetic", crop=64, scale=4, workers=0, pictures=64),
        train=replace(
            first.train,
            batch=8,
            optimizers={"model": OptimizerConfig(lr=2e-3, kind="adamw", warmup=10)},
            save_every=100,
            log_every=20,
        ),
        check=replace(first.check, every=200, images=2, crop=64, pictures=2, metrics=("psnr-y", "ssim-y")),
    )


def _named() -> dict[str, Callable[[], Recipe]]:
    made: dict[str, Callable[[], Recipe]] = {
        "ctmsr-x4-ct": partial(published, CT_STEPS, 0, "ctmsr-x4-ct"),
        "ctmsr-x4": partial(published, 0, DTM_STEPS, "ctmsr-x4"),
        "ctmsr-x4-single": partial(published, CT_STEPS, DTM_STEPS, "ctmsr-x4-single"),
        "ctmsr-toy": toy,
    }
    for scale in (4, 2, 3):
        made[f"ctmsr-compact-x{scale}"] = partial(compact, scale)
        made[f"ctmsr-compact-x{scale}-ct"] = lambda scale=scale: without_dtm(compact(scale))
        made[f"ctmsr-compact-x{scale}-regression"] = lambda scale=scale: regression(compact(scale))
    return made


RECIPES: Mapping[str, Callable[[], Recipe]] = _named()
