"""Recipes of OFTSR: the published settings, the pair of teacher and student, and a whole toy run."""

from dataclasses import replace

import pytest
import torch

from onestep import checkpoint
from onestep.core.config import override
from onestep.core.errors import UsageError
from onestep.methods import build
from onestep.methods.oftsr import DistilConfig, FlowConfig, StudentConfig
from onestep.networks.compact import CompactConfig
from onestep.recipe import OptimizerConfig
from onestep.recipes.oftsr import RECIPES
from onestep.train import train
from onestep.train.state import make_optimizers

PUBLISHED = {
    # task: degradation, H^T, sigma, parameters; then batch and learning rate of teacher and of student
    "ffhq": ("bicubic", "bicubic", 0.1, 93_567_366, (32, 1e-4), (32, 1e-5)),
    "ffhq-noisy": ("average-pool-noisy", "replicate", 0.5, 93_567_366, (128, 1e-4), (32, 2e-5)),
    "div2k": ("bicubic", "bicubic", 0.2, 93_567_366, (128, 1e-5), (32, 1e-5)),
    "imagenet": ("bicubic", "bicubic", 0.2, 552_820_998, (32, 1e-4), (8, 1e-4)),
}
STUDENTS = [name for name in RECIPES if not name.endswith("-teacher")]


@pytest.mark.parametrize("task", PUBLISHED)
def test_published_teachers(task):
    degradation, up, sigma, parameters, (batch, lr), _ = PUBLISHED[task]
    recipe = RECIPES[f"oftsr-{task}-teacher"]()
    model = recipe.objective.model
    assert recipe.objective == FlowConfig(model, distance="l1", perceptual=0.0)
    assert (recipe.degradation, model.up, model.sigma, model.scale) == (degradation, up, sigma, 4)
    assert model.network.dropout == 0.1
    with torch.device("meta"):
        assert sum(p.numel() for p in model.build().parameters()) == parameters
    assert recipe.train.batch == batch
    assert recipe.train.optimizers == {
        "model": OptimizerConfig(lr, "adam", (0.9, 0.999), 1e-8, 0.0, 500, 1.0)
    }
    assert recipe.train.steps <= 300_000


@pytest.mark.parametrize("task", PUBLISHED)
def test_published_students(task):
    *_, (batch, lr) = PUBLISHED[task]
    recipe = RECIPES[f"oftsr-{task}"]()
    assert recipe.objective == DistilConfig(
        variant="trajectory",
        solver="midpoint",
        dt=0.05,
        t_range=(0.01, 0.99),
        distance="l1",
        align=0.01,
        boundary=0.1,
        perceptual=0.0,
    )
    assert recipe.train.batch == batch
    assert recipe.train.optimizers == {"model": OptimizerConfig(lr, warmup=0, decay_to=1.0)}


@pytest.mark.parametrize("task", PUBLISHED)
@pytest.mark.parametrize("stage", ["", "-teacher"])
def test_what_both_published_stages_share(task, stage):
    recipe = RECIPES[f"oftsr-{task}{stage}"]()
    settings = recipe.train
    assert (settings.ema, settings.clip, settings.precision) == (0.9999, 1.0, "float32")
    assert (recipe.data.crop, recipe.data.horizontal, recipe.data.vertical) == (256, 0.5, 0.06)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_learns_from_the_data_of_its_teacher(name):
    student, teacher = RECIPES[name](), RECIPES[f"{name}-teacher"]()
    assert (teacher.method, student.method) == ("oftsr-teacher", "oftsr")
    assert student.data == teacher.data
    assert student.degradation == teacher.degradation
    assert student.data.scale == teacher.objective.model.scale
    with pytest.raises(UsageError, match=r"needs a teacher: --set objective\.teacher=FILE"):
        student.objective.build()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_compact_recipes_differ_by_their_scale(scale):
    recipe, reference = RECIPES[f"oftsr-compact-x{scale}-teacher"](), RECIPES["oftsr-compact-x4-teacher"]()
    assert recipe.objective.model == replace(reference.objective.model, scale=scale)
    assert recipe.objective.model.network == CompactConfig()
    assert recipe.data == replace(reference.data, scale=scale, crop=32 * scale)
    assert recipe.train == reference.train


@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("-teacher")])
def test_every_group_of_a_teacher_has_an_optimizer(name):
    recipe = RECIPES[name]()
    with torch.device("meta"):
        objective = replace(recipe.objective, perceptual=0.0).build()
        optimizers = make_optimizers(objective, recipe.train)
    assert optimizers.keys() == objective.groups().keys()


def test_both_stages_of_the_toy_make_release_files(tmp_path):
    few = ["train.steps=2", "train.batch=2", "data.pictures=4", "data.holdout=0", "check.images=1"]
    first = train(override(RECIPES["oftsr-toy-teacher"](), few), tmp_path / "teacher")
    student = override(RECIPES["oftsr-toy"](), [*few, f"objective.teacher={first}"])
    tensors, card = checkpoint.read(train(student, tmp_path / "student"))
    taught = checkpoint.read(first)[0]
    assert (card.method, card.step, card.defaults) == ("oftsr", 2, {"realism": 0.5})
    model = build(card.method, card.config)
    assert isinstance(model.config, StudentConfig)
    checkpoint.load(model, tensors, first)
    apart = [(tensors[name] - taught[name]).abs().max().item() for name in taught]
    assert 0 < max(apart) < 0.01
