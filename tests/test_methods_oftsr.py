"""OFTSR, the models: what enters the network, one step, knobs, sweeps, the teacher's integration."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from oftsr_parts import GUIDED, SMALL, lively
from onestep.core.config import to_dict
from onestep.core.errors import UsageError
from onestep.core.interpolant import Straight
from onestep.core.solver import RATIOS, rk2
from onestep.methods import build
from onestep.methods.oftsr import OftsrConfig, Student, StudentConfig, Teacher, TeacherConfig
from onestep.methods.oftsr.model import EPS, FlowField
from onestep.networks.compact import CompactConfig
from onestep.networks.unet import UNetConfig


class Recorder(nn.Module):
    """In place of the guided network: answers its six channels' numbers, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = []

    def forward(self, inputs, time):
        self.asked.append((inputs, time))
        return torch.arange(6.0).reshape(1, 6, 1, 1).expand(len(inputs), -1, *inputs.shape[-2:])


def student(network=SMALL, **settings) -> Student:
    return lively(StudentConfig(network, **settings).build()).eval()


def teacher(network=SMALL, **settings) -> Teacher:
    return lively(TeacherConfig(network, **settings).build()).eval()


def recorded(model):
    model.field.net = Recorder()
    return model.field.net


def data(scale=4, batch=2, height=5, width=6):
    generator = torch.Generator().manual_seed(1)
    lr = torch.rand(batch, 3, height, width, generator=generator) * 2 - 1
    return lr, torch.randn(batch, 3, height * scale, width * scale, generator=generator)


@torch.no_grad()
def run(model, lr, noise, **options):
    return model(lr, noise, model.condition(lr, model.Options(**options)))


# --- What enters the network -----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.2, 1.0])
def test_the_start_keeps_the_variance(sigma):
    field = FlowField(OftsrConfig(SMALL, sigma=sigma))
    torch.manual_seed(0)
    lr_up, noise = torch.randn(2, 1, 3, 128, 128)
    start = field.start(lr_up, noise)
    assert start.var().item() == pytest.approx(1, abs=0.03)
    torch.testing.assert_close(start, (1 - sigma**2) ** 0.5 * lr_up + sigma * noise)


def test_the_network_sees_the_start_and_the_clean_condition():
    model = student(sigma=0.5)
    network, (lr, noise) = recorded(model), data()
    run(model, lr, noise, realism=0.3)
    inputs, time = network.asked[0]
    lr_up = model.field.lr_up(lr)
    torch.testing.assert_close(inputs[:, :3], 0.75**0.5 * lr_up + 0.5 * noise)
    assert torch.equal(inputs[:, 3:], lr_up)
    torch.testing.assert_close(time, torch.full((2,), 999 * 0.3))


def test_the_compact_network_sees_the_clean_condition_too():
    seen = []
    model, (lr, noise) = student(), data()
    model.field.net.prepare = lambda x, lr_up, small: seen.append((x, lr_up, small)) or torch.zeros(1)
    model.field.net.finish = lambda prepared, time: seen.append(time) or torch.zeros(1)
    run(model, lr, noise, realism=0.3)
    (x, lr_up, small), time = seen
    torch.testing.assert_close(x, 0.96**0.5 * lr_up + 0.2 * noise)
    assert torch.equal(lr_up, model.field.lr_up(lr))
    assert small is lr
    torch.testing.assert_close(time, torch.full((2, 1, 1, 1), 999 * 0.3))


def test_the_velocity_is_the_first_three_of_six_channels():
    model = student()
    recorded(model)
    lr, noise = data()
    velocity = model.field.velocity(noise, model.field.lr_up(lr), lr, torch.tensor([0.1, 0.9]))
    assert velocity.mean((0, 2, 3)).tolist() == [0, 1, 2]
    assert velocity.shape == noise.shape


def test_bicubic_upsampling_is_the_antialiased_one():
    field = FlowField(OftsrConfig(SMALL))
    impulse = torch.zeros(1, 3, 9, 9)
    impulse[..., 4, 4] = 1
    assert field.lr_up(impulse).max().item() == pytest.approx(0.9290, abs=1e-4)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_replication_is_undone_by_average_pooling(scale):
    field = FlowField(OftsrConfig(SMALL, scale=scale, up="replicate"))
    lr, _ = data(scale)
    torch.testing.assert_close(F.avg_pool2d(field.lr_up(lr), scale), lr)


