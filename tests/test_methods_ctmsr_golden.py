"""Golden numbers of CTMSR: twenty seeded steps of both stages through the training loop's own step.

A change of names or structure must leave these alone; a change of mathematics shows here, and needs a reason.
The network is a linear stand-in, so that no kernel of a convolution decides a digit.
"""

import pytest
import torch

from ctmsr_parts import PerLevel, squared, toy_model
from onestep.core.contract import Pair
from onestep.methods.ctmsr import ConsistencyConfig, ConsistencyTrajectory
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train.state import Training

GOLDEN: dict[str, list[float]] = {
    "lpips": [
        0.004343465,
        0.1497677,
        0.06251729,
        0.06755313,
        0.004404319,
        0.05894592,
        0.005213167,
        0.003003877,
        0.05762404,
        0.07131397,
        0.005989872,
        0.08755207,
        0.005548299,
        0.1807623,
        0.1697584,
        0.0600818,
        0.1293918,
        0.07262789,
        0.00923029,
        0.05718843,
    ],
    "charbonnier": [
        0.03731604,
        0.2509515,
        0.1285904,
        0.1386643,
        0.04209021,
        0.1266309,
        0.04743749,
        0.0326069,
        0.1155868,
        0.1484357,
        0.0456321,
        0.1358732,
        0.04483365,
        0.2727415,
        0.2658205,
        0.1235505,
        0.2321139,
        0.1492759,
        0.05898717,
        0.1280761,
    ],
    "dtm": [
        0.02787241,
        0.03107053,
        0.03807741,
        0.02429289,
        0.02325844,
        0.02318421,
        0.02321064,
        0.02867266,
        0.03155962,
        0.02975699,
    ],
}


def pairs(step: int) -> list[Pair]:
    """Two micro-batches of one-pixel images, the same on every machine."""
    phases = torch.arange(12.0).reshape(4, 3, 1, 1) + step
    hr, lr = torch.sin(phases), 0.5 * torch.cos(0.7 * phases)
    return [Pair(lr[:2], hr[:2]), Pair(lr[2:], hr[2:])]


def terms() -> dict[str, list[float]]:
    """Each term of the loss, step by step; matching begins at step 10."""
    config = ConsistencyConfig(intervals=(4, 3), ct_steps=10, dtm_steps=10, refresh=4, perceptual_net="none")
    objective = ConsistencyTrajectory(config, toy_model(PerLevel(12)), squared())
    adam = {"model": OptimizerConfig(lr=1e-2, kind="adamw", betas=(0.9, 0.9))}
    settings = TrainConfig(
        steps=20, batch=4, micro=2, optimizers=adam, precision="float32", ema=0.9, clip=None, seed=3
    )
    run = Training(objective.train(), settings)
    logs = [run.advance(pairs(step)) for step in range(20)]
    names = [name for name in logs[-1] if name.startswith("model/")]
    return {name.removeprefix("model/"): [log[name] for log in logs if name in log] for name in names}


def test_twenty_steps_of_both_stages():
    found = terms()
    assert {name: len(values) for name, values in found.items()} == {
        "lpips": 20,
        "charbonnier": 20,
        "dtm": 10,
    }
    for name, values in GOLDEN.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name
