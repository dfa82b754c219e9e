"""OFTSR, stage 2: the losses of the student against formulas by hand, and what gradients must not reach."""

from dataclasses import replace

import pytest
import torch

from gaussian_toy import MU, SIGMA, START, ExactTeacher, exact_velocity, spread
from oftsr_parts import (
    GUIDED,
    SMALL,
    PerImage,
    asked,
    drawn,
    every,
    lively,
    mean_distance,
    pair,
    per_image,
    terms,
)
from onestep import checkpoint
from onestep.checkpoint import Card
from onestep.core.config import to_dict
from onestep.core.contract import Pair
from onestep.core.errors import InputError, UsageError
from onestep.methods.oftsr import DistilConfig, Distillation, StudentConfig, TeacherConfig
from onestep.methods.oftsr.objectives import distil_term
from onestep.recipe import OptimizerConfig, TrainConfig
from onestep.train import train_step
from onestep.train.state import make_optimizers

DROPPING = replace(GUIDED, dropout=0.5)


def distillation(network=SMALL, **settings):
    teacher = lively(TeacherConfig(network, scale=2).build(), 0)
    student = lively(StudentConfig(network, scale=2).build(), 1)
    return Distillation(DistilConfig(**settings), teacher, student)


def by_hand(objective, batch, kind="l1", solver="midpoint"):
    """The three terms of section 3.2, unweighted; also s, the start and the student's velocity at s."""
    student, teacher = objective.model.field, objective.teacher.field
    lr_up = student.lr_up(batch.lr)
    x0, uniform = drawn(objective, batch)
    t = 0.01 + 0.98 * uniform
    s = torch.minimum(t + 0.05, torch.ones(3))

    def v(field, x, time):
        return field.velocity(x, lr_up, batch.lr, time)

    v_t, v_s, dt = v(student, x0, t), v(student, x0, s), s - t
    x_t = x0 + per_image(t) * v_t
    k1 = v(teacher, x_t, t)
    slope = k1
    if solver != "euler":
        r = {"heun": 1, "midpoint": 0.5, "ralston": 2 / 3}[solver]
        k2 = v(teacher, x_t + per_image(r * dt) * k1, t + r * dt)
        slope = (1 - 1 / (2 * r)) * k1 + 1 / (2 * r) * k2
    target = per_image(t / s) * v_t + per_image(dt / s) * slope
    zero = torch.zeros(3)
    found = {
        "distil": mean_distance(kind, v_s, target),
        "align": mean_distance(kind, per_image(1 - t) * v_t, per_image(1 - t) * k1),
        "boundary": mean_distance(kind, v(student, x0, zero), v(teacher, x0, zero)),
    }
    return found, s, x0, v_s


@pytest.mark.parametrize("network", [SMALL, GUIDED], ids=["compact", "guided"])
@pytest.mark.parametrize("kind", ["l1", "l2"])
@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint", "ralston"])
def test_the_distillation_loss_is_the_formula(network, kind, solver):
    objective, batch = distillation(network, distance=kind, solver=solver), pair()
    expected, found = by_hand(objective, batch, kind, solver)[0], terms(objective, batch)
    assert found.keys() == expected.keys()
    for name, weight in {"distil": 1, "align": 0.01, "boundary": 0.1}.items():
        torch.testing.assert_close(found[name], weight * expected[name])


@pytest.mark.parametrize("variant", ["pinn", "boot"])
def test_the_ablations_replace_the_distillation_term_alone(variant):
    plain, found = terms(distillation()), terms(distillation(variant=variant))
    assert found["align"] == plain["align"]
    assert found["boundary"] == plain["boundary"]
    assert not torch.isclose(found["distil"], plain["distil"])


def test_weights_scale_their_terms():
    plain, heavy = terms(distillation()), terms(distillation(align=0.02, boundary=0.5))
    torch.testing.assert_close(heavy["distil"], plain["distil"])
    torch.testing.assert_close(heavy["align"], 2 * plain["align"])
    torch.testing.assert_close(heavy["boundary"], 5 * plain["boundary"])