# --- Time ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [SMALL, GUIDED], ids=["compact", "guided"])
def test_both_conventions_of_time_give_the_same_clean_estimate(network):
    field = teacher(network).field
    lr, x = data(height=4, width=4)
    lr_up = field.lr_up(lr)
    t = torch.tensor([0.25, 0.875])
    with torch.no_grad():
        papers = x + (1 - t.reshape(-1, 1, 1, 1)) * field.velocity(x, lr_up, lr, t)
        ours = Straight().clean(x, field.house_velocity(x, lr, 1 - t), 1 - t)
        other = Straight().clean(x, field.house_velocity(x, lr, t), t)
    torch.testing.assert_close(ours, papers)
    assert (other - papers).abs().max() > 1e-2


def test_the_guided_network_takes_one_time_per_picture():
    field = student(GUIDED).field
    lr, x = data(height=4, width=4)
    prepared = field.prepare(x, field.lr_up(lr), lr)
    with torch.no_grad():
        flat = field.finish(prepared, torch.tensor([0.2, 0.2]))
        torch.testing.assert_close(field.finish(prepared, torch.full((2, 1, 1, 1), 0.2)), flat)
        torch.testing.assert_close(field.finish(prepared, torch.full((1,), 0.2)), flat)
    with pytest.raises(UsageError, match="one realism per picture, not a map"):
        field.finish(prepared, torch.full((2, 1, 4, 4), 0.2))


# --- The student -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("realism", [0.0, 0.5, 1.0])
def test_one_step_adds_the_whole_velocity(realism):
    """The factor is 1 - eps for every t, not 1 - t; nothing is clipped."""
    model, (lr, noise) = student(), data()
    recorded(model)
    x0 = model.field.start(model.field.lr_up(lr), noise)
    out = run(model, lr, noise, realism=realism)
    assert EPS == 0.001
    torch.testing.assert_close(out - x0, (0.999 * torch.arange(3.0)).reshape(1, 3, 1, 1).expand_as(out))
    assert out.max() > 1.5


@pytest.mark.parametrize("most_realistic", [1.0, 0.99])
def test_realism_is_the_time_of_the_student(most_realistic):
    model, (lr, _) = student(most_realistic=most_realistic), data(batch=3)

    def times(realism):
        return model.condition(lr, model.Options(realism=realism))["t"]

    torch.testing.assert_close(times(1.0), torch.full((3, 1, 1, 1), most_realistic))
    each = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(times(each), (each * most_realistic).reshape(3, 1, 1, 1))
    chart = torch.rand(3, 1, 5, 6)
    torch.testing.assert_close(times(chart), chart * most_realistic)
    torch.testing.assert_close(model.condition(lr, model.Options())["t"], times(1.0))


def test_a_flat_map_of_realism_is_a_number():
    model, (lr, noise) = student(), data()
    chart = torch.full((2, 1, 5, 6), 0.4)
    torch.testing.assert_close(run(model, lr, noise, realism=chart), run(model, lr, noise, realism=0.4))
    assert not torch.allclose(run(model, lr, noise, realism=0.6), run(model, lr, noise, realism=0.4))


@pytest.mark.parametrize("network", [SMALL, GUIDED], ids=["compact", "guided"])
def test_a_sweep_equals_single_calls(network):
    model, (lr, noise) = student(network), data(height=4, width=4)
    values = (0.0, 0.3, 1.0)
    conditions = [model.condition(lr, model.Options(realism=value)) for value in values]
    with torch.no_grad():
        swept = list(model.sweep(lr, noise, conditions))
    assert torch.equal(
        torch.stack(swept), torch.stack([run(model, lr, noise, realism=value) for value in values])
    )


def test_a_sweep_runs_the_trunk_once():
    model, (lr, noise) = student(CompactConfig(width=8, trunk=2, head=3, time_width=8)), data()
    calls = {"trunk": 0, "head": 0}
    for part in calls:
        for block in getattr(model.field.net, part):
            block.register_forward_hook(lambda *_, part=part: calls.update({part: calls[part] + 1}))
    conditions = (model.condition(lr, model.Options(realism=r)) for r in (0.0, 0.2, 0.5, 0.8, 1.0))
    assert len(list(model.sweep(lr, noise, conditions))) == 5
    assert calls == {"trunk": 2, "head": 15}


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_scale_restores_batches_image_by_image(scale):
    model, (lr, noise) = student(scale=scale), data(scale)
    assert model.noise_shape(lr.shape) == noise.shape
    both = run(model, lr, noise)
    assert both.shape == (2, 3, 5 * scale, 6 * scale)
    assert torch.equal(both, run(model, lr, noise))
    torch.testing.assert_close(both[1:], run(model, lr[1:], noise[1:]))
    assert (both - run(model, lr, noise.flip(0))).abs().max() > 0.01


