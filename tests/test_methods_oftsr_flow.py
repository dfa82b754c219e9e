"""OFTSR, stage 1: the loss of the teacher against its formula, its line, target and times."""

from dataclasses import replace

import pytest
import torch

from oftsr_parts import SMALL, PerImage, asked, drawn, every, lively, mean_distance, pair, per_image, terms
from onestep.core.contract import Pair
from onestep.methods.oftsr import FlowConfig, FlowMatching, TeacherConfig
from onestep.methods.oftsr.model import EPS


def flow_objective(**settings):
    config = FlowConfig(TeacherConfig(SMALL, scale=2), **settings)
    return FlowMatching(config, lively(config.model.build(), 0))


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_flow_loss_is_the_formula(kind):
    objective, batch = flow_objective(distance=kind), pair()
    x0, uniform = drawn(objective, batch)
    t = EPS + (1 - EPS) * uniform
    x_t = (1 - per_image(t)) * x0 + per_image(t) * batch.hr
    v = objective.model.field.velocity(x_t, objective.model.field.lr_up(batch.lr), batch.lr, t)
    expected = mean_distance(kind, v, batch.hr - x0)
    found = terms(objective, batch)
    assert list(found) == ["flow"]
    torch.testing.assert_close(found["flow"], expected)


def test_the_line_runs_from_the_start_to_the_truth(monkeypatch):
    objective, batch = flow_objective(), pair()
    x0, _ = drawn(objective, batch)
    calls = asked(objective.model.field, monkeypatch)
    for end in (0, 1):
        monkeypatch.setattr(torch, "rand", every(end))
        terms(objective, batch)
    (first, least), (last, largest) = calls
    torch.testing.assert_close(first, x0 + EPS * (batch.hr - x0))
    assert torch.equal(last, batch.hr)
    assert least.tolist() == pytest.approx([EPS] * 3)
    assert largest.tolist() == [1] * 3


def test_the_target_does_not_depend_on_the_time(monkeypatch):
    """A silent network is off by the same at either end: the whole of x1 - x0."""
    objective, batch = flow_objective(), pair()
    x0, _ = drawn(objective, batch)
    monkeypatch.setattr(objective.model.field, "finish", lambda prepared, t: torch.zeros_like(batch.hr))
    for end in (0, 1):
        monkeypatch.setattr(torch, "rand", every(end))
        torch.testing.assert_close(terms(objective, batch)["flow"], (batch.hr - x0).abs().mean())


def test_times_are_uniform(monkeypatch):
    objective = flow_objective()
    objective.model.field.finish = lambda prepared, t: calls.append(t) or torch.zeros(())
    calls = []
    terms(objective, Pair(torch.zeros(4000, 3, 1, 1), torch.zeros(4000, 3, 2, 2)))
    t = calls[0]
    assert t.min() >= EPS
    assert t.max() <= 1
    counts = torch.histc(t, 4, 0, 1) / 4000
    assert counts.tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_the_perceptual_term_of_the_teacher_grows_with_time():
    objective, batch = flow_objective(), pair()
    objective.config, objective.perceptual = replace(objective.config, perceptual=0.3), PerImage()
    x0, uniform = drawn(objective, batch)
    t = EPS + (1 - EPS) * uniform
    x_t = (1 - per_image(t)) * x0 + per_image(t) * batch.hr
    v = objective.model.field.velocity(x_t, objective.model.field.lr_up(batch.lr), batch.lr, t)
    clean = x_t + (1 - per_image(t)) * v
    expected = sum(0.3 * t[i] * (clean[i] - batch.hr[i]).square().mean() for i in range(3)) / 3
    torch.testing.assert_close(terms(objective, batch)["lpips"], expected)