def test_the_truth_enters_through_its_lr_image_alone():
    objective, batch = distillation(), pair()
    other = Pair(batch.lr, torch.zeros_like(batch.hr))
    assert terms(objective, batch) == terms(objective, other)


def test_the_perceptual_term_of_the_student_grows_with_the_square_of_time():
    objective, batch = distillation(), pair()
    objective.config, objective.perceptual = replace(objective.config, perceptual=0.7), PerImage()
    _, s, x0, v_s = by_hand(objective, batch)
    off = [(x0[i] + v_s[i] - batch.hr[i]).square().mean() for i in range(3)]
    expected = sum(0.7 * s[i] ** 2 * off[i] for i in range(3)) / 3
    torch.testing.assert_close(terms(objective, batch)["lpips"], expected)


def test_times_end_at_one(monkeypatch):
    """At t = 0.99 the step is cut to 0.01: for the student, the teacher's stages and the quotient alike."""
    objective = distillation()
    students, teachers = (asked(one.field, monkeypatch) for one in (objective.model, objective.teacher))
    monkeypatch.setattr(torch, "rand", every(1))
    terms(objective)
    assert [t[0].item() for _, t in students] == pytest.approx([0.99, 1, 0])
    assert [t[0].item() for _, t in teachers] == pytest.approx([0.99, 0.995, 0])
    monkeypatch.setattr(torch, "rand", every(0))
    terms(objective)
    assert [t[0].item() for _, t in students[3:]] == pytest.approx([0.01, 0.06, 0])
    assert [t[0].item() for _, t in teachers[3:]] == pytest.approx([0.01, 0.035, 0])


def test_the_end_of_time_is_an_option(monkeypatch):
    objective = distillation(clamp=False)
    students, teachers = (asked(one.field, monkeypatch) for one in (objective.model, objective.teacher))
    monkeypatch.setattr(torch, "rand", every(1))
    terms(objective)
    assert [t[0].item() for _, t in students] == pytest.approx([0.99, 1.04, 0])
    assert [t[0].item() for _, t in teachers] == pytest.approx([0.99, 1.015, 0])


def test_the_time_of_the_boundary_is_an_option(monkeypatch):
    objective, batch = distillation(boundary_time=0.25), pair()
    students, teachers = (asked(one.field, monkeypatch) for one in (objective.model, objective.teacher))
    found = terms(objective, batch)
    assert students[-1][1].tolist() == teachers[-1][1].tolist() == [0.25] * 3
    assert not torch.isclose(found["boundary"], terms(distillation(), batch)["boundary"])


def test_the_slope_of_the_align_term_is_an_option():
    batch, plain = pair(), terms(distillation())
    found = terms(distillation(align_slope="mean"), batch)
    same = terms(distillation(align_slope="mean", solver="euler"), batch)
    assert not torch.isclose(found["align"], plain["align"])
    torch.testing.assert_close(same["align"], plain["align"])
    assert found["distil"] == plain["distil"]


def test_the_student_never_sees_a_moved_state(monkeypatch):
    objective, batch = distillation(), pair()
    x0, _ = drawn(objective, batch)
    students, teachers = (asked(one.field, monkeypatch) for one in (objective.model, objective.teacher))
    terms(objective, batch)
    assert all(torch.equal(x, x0) for x, _ in students)
    assert [torch.equal(x, x0) for x, _ in teachers] == [False, False, True]
    assert not any(x.requires_grad for x, _ in teachers)


# --- Gradients -------------------------------------------------------------------------------------------


def leaves(seed=0):
    torch.manual_seed(seed)
    x0, v_t, v_s, first, mean = torch.randn(5, 4, 3, 2, 2)
    t = torch.rand(4, 1, 1, 1) * 0.9 + 0.01
    return x0, v_t, v_s, first, mean, t, t + 0.05


