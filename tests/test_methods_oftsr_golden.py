"""Golden numbers of OFTSR: twenty seeded steps of both objectives through the training loop's own step.

A change of names or structure must leave these alone; a change of mathematics shows here, and needs a reason.
"""

import pytest
import torch

from onestep.core.contract import Pair
from onestep.methods.oftsr import DistilConfig, Distillation, FlowConfig, StudentConfig, TeacherConfig
from onestep.networks.compact import CompactConfig
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train import train_step
from onestep.train.state import make_optimizers

NETWORK = CompactConfig(width=8, trunk=1, head=1, time_width=8)
CONFIG = TrainConfig(
    steps=20, batch=4, optimizers={"model": OptimizerConfig(lr=1e-3)}, precision="float32", ema=None, seed=3
)

FLOW = [
    0.1893504,
    0.2255525,
    0.1890316,
    0.2056336,
    0.1589852,
    0.177614,
    0.222377,
    0.1640512,
    0.1958536,
    0.2207536,
    0.1984532,
    0.1495473,
    0.1788362,
    0.1671496,
    0.1621024,
    0.1511833,
    0.1522841,
    0.1692357,
    0.1829848,
    0.132878,
]
DISTIL = {
    "distil": [
        0.009441695,
        0.008803905,
        0.01268918,
        0.01043073,
        0.02499501,
        0.008659218,
        0.007397241,
        0.01212895,
        0.007029186,
        0.006438709,
        0.01682471,
        0.008523461,
        0.007590309,
        0.007379469,
        0.007283844,
        0.009566698,
        0.01181081,
        0.00739146,
        0.007243354,
        0.01621462,
    ],
    "align": [
        0.0004801349,
        0.0003618251,
        0.0004208688,
        0.0003740019,
        0.0005195849,
        0.0004243982,
        0.0002799853,
        0.0004799019,
        0.0003374957,
        0.0002063571,
        0.0002914526,
        0.0004236823,
        0.0002990155,
        0.0003592859,
        0.0003341748,
        0.000299277,
        0.0003600609,
        0.0002948255,
        0.0002622131,
        0.0004616224,
    ],
    "boundary": [
        0.005459933,
        0.006904053,
        0.005354426,
        0.005201199,
        0.006108192,
        0.004620421,
        0.005585093,
        0.005614094,
        0.005538957,
        0.005351923,
        0.005201361,
        0.005323564,
        0.005077242,
        0.00552287,
        0.005140078,
        0.004210991,
        0.005711209,
        0.004937625,
        0.005887594,
        0.005745745,
    ],
}


def pairs(step: int) -> list[Pair]:
    """Two micro-batches of smooth images, the same on every machine."""
    grid = torch.linspace(0, 6, 16)
    phases = torch.arange(12.0).reshape(4, 3, 1, 1) + step
    hr = (torch.sin(grid + phases) * torch.cos(0.7 * grid[:, None] - phases)).contiguous()
    lr = torch.nn.functional.avg_pool2d(hr, 4)
    return [Pair(lr[:2], hr[:2]), Pair(lr[2:], hr[2:])]


def trained(objective) -> dict[str, list[float]]:
    """Each term of the loss, step by step."""
    optimizers = make_optimizers(objective.train(), CONFIG)
    logs = [train_step(objective, optimizers, pairs(step), step, config=CONFIG) for step in range(20)]
    terms = [name for name in logs[0] if name.startswith("model/")]
    return {name.removeprefix("model/"): [log[name] for log in logs] for name in terms}


def teacher_run():
    torch.manual_seed(0)
    objective = FlowConfig(TeacherConfig(NETWORK)).build()
    return trained(objective), objective.model


def student_run():
    """From weights of its own: beside the teacher's, L1 has kinks where rounding decides the gradient."""
    _, teacher = teacher_run()
    torch.manual_seed(1)
    return trained(Distillation(DistilConfig(), teacher, StudentConfig(NETWORK).build()))


def test_twenty_steps_of_flow_matching():
    found, _ = teacher_run()
    assert found.keys() == {"flow"}
    assert found["flow"] == pytest.approx(FLOW, rel=1e-4)


def test_twenty_steps_of_distillation():
    found = student_run()
    assert found.keys() == DISTIL.keys()
    for name, values in DISTIL.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name
