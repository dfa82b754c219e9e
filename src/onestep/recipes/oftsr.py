"""Recipes of OFTSR: four published tasks, the shipped compact model, and a toy.

The published ones follow sections 1.4 and 3 of the specification: Adam, gradients clipped at norm 1, constant
learning rate, EMA 0.9999, dropout 0.1, float32, horizontal flips 50 %, vertical 6 %. Teachers warm up for 500
steps, students (which start from trained weights) do not. A student needs its teacher:
``--set objective.teacher=FILE``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from onestep.data import DataConfig
from onestep.methods.oftsr import DistilConfig, FlowConfig, TeacherConfig
from onestep.networks.compact import CompactConfig
from onestep.networks.unet import UNetConfig
from onestep.recipe import CardConfig, CheckConfig, OptimizerConfig, Recipe, TrainConfig


@dataclass(frozen=True)
class Task:
    """A row of the table of published settings (section 1.4), and the steps that its checkpoints name."""

    network: UNetConfig
    degradation: str
    sigma: float
    teacher: tuple[int, float, int]
    """Batch, learning rate, steps."""
    student: tuple[int, float, int]
    up: Literal["bicubic", "replicate"] = "bicubic"


TASKS: Mapping[str, Task] = {
    "ffhq": Task(UNetConfig.ffhq(), "bicubic", 0.1, (32, 1e-4, 100_000), (32, 1e-5, 40_000)),
    "ffhq-noisy": Task(
        UNetConfig.ffhq(),
        "average-pool-noisy",
        0.5,
        (128, 1e-4, 230_000),
        (32, 2e-5, 240_000),
        up="replicate",
    ),
    "div2k": Task(UNetConfig.ffhq(), "bicubic", 0.2, (128, 1e-5, 40_000), (32, 1e-5, 50_000)),
    "imagenet": Task(UNetConfig.imagenet(), "bicubic", 0.2, (32, 1e-4, 100_000), (8, 1e-4, 50_000)),
}


def teacher(name: str) -> Recipe:
    """Stage 1 of a published task: the flow, from random weights."""
    task = TASKS[name]
    batch, lr, steps = task.teacher
    return Recipe(
        name=f"oftsr-{name}-teacher",
        method="oftsr-teacher",
        objective=FlowConfig(TeacherConfig(task.network, scale=4, sigma=task.sigma, up=task.up)),
        degradation=task.degradation,
        data=DataConfig(folder=f"data/{name}", crop=256, scale=4, horizontal=0.5, vertical=0.06),
        train=TrainConfig(
            steps=steps,
            batch=batch,
            optimizers={"model": OptimizerConfig(lr=lr, warmup=500)},
            ema=0.9999,
            clip=1.0,
            precision="float32",
            save_every=10_000,
        ),
        check=CheckConfig(every=10_000),
    )


def student(name: str) -> Recipe:
    """Stage 2 of a published task: distillation, from the teacher's weights."""
    task = TASKS[name]
    batch, lr, steps = task.student
    first = teacher(name)
    return replace(
        first,
        name=f"oftsr-{name}",
        method="oftsr",
        objective=DistilConfig(),
        train=replace(first.train, steps=steps, batch=batch, optimizers={"model": OptimizerConfig(lr=lr)}),
        check=replace(first.check, sweep={"realism": (0.0, 0.5, 1.0)}),
    )


def compact_teacher(scale: int) -> Recipe:
    """The compact teacher: a flow that fits a CPU, from clean bicubic to real-world degradations."""
    return Recipe(
        name=f"oftsr-compact-x{scale}-teacher",
        method="oftsr-teacher",
        objective=FlowConfig(TeacherConfig(CompactConfig(), scale=scale, sigma=0.2), perceptual=0.3),
        degradation="mixed",
        data=DataConfig(folder="train", crop=32 * scale, scale=scale),
        train=TrainConfig(
            steps=5_500,
            batch=16,
            optimizers={"model": OptimizerConfig(lr=6e-4, warmup=200, decay_to=0.1)},
            ema=0.999,
            save_every=500,
        ),
        check=CheckConfig(every=2000),
    )


def compact_student(scale: int) -> Recipe:
    """The compact student: what ships."""
    first = compact_teacher(scale)
    return replace(
        first,
        name=f"oftsr-compact-x{scale}",
        method="oftsr",
        objective=DistilConfig(perceptual=1.0),
        train=replace(
            first.train,
            steps=2_600,
            batch=8,
            optimizers={"model": OptimizerConfig(lr=3e-4, warmup=100, decay_to=0.05)},
        ),
        check=replace(first.check, sweep={"realism": (0.0, 0.5, 1.0)}),
        card=CardConfig(defaults={"realism": 0.5}),
    )


def toy(first: Recipe) -> Recipe:
    """A recipe of the compact model shrunk to procedural pictures and half a minute on a CPU."""
    teacher_config = TeacherConfig(CompactConfig(width=16, trunk=2, head=1, time_width=16), sigma=0.2)
    objective = FlowConfig(teacher_config) if first.method == "oftsr-teacher" else DistilConfig()
    return replace(
        first,
        name=first.name.replace("compact-x4", "toy"),
        objective=objective,
        degradation="bicubic",
        data=DataConfig(folder="synthetic", crop=64, scale=4, workers=0, pictures=64),
        train=replace(
            first.train,
            steps=200,
            batch=8,
            optimizers={"model": OptimizerConfig(lr=2e-3, warmup=10)},
            save_every=100,
            log_every=20,
        ),
        check=replace(first.check, every=200, images=2, crop=64, pictures=2),
    )


def _named() -> dict[str, Callable[[], Recipe]]:
    made: dict[str, Callable[[], Recipe]] = {}
    for name in TASKS:
        made[f"oftsr-{name}-teacher"] = partial(teacher, name)
        made[f"oftsr-{name}"] = partial(student, name)
    for scale in (4, 2, 3):
        made[f"oftsr-compact-x{scale}-teacher"] = partial(compact_teacher, scale)
        made[f"oftsr-compact-x{scale}"] = partial(compact_student, scale)
    made["oftsr-toy-teacher"] = lambda: toy(compact_teacher(4))
    made["oftsr-toy"] = lambda: toy(compact_student(4))
    return made


RECIPES: Mapping[str, Callable[[], Recipe]] = _named()