@pytest.mark.parametrize("variant", ["trajectory", "pinn", "boot"])
def test_what_the_gradient_of_distillation_reaches(variant):
    """v(s) alone; in PINN v(t) too, as in its equation."""
    x0, v_t, v_s, *rest = leaves()
    v_t.requires_grad_(), v_s.requires_grad_()
    distil_term(DistilConfig(variant=variant), x0, v_t, v_s, *rest).backward()
    assert v_s.grad.abs().min() > 0
    assert (v_t.grad is not None) == (variant == "pinn")


def test_the_teacher_is_frozen_and_the_student_moves():
    objective = distillation(DROPPING)
    assert not any(p.requires_grad for p in objective.teacher.parameters())
    before = {n: p.clone() for n, p in objective.named_parameters()}
    config = TrainConfig(steps=1, batch=3, optimizers={"model": OptimizerConfig()}, precision="float32")
    train_step(objective, make_optimizers(objective, config), [pair()], 0, config=config)
    after = dict(objective.named_parameters())
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"model"}
    assert not any(p.requires_grad or p.grad is not None for p in objective.teacher.parameters())
    assert {id(p) for p in objective.groups()["model"]} == {id(p) for p in objective.model.parameters()}


def test_the_teacher_stays_in_evaluation_mode():
    objective = distillation(DROPPING)
    for mode in (True, False):
        objective.train(mode)
        assert all(module.training is mode for module in objective.model.modules())
        assert not any(module.training for module in objective.teacher.modules())


# --- Identities of the loss ------------------------------------------------------------------------------


def test_the_loss_is_the_state_space_one_over_s_squared():
    x0, v_t, v_s, first, mean, t, s = leaves()
    found = distil_term(DistilConfig(distance="l2"), x0, v_t, v_s, first, mean, t, s)
    apart = (x0 + s * v_s) - (x0 + t * v_t + (s - t) * mean)
    torch.testing.assert_close(found, (apart / s).square().mean())


@pytest.mark.parametrize(("kind", "power"), [("l1", 1), ("l2", 2)])
def test_the_ablations_are_their_formulas(kind, power):
    """One pixel, numbers by hand: t = 0.4, s = 0.5, so lambda = 1 - 0.4 * 0.5 / (0.5 * 0.6) = 1/3."""
    x0, v_t, v_s, first, mean = (torch.tensor([[[[v]]]]) for v in (1.0, 0.5, 0.8, 2.0, 3.0))
    t, s = torch.tensor([[[[0.4]]]]), torch.tensor([[[[0.5]]]])

    def found(variant):
        config = DistilConfig(variant=variant, distance=kind)
        return distil_term(config, x0, v_t, v_s, first, mean, t, s).item()

    # PINN: (s / dt) (v_s - v_t) + v_t - first = 5 * 0.3 + 0.5 - 2 = 0
    assert found("pinn") == pytest.approx(0.0, abs=1e-6)
    # BOOT: x(s) = 1.8; x(t) = 1.5; x_teacher = 1 + 0.4 * 0.5 + 0.6 * 2 = 2.4; target 1.5 + 0.9 / 3 = 1.8
    assert found("boot") == pytest.approx(0.0, abs=1e-6)
    v_s += 0.2  # off by 0.2: times s / dt in PINN, over lambda in BOOT
    assert found("pinn") == pytest.approx(1.0, rel=1e-4)
    assert found("boot") == pytest.approx((0.2 * 3) ** power, rel=1e-4)
    # The mean of 0.5 over [0, 0.4] and 3.0 over [0.4, 0.5] is 1.0, what v(s) now is.
    assert found("trajectory") == pytest.approx(0.0, abs=1e-6)


def exact_residual(solver, dt, exact_slope=False):
    """How far, as a slope, the loss is from zero when the student is the exact mean velocity."""
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1, 1)
    x0 = START + SIGMA * noise
    t, s = 0.6, 0.6 + dt

    def state(time):
        return (1 - time) * START + time * MU + spread(time) * noise

    v_t, v_s = ((state(time) - x0) / time for time in (t, s))
    student = StudentConfig(SMALL, scale=1, sigma=SIGMA).build()
    objective = Distillation(DistilConfig(solver=solver), ExactTeacher(), student)
    times = torch.full((9,), t, dtype=torch.float64)
    first, mean = objective.slopes(state(t), x0, x0, times, torch.full_like(times, dt))
    torch.testing.assert_close(first, exact_velocity(state(t), times))
    if exact_slope:
        mean = (state(s) - state(t)) / dt
    args = x0, v_t, v_s, first, mean, per_image(times), per_image(times + dt)
    return distil_term(DistilConfig(distance="l2"), *args).sqrt().item() * s / dt