def test_autocast_stays_close():
    model, (lr, noise) = student(), data()
    exact = run(model, lr, noise, realism=0.7)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(model, lr, noise, realism=0.7)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).abs().max() < 0.02


# --- The teacher -----------------------------------------------------------------------------------------


def test_the_teacher_starts_at_eps_and_ends_at_one():
    model, (lr, noise) = teacher(), data()
    network = recorded(model)
    run(model, lr, noise, evaluations=8, solver="midpoint")
    step = (1 - EPS) / 4
    expected = [EPS + i * step / 2 for i in range(8)]
    assert [time[0].item() / 999 for _, time in network.asked] == pytest.approx(expected)
    first = network.asked[0][0]
    lr_up = model.field.lr_up(lr)
    torch.testing.assert_close(first[:, :3], model.field.start(lr_up, noise))
    assert all(torch.equal(inputs[:, 3:], lr_up) for inputs, _ in network.asked)


@pytest.mark.parametrize("solver", RATIOS)
def test_the_teacher_integrates_its_field(solver):
    model, (lr, noise) = teacher(), data()
    lr_up = model.field.lr_up(lr)

    @torch.no_grad()
    def velocity(x, t):
        return model.field.velocity(x, lr_up, lr, torch.full((2,), t))

    expected = rk2(velocity, model.field.start(lr_up, noise), EPS, 1, 3, RATIOS[solver]).x
    torch.testing.assert_close(run(model, lr, noise, evaluations=6, solver=solver), expected)


def test_solvers_agree_when_they_are_fine():
    model, (lr, noise) = teacher(), data(height=3, width=3)
    with torch.no_grad():  # a field that changes smoothly: without the fastest features
        model.field.net.time[0].weight[:, [0, 1, 4, 5]] = 0
    fine = run(model, lr, noise, evaluations=200, solver="midpoint")
    torch.testing.assert_close(run(model, lr, noise, solver="rk45"), fine, atol=5e-3, rtol=0)
    torch.testing.assert_close(
        run(model, lr, noise, evaluations=400, solver="euler"), fine, atol=2e-2, rtol=0
    )


def test_too_few_evaluations_are_refused():
    model, (lr, noise) = teacher(), data()
    with pytest.raises(UsageError, match="evaluations 1 is too few"):
        run(model, lr, noise, evaluations=1)


def test_the_teacher_says_how_often_it_evaluated(caplog):
    model, (lr, noise) = teacher(), data()
    with caplog.at_level("INFO", logger="onestep"):
        run(model, lr, noise, evaluations=7, solver="heun")
    assert caplog.messages == ["heun: 6 network evaluations"]


# --- Files and traits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [SMALL, GUIDED], ids=["compact", "guided"])
@pytest.mark.parametrize(("method", "kind"), [("oftsr", StudentConfig), ("oftsr-teacher", TeacherConfig)])
def test_the_config_of_a_card_builds_the_same_model(method, kind, network):
    config = kind(network, scale=4, sigma=0.5, up="replicate", most_realistic=0.99)
    model = build(method, to_dict(config))
    assert model.config == config
    assert model.state_dict().keys() == config.build().state_dict().keys()


def test_teacher_and_student_name_their_weights_alike():
    assert student().state_dict().keys() == teacher().state_dict().keys()


def test_traits_of_the_compact_network():
    for scale in (2, 3, 4):
        traits = StudentConfig(scale=scale).build().traits
        assert traits.scale == scale
        assert traits.multiple_of == 1
        assert traits.half
        assert 2 * (8 + 4) + 2 < traits.overlap < traits.tile // 2


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_traits_of_the_guided_network_fit_its_sides(scale):
    """HR sides are multiples of 32 and at least 256, the size whose attention it was trained with."""
    with torch.device("meta"):
        traits = StudentConfig(UNetConfig.ffhq(), scale=scale).build().traits
    assert traits.multiple_of == {2: 16, 3: 32, 4: 8}[scale]
    assert -(-traits.minimum // traits.multiple_of) * traits.multiple_of * scale >= 256
    assert not traits.half


@pytest.mark.parametrize(
    "settings",
    [{"sigma": -0.1}, {"sigma": 1.5}, {"scale": 0}, {"most_realistic": 0.0}, {"most_realistic": 1.01}],
)
def test_settings_without_meaning_are_refused(settings):
    (name,) = settings
    with pytest.raises(UsageError, match=f"{name}="):
        build("oftsr", settings)
