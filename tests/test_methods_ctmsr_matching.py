"""The second stage of CTMSR: direction, weight, levels and isolation of matching; the snapshot; resuming."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from ctmsr_parts import (
    DROPPING,
    MODEL,
    PerLevel,
    images,
    lively,
    objective,
    recorded,
    same,
    toy_objective,
    weights,
)
from onestep.core.ema import Ema
from onestep.methods.ctmsr import ConsistencyTrajectory
from onestep.methods.ctmsr.model import preconditioning
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train.state import Training

SETTINGS = {"ct_steps": 3, "dtm_steps": 7, "refresh": 4}


def matched(net: nn.Module, **settings) -> ConsistencyTrajectory:
    """An objective at the start of its second stage, whose snapshot is the model as it is."""
    made = toy_objective(net, 3, **{"ct_steps": 0, "dtm_steps": 10, "start": "unused", **settings})
    made.begin(0, lambda: nullcontext(made.model))
    return made


def sum_of_squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum(dim=(1, 2, 3))


T = torch.tensor(1 / 3)


def test_the_discrepancy_of_a_linear_snapshot():
    """f(x, t) = a x: g = a (1 - t) (P - x0), for shared y and noise (section 10, item 8)."""
    trained = matched(PerLevel(3))
    result, x0, y, noise = torch.randn(4, 5, 3, 1, 1)
    t = T.expand(5)
    g = trained.discrepancy(result, x0, y, x0, t, t, noise)
    c_skip, c_out, _ = preconditioning(T)
    a = float(c_skip + 0.3 * c_out)
    assert torch.allclose(g, a * (1 - 1 / 3) * (result - x0), atol=1e-5)
    assert not g.requires_grad
    assert not bool(trained.discrepancy(x0, x0, y, x0, t, t, noise).any())


@pytest.mark.parametrize("weight", ["error", "simple"])
def test_the_gradient_of_matching_is_weight_times_discrepancy(weight):
    """With the squared error in place of LPIPS, and gain 1."""
    settings = {"dtm_weight": weight, "dtm_gain": 1.0, "distance": sum_of_squares}
    trained = matched(PerLevel(3), **settings)
    x0 = torch.randn(5, 3, 1, 1)
    result = (x0 + torch.randn_like(x0)).requires_grad_()
    third = torch.arange(4) / 3
    trained.matching(result, x0, torch.randn_like(x0), x0, third, third).backward()
    c_skip, c_out, _ = preconditioning(T)
    g = float(c_skip + 0.3 * c_out) * (2 / 3) * (result.detach() - x0)
    w = 1 / (result.detach() - x0).abs().mean(dim=(1, 2, 3), keepdim=True) if weight == "error" else 1.0
    assert result.grad is not None
    assert torch.allclose(result.grad, w * g / 5, rtol=1e-3, atol=1e-5)


def test_matching_is_at_rest_where_the_result_is_true():
    trained = matched(PerLevel(3), dtm_weight="simple")
    x0 = torch.randn(5, 3, 1, 1)
    result = x0.clone().requires_grad_()
    third = torch.arange(4) / 3
    loss = trained.matching(result, x0, torch.randn_like(x0), x0, third, third)
    loss.backward()
    assert float(loss.detach()) == 0
    assert result.grad is not None
    assert not bool(result.grad.any())


def test_the_guard_of_the_weight():
    x0 = torch.zeros(2, 3, 1, 1)
    result = torch.stack([x0[0], x0[0] + 0.05])
    guarded = matched(PerLevel(3)).weight(result, x0)
    assert guarded.tolist() == pytest.approx([1e4, 20])
    bare = matched(PerLevel(3), dtm_guard=0.0).weight(result, x0)
    assert math.isinf(bare[0])
    assert float(bare[1]) == pytest.approx(20)
    assert matched(PerLevel(3), dtm_weight="simple").weight(result, x0).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        ({}, {1}),
        ({"dtm_range": (0.1, 1.0)}, {1, 2, 3}),
        ({"dtm_range": (0.5, 1.0)}, {2, 3}),
        ({"dtm_intervals": 2, "dtm_range": (0.1, 1.0)}, {1, 2}),
    ],
)
def test_levels_of_matching(monkeypatch, settings, levels):
    """The released numbers leave index 1 alone; a wider range is possible."""
    calls = recorded(monkeypatch)
    trained = matched(PerLevel(3), **settings)
    x0 = torch.randn(64, 3, 1, 1)
    third = torch.arange(4) / 3
    for _ in range(10):
        trained.matching(x0 + 1, x0, x0, x0, third, third)
    indices = {round(3 * float(alpha)) for *_, alpha, _ in calls for alpha in alpha}
    assert indices == levels


def test_only_the_trained_network_gets_a_gradient_from_matching():
    trained, pair = objective(**SETTINGS), images()
    trained.begin(3, lambda: nullcontext(trained.model))
    hr, lr = pair.hr.clone().requires_grad_(), pair.lr.clone().requires_grad_()
    y = trained.model.lr_up(lr.detach()).requires_grad_()
    result = trained.model.clean(hr.detach(), torch.tensor([0.2, 0.5]), lr.detach())
    third = torch.arange(4) / 3
    trained.matching(result, hr, y, lr, third, 0.5 * third).backward()
    assert hr.grad is None
    assert lr.grad is None
    assert y.grad is None
    assert trained.snapshot is not None
    assert all(parameter.grad is None for parameter in trained.snapshot.parameters())
    gradients = [parameter.grad for parameter in trained.model.parameters()]
    assert sum(one is not None and bool(one.any()) for one in gradients) > len(gradients) / 2


def test_the_snapshot_stays_without_dropout():
    trained = objective(DROPPING, **SETTINGS)
    assert trained.snapshot is not None
    assert not any(part.training for part in trained.snapshot.modules())
    x0, y, lr = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.randn(2, 3, 4, 4)
    t = torch.full((2,), 0.3)
    first, second = (trained.discrepancy(y, x0, y, lr, t, t, x0) for _ in range(2))
    assert torch.equal(first, second)


def training(trained: ConsistencyTrajectory, steps: int = 10) -> Training:
    adam = OptimizerConfig(lr=1e-2)
    config = TrainConfig(steps, 2, optimizers={"model": adam}, ema=0.9, precision="float32", seed=1)
    return Training(trained, config)


def test_the_snapshot_is_taken_of_the_average_and_then_of_the_raw_weights():
    """ct_steps 3, refresh every 4: taken before step 3 (average), and before 4 and 8 (raw)."""
    trained = objective(**SETTINGS)
    run = training(trained)
    assert trained.snapshot is not None
    for step in range(10):
        before, raw = weights(trained.snapshot), weights(trained.model)
        with run.shipped() as model:
            average = weights(model)
        log = run.advance([images(seed=step)])
        now = weights(trained.snapshot)
        assert ("model/dtm" in log) == (step >= 3)
        if step == 3:
            assert same(now, average)
            assert not same(now, raw)
        elif step in (4, 8):
            assert same(now, raw)
            assert not same(now, before)
        else:
            assert same(now, before)


def test_a_resumed_run_is_the_same_to_the_last_bit():
    """Also between two snapshots, where the one in use cannot be made again."""
    whole = training(objective(DROPPING, **SETTINGS))
    states = {}
    for step in range(10):
        states[step] = torch_copy(whole.state())
        whole.advance([images(seed=step)])
    for stopped in (2, 3, 6):
        resumed = training(objective(DROPPING, **SETTINGS))
        resumed.restore(states[stopped])
        for step in range(stopped, 10):
            resumed.advance([images(seed=step)])
        assert same(weights(whole.objective), weights(resumed.objective))
        with whole.shipped() as a, resumed.shipped() as b:
            assert same(weights(a), weights(b))


def torch_copy(value):
    """A deep copy of a state."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: torch_copy(one) for key, one in value.items()}
    return [torch_copy(one) for one in value] if isinstance(value, list) else value


def test_the_average_of_a_network_that_does_not_move():
    model = lively(MODEL)
    average = Ema(list(model.parameters()), 0.999)
    for _ in range(50):
        average.update()
    for shadow, parameter in zip(average.shadow, model.parameters(), strict=True):
        assert torch.allclose(shadow, parameter.detach(), rtol=1e-6)