def test_the_exact_mean_velocity_has_no_loss():
    assert exact_residual("midpoint", 0.05, exact_slope=True) < 1e-12


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("ralston", 2), ("midpoint", 3)])
def test_what_is_left_is_the_error_of_the_solver(solver, order):
    """Euler's is O(dt), far above the others' O(dt^2); the midpoint rule is one order better on this flow."""
    coarse, fine = exact_residual(solver, 0.02), exact_residual(solver, 0.01)
    assert coarse / fine == pytest.approx(2**order, rel=0.05)
    assert (exact_residual("euler", 0.05) > 10 * exact_residual(solver, 0.05)) == (order > 1)


# --- Files -----------------------------------------------------------------------------------------------


def release(path, model, method="oftsr-teacher", config=None):
    card = Card("t", method, to_dict(config or model.config), {}, 1, "CC0-1.0", None, "0")
    checkpoint.write(path, model.state_dict(), card)
    return str(path)


def test_the_student_starts_as_its_teacher(tmp_path):
    model = lively(TeacherConfig(SMALL, scale=3, sigma=0.3, up="replicate", most_realistic=0.99).build(), 0)
    objective = DistilConfig(teacher=release(tmp_path / "t.safetensors", model)).build()
    for one in (objective.model, objective.teacher):
        assert {**to_dict(one.config)} == to_dict(model.config)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), model.parameters(), strict=True))
    pairs = zip(objective.model.parameters(), objective.teacher.parameters(), strict=True)
    assert not any(a.data_ptr() == b.data_ptr() for a, b in pairs)


def test_the_dropout_of_the_student_is_an_option(tmp_path):
    guided = release(tmp_path / "guided.safetensors", TeacherConfig(DROPPING, scale=2).build())
    kept, changed = DistilConfig(teacher=guided).build(), DistilConfig(teacher=guided, dropout=0.0).build()
    assert kept.model.config.network == kept.teacher.config.network == DROPPING
    assert changed.model.config.network == GUIDED
    assert changed.teacher.config.network == DROPPING
    assert torch.equal(changed.model.field.net.out[2].weight, changed.teacher.field.net.out[2].weight)
    compact = release(tmp_path / "compact.safetensors", TeacherConfig(SMALL, scale=2).build())
    with pytest.raises(UsageError, match="no dropout"):
        DistilConfig(teacher=compact, dropout=0.1).build()


@pytest.mark.parametrize(
    "settings", [{"dt": 0.0}, {"dt": 1.5}, {"t_range": (0.0, 0.9)}, {"t_range": (0.5, 0.5)}]
)
def test_times_that_cannot_train_are_refused(settings):
    (name,) = settings
    with pytest.raises(UsageError, match=rf"objective\.{name}="):
        DistilConfig(**settings)


def test_a_missing_or_wrong_teacher_is_explained(tmp_path):
    model = TeacherConfig(SMALL, scale=2).build()
    with pytest.raises(UsageError, match=r"needs a teacher: --set objective\.teacher=FILE"):
        DistilConfig().build()
    with pytest.raises(InputError, match="no such file"):
        DistilConfig(teacher=str(tmp_path / "none.safetensors")).build()
    wrong = release(tmp_path / "student.safetensors", model, "oftsr")
    with pytest.raises(UsageError, match=r"holds the method 'oftsr'.*'oftsr-teacher' is needed"):
        DistilConfig(teacher=wrong).build()
    misfit = release(tmp_path / "misfit.safetensors", model, config=TeacherConfig(SMALL, scale=3))
    with pytest.raises(InputError, match="does not fit the model"):
        DistilConfig(teacher=misfit).build()
