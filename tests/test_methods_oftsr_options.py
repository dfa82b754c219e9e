"""What the paper leaves open and is an option here: the gradient of the align term, the network behind SG."""

import copy
from contextlib import nullcontext

import pytest
import torch

from oftsr_parts import SMALL, asked, drawn, lively, mean_distance, pair, per_image, terms
from onestep.core.errors import UsageError
from onestep.methods.oftsr import DistilConfig, Distillation, Student, StudentConfig, Teacher, TeacherConfig
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train.state import Training

TRAIN = TrainConfig(steps=3, batch=3, optimizers={"model": OptimizerConfig(lr=1e-2)}, precision="float32")


def distillation(**settings):
    torch.manual_seed(0)
    teacher = lively(Teacher(TeacherConfig(SMALL, scale=2, sigma=0.4)), 1)
    student = lively(Student(StudentConfig(SMALL, scale=2, sigma=0.4)), 2)
    return Distillation(DistilConfig(**settings), teacher, student).train()


def gradient(objective, term):
    loss = terms(objective)[term]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(objective.model.parameters()))])


def test_the_align_gradient_may_go_through_the_teacher():
    plain, through = distillation(), distillation(align_gradient=True)
    for name, value in terms(plain).items():
        torch.testing.assert_close(terms(through)[name], value)
    torch.testing.assert_close(gradient(through, "distil"), gradient(plain, "distil"))
    assert not torch.allclose(gradient(through, "align"), gradient(plain, "align"))
    assert all(p.grad is None for p in through.teacher.parameters())


def test_the_gradient_through_the_teacher_is_that_of_the_formula():
    objective, batch = distillation(align_gradient=True, distance="l2"), pair()
    x0, u = drawn(objective, batch)
    t = per_image(0.01 + 0.98 * u)
    lr_up = objective.model.field.lr_up(batch.lr)
    v = objective.model.field.velocity(x0, lr_up, batch.lr, t.flatten())
    k1 = objective.teacher.field.velocity(x0 + t * v, lr_up, batch.lr, t.flatten())
    loss = 0.01 * mean_distance("l2", (1 - t) * v, (1 - t) * k1)
    wanted = torch.autograd.grad(loss, list(objective.model.parameters()))
    torch.testing.assert_close(gradient(objective, "align"), torch.cat([g.flatten() for g in wanted]))


def test_an_average_may_stand_behind_the_stopped_gradient(monkeypatch):
    """A fresh average is the student; a moved one gives v(t) and X(t) of the target, and nothing else."""
    batch = pair()
    online, slow = distillation(), distillation(target="average")
    for name, value in terms(online, batch).items():
        torch.testing.assert_close(terms(slow, batch)[name], value)
    lively(slow.average, 7)
    moved = terms(slow, batch)
    assert not torch.isclose(moved["distil"], terms(online, batch)["distil"])
    torch.testing.assert_close(moved["align"], terms(online, batch)["align"])
    torch.testing.assert_close(moved["boundary"], terms(online, batch)["boundary"])
    x0, u = drawn(slow, batch)
    t = 0.01 + 0.98 * u
    held = slow.average.field.velocity(x0, slow.model.field.lr_up(batch.lr), batch.lr, t)
    seen = asked(slow.teacher.field, monkeypatch)
    terms(slow, batch)
    torch.testing.assert_close(seen[0][0], x0 + per_image(t) * held)


def test_the_average_follows_once_a_step():
    objective = distillation(target="average", target_decay=0.75)
    start = copy.deepcopy(list(objective.average.parameters()))
    lively(objective.model, 9)
    objective.begin(1, lambda: nullcontext(objective.model))
    for old, slow, live in zip(
        start, objective.average.parameters(), objective.model.parameters(), strict=True
    ):
        torch.testing.assert_close(slow, 0.75 * old + 0.25 * live)


def test_a_resumed_average_goes_on_where_it_was():
    def trained(steps, state=None):
        training = Training(distillation(target="average", target_decay=0.5), TRAIN)
        if state is not None:
            training.restore(state)
        for _ in range(steps):
            training.advance([pair()])
        return training

    whole, half = trained(3), trained(2)
    resumed = trained(1, half.state())
    for one, other in zip(whole.objective.parameters(), resumed.objective.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not any(p.requires_grad for p in resumed.objective.average.parameters())


def test_without_a_stopped_gradient_there_is_no_target():
    with pytest.raises(UsageError, match="pinn stops no gradient"):
        DistilConfig(variant="pinn", target="average")
    with pytest.raises(UsageError, match=r"target_decay=1: must be"):
        DistilConfig(target="average", target_decay=1.0)
