"""Recipes of CTMSR: the published settings, the three budgets of the compact model, and a whole toy run."""

from dataclasses import replace

import pytest
import torch

from onestep import checkpoint
from onestep.core.config import override
from onestep.methods import build
from onestep.methods.ctmsr import ConsistencyConfig, CtmsrConfig
from onestep.methods.ctmsr.objectives import intervals_at
from onestep.networks.swin_unet import SwinUNetConfig
from onestep.recipe import OptimizerConfig
from onestep.recipes.ctmsr import RECIPES
from onestep.train import train
from onestep.train.state import learning_rate

PUBLISHED = {
    # recipe: intervals, steps of consistency training, steps of matching after them
    "ctmsr-x4-ct": ((4, 3), 500_000, 0),
    "ctmsr-x4": ((3, 3), 0, 2_000),
    "ctmsr-x4-single": ((4, 3), 500_000, 2_000),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name):
    intervals, ct_steps, dtm_steps = PUBLISHED[name]
    recipe = RECIPES[name]()
    assert recipe.objective == ConsistencyConfig(
        model=CtmsrConfig(SwinUNetConfig(), scale=4, sigma_max=1.0),
        intervals=intervals,
        ct_steps=ct_steps,
        dtm_steps=dtm_steps,
        target="train",
        draw="batch",
        perceptual_net="vgg",
        perceptual_shift=0,
        dtm_intervals=3,
        dtm_range=(0.1, 0.5),
        dtm_weight="error",
        dtm_gain=1.6,
        refresh=1_000,
    )
    assert recipe.objective.model.network.dropout == 0.13
    train_ = recipe.train
    assert (train_.steps, train_.batch, train_.ema, train_.clip) == (ct_steps + dtm_steps, 32, 0.999, None)
    assert train_.precision == "float32"
    assert train_.optimizers == {
        "model": OptimizerConfig(5e-5, "adamw", (0.9, 0.9), 1e-8, 0.0, 0, 1.0, (50_000,))
    }
    assert recipe.degradation == "resshift"
    assert (recipe.data.crop, recipe.data.horizontal, recipe.data.vertical) == (256, 0, 0)


def test_the_learning_rate_halves_at_fifty_thousand():
    """The second of two runs never gets there; the single run does."""
    single, second = (RECIPES[name]().train for name in ("ctmsr-x4-single", "ctmsr-x4"))
    adam = single.optimizers["model"]
    rates = [learning_rate(adam, step, single.steps) for step in (0, 49_999, 50_000, 501_999)]
    assert rates == [5e-5, 5e-5, 2.5e-5, 2.5e-5]
    assert learning_rate(second.optimizers["model"], 1_999, second.steps) == 5e-5


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_three_compact_recipes_have_one_budget(scale):
    name = f"ctmsr-compact-x{scale}"
    full, ct, regression = (RECIPES[name + part]() for part in ("", "-ct", "-regression"))
    assert full.objective.model.scale == full.data.scale == scale
    assert full.data.crop == 32 * scale
    for other in (ct, regression):
        assert (other.train, other.data, other.degradation) == (full.train, full.data, full.degradation)
        assert other.objective.dtm_steps == 0
        assert other.objective.ct_steps == full.train.steps
        assert other.objective.model == full.objective.model
    assert full.objective.dtm_steps > 0
    steps = range(full.train.steps)
    for recipe, found in ((full, {4, 3}), (ct, {4, 3}), (regression, {1})):
        objective = recipe.objective
        total = objective.ct_steps + objective.dtm_steps
        assert {intervals_at(step, objective.intervals, total) for step in steps} == found


def test_compact_scales_differ_by_their_scale_alone():
    four, two = RECIPES["ctmsr-compact-x4"](), RECIPES["ctmsr-compact-x2"]()
    assert two.objective == replace(four.objective, model=replace(four.objective.model, scale=2))
    assert two.train == four.train


def test_the_toy_makes_a_release_file(tmp_path):
    """Consistency training for three steps, matching for three, stopped and continued in between."""
    few = ["train.steps=6", "objective.ct_steps=3", "objective.dtm_steps=3", "objective.refresh=2"]
    few += ["train.batch=2", "data.pictures=4", "data.holdout=0", "check.images=1", "train.save_every=2"]
    recipe = override(RECIPES["ctmsr-toy"](), few)
    whole = train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "parts", max_minutes=0)
    while not (last := tmp_path / "parts" / whole.name).is_file():
        train(recipe, tmp_path / "parts", max_minutes=0)
    tensors, card = checkpoint.read(last)
    assert (card.method, card.step) == ("ctmsr", 6)
    checkpoint.load(build(card.method, card.config), tensors, last)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in checkpoint.read(whole)[0].items())
